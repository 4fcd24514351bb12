"""Rows read ahead from disk: the bits of the rows in memory, whatever happens in between."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
from jaxvae.batching import unpack
from jaxvae.keys import example_keys
from jaxvae.runs import TrainConfig
from jaxvae.runs import train as train_runs
from jaxvae.runs.config import build
from jaxvae.training import InMemory, Metrics, Streamed, TrainState, loop, make_feed, streamed
from tests.support.refusals import refused

ROWS, VALID = 41, 7
ROW_BYTES = 3 + 4 + 3 + 4 + 8  # x, label, mask, weight, factors
TOTAL = 60


class Mean(NamedTuple):
    """A model of a few floats."""

    mean: Any


def step(state, batch):
    """A step that every entry of a batch has a part in, and whose order matters."""
    rows = unpack(batch)
    assert rows.label is not None
    keys = example_keys(state.key, state.step, rows.index)
    noise = jax.vmap(lambda key: jax.random.normal(key, rows.x.shape[1:]))(keys)
    error = (rows.x + 0.1 * noise - state.model.mean[None]) * rows.mask
    slope = jnp.einsum("b,bd->d", rows.weight * (1 + rows.label).astype(jnp.float32), error)
    model = Mean(state.model.mean + 0.01 * slope)
    metrics = Metrics.of({"loss": jnp.sum(error**2, 1)}, rows.weight)
    return TrainState(model, state.opt_state, state.key, state.step + 1, state.running), metrics


def start(seed=0):
    return jv.training.init(jax.random.key(seed), Mean(jnp.zeros(3)), optax.identity())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grey levels with labels, masks and weights."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("rows")
    count = ROWS + VALID
    np.save(folder / "x_train.npy", rng.integers(0, 256, (count, 3), dtype=np.uint8))
    np.save(folder / "y_train.npy", rng.integers(0, 4, count))
    np.save(folder / "mask_train.npy", rng.random((count, 3)) < 0.8)
    np.save(folder / "weight_train.npy", rng.random(count) + 0.1)
    np.save(folder / "factors_train.npy", rng.integers(0, 2, (count, 2)))
    for name in ("x", "y", "mask", "weight", "factors"):
        np.save(folder / f"{name}_test.npy", np.load(folder / f"{name}_train.npy")[:5])
    return folder


@cache
def load(folder, stream=True):
    return jv.data.load(folder, valid_size=VALID, binarize="dynamic", stream=stream)


def bits(tree):
    """Every leaf as bytes, the keys as their data."""
    leaves = jax.tree.leaves(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()
        for leaf, is_key in zip(leaves, keys, strict=True)
    ]


def train(feed, state=None, **options):
    options = {"total_steps": TOTAL, "eval_every_steps": 25} | options
    stages = loop.stages(start() if state is None else state, feed, **options)
    return [(int(s.state.step), bits(s.state), bits(s.metrics)) for s in stages]


@cache
def expected(folder, batch_size=4):
    return train(InMemory(step, load(folder, stream=False), batch_size=batch_size))


def feed_of(folder, *, batch_size=4, chunk_steps=7, kind=Streamed):
    """Chunks of 7 steps lie across the epochs of 10 steps of 4 of 41 rows."""
    chunk_bytes = chunk_steps * batch_size * ROW_BYTES
    return kind(step, load(folder), batch_size=batch_size, chunk_bytes=chunk_bytes)


def stopped_at(feed, stop, state=None):
    """The state at a step, as a checkpoint would have it."""
    state, metrics = jax.tree.map(jnp.copy, (start() if state is None else state,) * 2)
    metrics = feed.no_metrics(state)
    while (now := int(state.step)) < stop:
        state, metrics = feed.run(state, metrics, now, min(stop - now, feed.longest(now)))
    return state, metrics


# The same bits as in memory.


FAST, REST = [(4, 7), (1, 64), (41, 3)], [(4, 1), (4, 10), (40, 2), (13, 1000)]


@pytest.mark.parametrize(
    ("batch_size", "chunk_steps"),
    [*FAST, *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in REST)],
)
def test_the_bits_are_those_of_the_rows_in_memory(folder, batch_size, chunk_steps):
    with feed_of(folder, batch_size=batch_size, chunk_steps=chunk_steps) as feed:
        assert feed.longest(0) == min(chunk_steps, streamed.CHUNK_STEPS)
        assert train(feed) == expected(folder, batch_size)


@pytest.mark.parametrize(("block_steps", "chunk_steps", "held"), [(5, 12, 10), (10, 3, 2)])
def test_blocks_of_steps_change_nothing(folder, block_steps, chunk_steps, held):
    """A chunk holds whole blocks; where it has no room for one, blocks are cut."""
    options = {"total_steps": 50, "eval_every_steps": 50}
    chunk_bytes = chunk_steps * 4 * ROW_BYTES
    with Streamed(
        step, load(folder), batch_size=4, block_steps=block_steps, chunk_bytes=chunk_bytes
    ) as feed:
        assert feed.longest(0) == held
        assert held % feed.block_steps == 0
        in_memory = InMemory(step, load(folder, stream=False), batch_size=4)
        assert train(feed, **options) == train(in_memory, **options)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_how_steps_are_dealt_out_changes_nothing(folder, seconds, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_A_DISPATCH", seconds)
    with feed_of(folder) as feed:
        assert train(feed) == expected(folder)


@pytest.mark.slow
def test_a_vae_trains_to_the_same_bits(folder):
    optimizer = optax.adam(1e-3)
    model = jv.models.vae(jax.random.key(0), (3,), latent_dim=2, hidden=(8,))
    vae_step = jv.training.make_step(jv.elbo, optimizer)
    found = []
    for stream in (False, True):
        feed = make_feed(vae_step, load(folder, stream), batch_size=4)
        assert isinstance(feed, Streamed if stream else InMemory)
        state = jv.training.init(jax.random.key(1), model, optimizer)
        found.append(train(feed, state))
    assert found[0] == found[1]


def check_resumes(kind, folder):
    """From within a chunk, at its end, and within and at the end of an epoch."""
    for stop in (3, 7, 10, 33):
        with feed_of(folder, kind=kind) as feed:
            state, metrics = stopped_at(feed, stop)
        with feed_of(folder, kind=kind) as feed:
            gathered = metrics if stop < 25 else None
            last = train(feed, state, gathered=gathered)[-1]
        assert last[:2] == expected(folder)[-1][:2], f"from step {stop}"


def test_a_resumed_run_reads_on_where_it_stopped(folder):
    check_resumes(Streamed, folder)


class FromTheStartOfTheChunk(Streamed):
    """A twin that gives a resumed run the first batch of its chunk."""

    def _chunk_of(self, state, step):
        fresh = step != self._next
        chunk = super()._chunk_of(state, step)
        if fresh:
            chunk = {name: jnp.roll(a, step % self._steps, 0) for name, a in chunk.items()}
            self._chunk = step // self._steps, chunk
        return chunk


class FirstEpochAgain(Streamed):
    """A twin that starts a resumed run in the order of the first epoch."""

    def _opened(self, key, number):
        return super()._opened(key, number % 1)


@pytest.mark.parametrize("twin", [FromTheStartOfTheChunk, FirstEpochAgain])
def test_check_of_resuming_rejects(twin, folder):
    with pytest.raises(AssertionError, match="from step"):
        check_resumes(twin, folder)


def test_one_feed_serves_runs_of_other_keys_and_steps(folder):
    with feed_of(folder) as feed:
        assert train(feed) == expected(folder)
        other = train(feed, start(1))
        assert other == train(InMemory(step, load(folder, False), batch_size=4), start(1))
        assert other != expected(folder)
        state, _ = stopped_at(feed, 33)
        stopped_at(feed, 5)
        assert train(feed, state)[-1][:2] == expected(folder)[-1][:2]


def check_order(batches):
    """Every epoch has each row at most once, in another order than the one before."""
    epochs = [np.concatenate([batches(10 * e + i) for i in range(10)]) for e in range(3)]
    for rows in epochs:
        assert len(set(rows)) == 40
    assert not np.array_equal(epochs[0], epochs[1])
    assert set(epochs[0]) != set(epochs[1]) or set(epochs[1]) != set(epochs[2])


def test_orders_of_epochs():
    check_order(streamed.Batches(jax.random.key(0), ROWS, 4))
    state, seen = streamed.Batches(jax.random.key(0), ROWS, 4), []
    for step_ in range(0, 200, 3):
        state(step_)
        seen.append(len(state._orders))
    assert max(seen) <= 2
    with pytest.raises(AssertionError):
        check_order(lambda t: streamed.Batches(jax.random.key(0), ROWS, 4)(t % 10))


# Reading ahead, and no further; stopping.


class Counted:
    """A split on disk that counts what is read, and does as it is told."""

    def __init__(self, split, before=lambda calls: None):
        self.split, self.calls, self.before = split, 0, before
        self.rows = []

    def __getattr__(self, name):
        return getattr(self.split, name)

    def __getitem__(self, name):
        return self.split[name]

    def read(self, rows):
        self.calls += 1
        self.rows.append(rows)
        self.before(self.calls)
        return self.split.read(rows)


class Data:
    def __init__(self, dataset, train):
        self.splits, self.observe = {**dataset.splits, "train": train}, dataset.observe


def counted(folder, before=lambda calls: None, kind=Streamed):
    split = Counted(load(folder).splits["train"], before)
    dataset: Any = Data(load(folder), split)
    feed = kind(step, dataset, batch_size=4, chunk_bytes=7 * 4 * ROW_BYTES)
    return feed, split


def wait_for(condition):
    """Let other threads go on until a condition holds, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def reading():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def test_two_chunks_are_read_ahead_and_no_more(folder):
    feed, split = counted(folder)
    with feed:
        state, metrics = stopped_at(feed, 3)
        wait_for(lambda: split.calls >= 3)
        time.sleep(0.1)
        assert split.calls == 3
        batches = streamed.Batches(state.key, ROWS, 4)
        found = sorted(np.concatenate(split.rows))
        assert found == sorted(np.concatenate([batches(t) for t in range(21)]))
        feed.run(state, metrics, 3, 4)
        time.sleep(0.1)
        assert split.calls == 3, "the rest of a chunk needs nothing"


def test_threads_end_when_a_feed_is_closed_or_dropped(folder):
    feed, _ = counted(folder)
    with feed:
        stopped_at(feed, 3)
        assert reading()
    wait_for(lambda: not reading())
    stopped_at(feed, 3)
    assert reading()
    del feed
    gc.collect()
    wait_for(lambda: not reading())


def test_a_reader_that_fails_ends_in_one_line_and_may_be_used_again(folder):
    broken = {"now": True}

    def fail(calls):
        if broken["now"] and calls > 2:
            raise jv.types.InputError("x.npy: row 12 is gone")

    feed, _ = counted(folder, fail)
    with refused("x.npy: row 12 is gone"):
        train(feed)
    wait_for(lambda: not reading())
    broken["now"] = False
    assert train(feed) == expected(folder)
    feed.close()


def test_other_errors_of_a_reader_come_through(folder):
    def fail(calls):
        raise OSError("the disk is gone")

    feed, _ = counted(folder, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        train(feed)
    wait_for(lambda: not reading())


def test_an_interrupt_while_waiting(folder):
    gate, waits = threading.Event(), threading.Event()

    class Watched(Streamed):
        def _chunk_of(self, state, step):
            if step == 21:
                waits.set()
            return super()._chunk_of(state, step)

    feed, _ = counted(folder, lambda calls: gate.wait(120) if calls > 3 else None, kind=Watched)

    def interrupt():
        waits.wait(120)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train(feed)
    assert not gate.is_set()
    thread.join()
    gate.set()
    wait_for(lambda: not reading())
    assert train(feed) == expected(folder)
    feed.close()


# What is refused.


def test_sizes(folder):
    for size, words in ((42, "at most 41"), (0, "at least 1")):
        with refused("batch_size", words):
            make_feed(step, load(folder), batch_size=size)
    with refused("chunk_bytes", "at least 1"):
        Streamed(step, load(folder), batch_size=4, chunk_bytes=0)
    with refused("mesh", "axis 'data'"):
        mesh = jax.make_mesh((1,), ("rows",))
        make_feed(step, load(folder), batch_size=4, mesh=mesh)


def test_all_rows_in_memory(folder):
    with refused("stream", "stays on disk"):
        InMemory(step, load(folder), batch_size=4)
    with refused("stream", "x of the training rows"):
        jv.training.observe_split(jax.random.key(0), load(folder), "train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": "em", "model": "ppca"}, "fit=em"),
        ({"model": "ssvae"}, "model=ssvae"),
        ({"binarize": "static"}, "binarize=static"),
        ({"drop_empty": True}, "drop_empty=True"),
        ({"data": "digits"}, "'digits'"),
    ],
)
def test_configurations(folder, options, words):
    with refused("stream", words):
        build(TrainConfig(**{"data": str(folder), "stream": True, **options}))


# Runs.


def config(folder, **options):
    sizes = {"latent_dim": 2, "hidden": (4,), "batch_size": 4, "total_steps": 30}
    return TrainConfig(
        data=str(folder),
        valid_size=VALID,
        test_num_samples=2,
        eval_every_steps=10,
        **sizes,
        **options,
    )


@pytest.mark.slow
def test_a_run_writes_the_numbers_of_a_run_in_memory(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_runs, "evaluate", lambda *_, **__: {})  # of the test split, in memory
    metrics = []
    for stream in (False, True):
        run = train_runs.train(config(folder, stream=stream), tmp_path / str(stream))
        lines = run.metrics()
        metrics.append(
            [{name: line[name] for name in ("step", "train", "valid")} for line in lines]
        )
    assert metrics[0] == metrics[1]
    assert "train stays on disk" in run.read("data.json")["source"]
    parts, _, _ = train_runs.load_model(run)
    assert isinstance(parts.dataset.splits["train"], streamed.OnDisk)
    assert not reading()


def test_models_that_start_from_data_see_evenly_spaced_rows(folder, monkeypatch):
    def linear(stream):
        sizes = {"latent_dim": 2, "batch_size": 4, "valid_size": VALID}
        return bits(
            build(TrainConfig(data=str(folder), stream=stream, model="ppca", **sizes)).model
        )

    assert linear(True) == linear(False)
    monkeypatch.setattr("jaxvae.runs.models.ROWS_TO_START_FROM", 5)
    assert linear(True) != linear(False)


# Several devices.


@pytest.mark.slow
def test_on_eight_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.training.streamed_on_eight_devices"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
