import re
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jaxvae as jv
from jaxvae.batching import map_examples
from jaxvae.keys import OfRun, example_keys, stream_key
from jaxvae.training import InMemory, blocks, feeds, loop
from jaxvae.training.metrics import Metrics
from tests.support.refusals import refused


@dataclass
class Data:
    """What the loop asks of a data set; `observe` adds noise, so that its keys matter."""

    splits: dict[str, dict[str, np.ndarray]]
    noise: float = 0.1

    def observe(self, key, x):
        return jnp.asarray(x, jnp.float32) + self.noise * jax.random.normal(key, x.shape)


def data(rows=10, valid=7, noise=0.1):
    values = np.random.default_rng(0).normal(2.0, 1.0, size=(rows + valid, 3)).astype(np.float32)
    return Data({"train": {"x": values[:rows]}, "valid": {"x": values[rows:]}}, noise)


class Mean(NamedTuple):
    """A model of a few floats: the loop does not ask what it trains."""

    mean: Any


def objective(key, model, x):
    noise = jax.random.normal(key, x.shape)
    return -jnp.sum((x + 0.1 * noise - model.mean) ** 2)


OPTIMIZER = optax.adam(0.05)
STEP = jv.training.make_step(objective, OPTIMIZER)


def start(seed=0):
    return jv.training.init(jax.random.key(seed), Mean(jnp.zeros(3)), OPTIMIZER)


def bits(tree):
    """Every leaf as bytes, the keys as their data."""
    leaves = jax.tree.leaves(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()
        for leaf, is_key in zip(leaves, keys, strict=True)
    ]


def train(**options):
    options = {"batch_size": 3, "total_steps": 23, "eval_every_steps": 5} | options
    sizes = {name: options.pop(name) for name in ("batch_size", "block_steps") if name in options}
    feed = InMemory(STEP, data(), **sizes)
    stages = loop.stages(options.pop("state", None) or start(), feed, **options)
    return [(int(s.state.step), s.is_evaluation, bits(s.state), bits(s.metrics)) for s in stages]


@cache
def unbroken():
    return train()


# The same bits, however the steps are dealt out.


def test_stages_are_the_evaluations_and_the_end():
    assert [stage[:2] for stage in unbroken()] == [(n, True) for n in (5, 10, 15, 20, 23)]


@pytest.mark.parametrize("every", [1, 4, 1000])
def test_the_state_does_not_depend_on_when_it_is_evaluated(every):
    assert train(eval_every_steps=every)[-1][2] == unbroken()[-1][2]


@pytest.mark.parametrize("seconds", [0.0, 1e-4, 1e9])
def test_the_state_and_the_metrics_do_not_depend_on_the_dispatches(seconds, monkeypatch):
    expected, counts = unbroken(), []
    monkeypatch.setattr(loop, "SECONDS_A_DISPATCH", seconds)
    assert train(on_progress=lambda step, _: counts.append(step)) == expected
    assert counts[-1] == 23
    if seconds == 0:
        assert counts == list(range(1, 24))
    if seconds == 1e9:
        assert len(counts) < 12


@pytest.mark.parametrize("block_steps", [7, 64])
def test_the_bits_do_not_depend_on_the_steps_in_a_block(block_steps):
    """Across the ends of epochs, of which there are three steps each."""
    sizes = {"total_steps": 448, "eval_every_steps": 448}
    assert train(**sizes, block_steps=block_steps) == train(**sizes)


def test_a_run_resumed_in_the_middle_of_a_block_continues_to_the_same_bits():
    whole = {"total_steps": 14, "eval_every_steps": 14}
    (expected,) = train(**whole, block_steps=7)
    feed = InMemory(STEP, data(), batch_size=3)
    (half,) = loop.stages(start(), feed, total_steps=10, eval_every_steps=10)
    (rest,) = train(**whole, state=half.state, gathered=half.metrics, block_steps=2)
    assert rest == expected
    (lost,) = train(**whole, state=half.state, block_steps=2)
    assert lost[3] != expected[3], "the carried metrics make no difference"


def test_blocks_end_where_dispatches_do():
    assert blocks.choose_block_steps(0, 600, 20_000, most=64) == 50
    assert blocks.choose_block_steps(7, 600, 20_000, most=64) == 1
    assert blocks.choose_block_steps(0, 64, 640) == blocks.MOST_ON_CPU
    with refused("block_steps", "5", "23", "2"):
        train(block_steps=2)
    feed, state = InMemory(STEP, data(), batch_size=3, block_steps=4), start()
    for count in (0, 3, feed.longest(0) + 4):
        with refused("count", "multiple of 4", str(count)):
            feed.run(state, feed.no_metrics(state), 0, count)


# The compiled loop, as a CPU runs it: an accelerator must not wait for the host within a block.


def loops_of(compiled):
    """Of each loop in the text of a compiled program: its known length, or None; and its body with all that it calls."""
    text = compiled.as_text()
    names = re.split(r"^(?:ENTRY )?%?([\w.-]+) \([^\n]*\{$", text, flags=re.MULTILINE)
    bodies = dict(zip(names[1::2], names[2::2], strict=True))

    def reached(name):
        body = bodies[name]
        called = re.findall(
            r"(?:calls|body|condition|to_apply|branch_computations)=\{?%?([\w.-]+)", body
        )
        return body + "".join(reached(other) for other in called if other in bodies)

    for body in bodies.values():
        for line in re.findall(r"^.* while\(.*$", body, flags=re.MULTILINE):
            length = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            inner = re.search(r"body=%?([\w.-]+)", line)
            yield (int(length[1]) if length else None), reached(inner[1])


def check_never_waits(run, inputs, block_steps):
    """One loop of unknown length, over blocks; in it one of known length, without a branch or a sort."""
    found = list(loops_of(run.lower(*inputs, jnp.int32(1)).compile()))
    unknown = [body for length, body in found if length is None]
    assert len(unknown) == 1, f"loops of unknown length: {len(unknown)}"
    assert f'known_trip_count":{{"n":"{block_steps}"' in unknown[0]
    for name in ("conditional(", "sort(", "infeed(", 'custom_call_target="xla_ffi_python'):
        assert name not in unknown[0], f"a step has {name}"


def test_a_step_never_waits_for_the_host():
    run, *inputs = make_inputs(block_steps=7)
    check_never_waits(run, inputs, 7)


@pytest.mark.parametrize("twin", ["branch", "sort", "traced length"])
def test_check_of_waiting_rejects(twin):
    def spoiled(state, batch):
        if twin == "branch":
            scale = jax.lax.cond(state.step % 2 == 0, lambda: batch["x"].sum(), lambda: 1.0)
        elif twin == "sort":
            scale = jnp.sort(batch["x"][:, 0])[0]
        else:
            scale = jax.lax.fori_loop(0, state.step, lambda _, x: x * 0.5, batch["x"].sum())
        return STEP(state, {**batch, "x": batch["x"] * scale})

    run, *inputs = make_inputs(spoiled, block_steps=7)
    with pytest.raises(AssertionError):
        check_never_waits(run, inputs, 7)


@pytest.mark.parametrize("stop_at", [5, 7])
def test_an_interrupted_run_continues_to_the_same_bits(stop_at, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_A_DISPATCH", 0.0)
    expected, seen = unbroken(), []
    options = {"total_steps": 23, "eval_every_steps": 5}
    stages = loop.stages(
        start(),
        InMemory(STEP, data(), batch_size=3),
        **options,
        on_progress=lambda step, _: seen.append(step),
        should_stop=lambda: seen[-1] == stop_at,
    )
    *_, last = stages
    assert int(last.state.step) == stop_at
    assert last.is_evaluation == (stop_at % 5 == 0)
    carried = None if last.is_evaluation else last.metrics
    continued = train(state=last.state, gathered=carried)
    assert continued == [stage for stage in expected if stage[0] > stop_at]
    if carried is not None:
        lost = train(state=last.state)
        assert lost[0][3] != continued[0][3], "the carried metrics make no difference"


def test_the_run_is_the_steps_one_by_one():
    """Bits apart, the loop is `step` on the batches that (key, step) say."""
    dataset, state = data(), start()
    step, rows = jax.jit(STEP), jnp.asarray(dataset.splits["train"]["x"])
    for t in range(7):
        order = feeds.epoch_order(state.key, t // 3, 10)
        index = order[3 * (t % 3) : 3 * (t % 3) + 3]
        keys = example_keys(stream_key(state.key, OfRun.OBSERVATION), t, index)
        x = jax.vmap(dataset.observe)(keys, rows[index])
        state, _ = step(state, {"x": x, "index": index})
    feed = InMemory(STEP, dataset, batch_size=3)
    (stage,) = loop.stages(start(), feed, total_steps=7, eval_every_steps=7)
    np.testing.assert_allclose(stage.state.model.mean, state.model.mean, rtol=1e-5)
    other = train(state=start(1), total_steps=7)
    assert other[-1][2] != bits(stage.state), "the seed makes no difference"


# The order of the data.


def check_order(order_of):
    orders = [np.asarray(order_of(jax.random.key(0), epoch, 50)) for epoch in range(4)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({order.tobytes() for order in orders}) == 4, "epochs repeat"
    again = order_of(jax.random.key(0), jnp.int32(2), 50)
    np.testing.assert_array_equal(again, orders[2])
    assert np.any(np.asarray(order_of(jax.random.key(1), 0, 50)) != orders[0])


def test_epoch_order_is_another_permutation_in_every_epoch():
    check_order(feeds.epoch_order)


@pytest.mark.parametrize(
    "twin",
    [
        lambda key, epoch, size: feeds.epoch_order(key, 0, size),
        lambda key, epoch, size: feeds.epoch_order(jax.random.key(5), epoch, size),
        lambda key, epoch, size: jax.random.choice(jax.random.fold_in(key, epoch), size, (size,)),
    ],
    ids=["same order", "ignores the key", "with replacement"],
)
def test_check_of_order_rejects(twin):
    with pytest.raises(AssertionError):
        check_order(twin)


def counting_step(state, batch):
    """A step whose model counts how often each row came."""
    counts = state.model.at[batch["index"]].add(1.0)
    metrics = Metrics.of({"loss": jnp.zeros(batch["x"].shape[0])}, None)
    return state._replace(model=counts, step=state.step + 1), metrics


@pytest.mark.parametrize(("rows", "batch_size"), [(12, 4), (12, 12), (10, 3), (5, 1)])
def test_an_epoch_shows_every_row_once_but_for_the_remainder(rows, batch_size):
    steps = rows // batch_size
    state = jv.training.TrainState(
        jnp.zeros(rows), (), jax.random.key(0), jnp.int32(0), jnp.zeros(())
    )
    stages = loop.stages(
        state,
        InMemory(counting_step, data(rows), batch_size=batch_size),
        total_steps=3 * steps,
        eval_every_steps=steps,
    )
    counts = [np.asarray(stage.state.model) for stage in stages]
    for seen in np.diff([np.zeros(rows), *counts], axis=0):
        assert seen.max() <= 1
        assert seen.sum() == steps * batch_size


def test_every_use_of_a_row_is_observed_with_its_own_noise():
    def recording(state, batch):
        sums = state.model.at[state.step].set(jnp.sum(batch["x"], axis=1))
        metrics = Metrics.of({"loss": batch["x"][:, 0]}, None)
        return state._replace(model=sums, step=state.step + 1), metrics

    dataset = data(4)
    dataset.splits["train"]["x"] = np.zeros((4, 3), np.float32)
    state = jv.training.TrainState(
        jnp.zeros((6, 2)), (), jax.random.key(0), jnp.int32(0), jnp.zeros(())
    )
    (stage,) = loop.stages(
        state, InMemory(recording, dataset, batch_size=2), total_steps=6, eval_every_steps=6
    )
    assert len(np.unique(stage.state.model)) == 12


# What stays on the device, and how often it is compiled.


def make_inputs(step=STEP, block_steps=1):
    dataset, state = data(), start()
    draw, size = feeds.make_orders(10), len(dataset.splits["train"]["x"])
    epochs = feeds.Epochs(size, 3, block_steps, draw)
    return (
        blocks.compiled(
            feeds.make_run(step, dataset.observe, batch_size=3, block_steps=block_steps)
        ),
        state,
        feeds.no_metrics(step, state, dataset=dataset, batch_size=3),
        epochs.orders(state.key, 0),
        {"x": jnp.asarray(dataset.splits["train"]["x"])},
    )


def test_one_compilation_serves_every_count_and_no_transfer_is_implied():
    run, state, metrics, orders, rows = make_inputs()
    counts = [jax.device_put(np.int32(n)) for n in (1, 4, 2, 9)]
    state, metrics = run(state, metrics, orders, rows, counts[0])
    with jax.transfer_guard("disallow"):
        for count in counts[1:]:
            state, metrics = run(state, metrics, orders, rows, count)
    assert int(state.step) == 16
    assert float(metrics.count) == 48
    assert run._cache_size() <= 1  # 0 where a long session has evicted it


def test_nothing_passes_between_host_and_device_around_dispatches(monkeypatch):
    """But the numbers of blocks and of windows of epochs, which are put there on purpose."""
    monkeypatch.setattr(feeds, "WINDOW_ROWS", 20)
    feed, state = InMemory(STEP, data(), batch_size=3, block_steps=2), start()
    state, metrics = feed.run(jax.tree.map(jnp.copy, state), feed.no_metrics(state), 0, 2)
    with jax.transfer_guard("disallow"):
        for step in range(2, 30, 4):
            state, metrics = feed.run(state, metrics, step, 4)
    assert int(state.step) == 30


def check_serves_runs_in_turn(make):
    """Two runs, some steps at a time on one feed, come to the bits that each has alone."""
    feed, states = make(), [start(seed) for seed in (0, 1)]
    for until in (4, 8):
        for i, state in enumerate(states):
            (stage,) = loop.stages(state, feed, total_steps=until, eval_every_steps=until)
            states[i] = jax.tree.map(jnp.copy, stage.state)
    for seed, state in enumerate(states):
        assert bits(state) == train(state=start(seed), total_steps=8)[-1][2]


def test_a_feed_serves_runs_in_turn():
    check_serves_runs_in_turn(lambda: InMemory(STEP, data(), batch_size=3))


def test_check_of_turns_rejects_orders_that_are_remembered():
    def twin():
        feed = InMemory(STEP, data(), batch_size=3)
        feed.epochs.forget = lambda: None
        return feed

    with pytest.raises(AssertionError):
        check_serves_runs_in_turn(twin)


def test_an_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
    assert not blocks.is_known("xla_no_such_option", 1)
    for options in blocks.OPTIONS.values():
        assert all(blocks.is_known(name, value) for name, value in options.items())
    assert blocks.compiler_options() in ({}, blocks.OPTIONS["cpu"])


def check_no_callback(step):
    """On a CPU a guard does not see reads, so the program itself is searched."""
    run, *inputs = make_inputs(step)
    program = run.trace(*inputs, jnp.int32(1)).jaxpr
    assert not program.effects
    assert "callback" not in str(program)


def test_a_dispatch_never_calls_the_host():
    check_no_callback(STEP)


def test_check_of_host_calls_rejects_a_print():
    def printing(state, batch):
        jax.debug.print("{}", state.step)
        return STEP(state, batch)

    with pytest.raises(AssertionError):
        check_no_callback(printing)


def test_buffers_are_donated_but_never_those_of_the_caller():
    run, state, *others = make_inputs()
    run(state, *others, jnp.int32(1))
    assert state.model.mean.is_deleted()
    mine = start()
    feed = InMemory(STEP, data(), batch_size=3)
    first, *_ = loop.stages(mine, feed, total_steps=4, eval_every_steps=2)
    assert first.state.model.mean.is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(mine))


def test_metrics_of_no_examples_have_the_structure_of_the_step():
    _, state, empty, _, rows = make_inputs()
    _, metrics = STEP(state, rows["x"][:3])
    assert jax.tree.structure(empty) == jax.tree.structure(metrics)
    merged = empty.merge(metrics)
    assert merged["loss"] == metrics["loss"]


# Validation and records.


def check_validation(make):
    """Every row once, whatever the batch size, with the same draws at every call."""
    dataset, key, model = data(), jax.random.key(0), Mean(jnp.ones(3))
    noise_key = stream_key(key, OfRun.VALIDATION)
    x = map_examples(
        dataset.observe,
        stream_key(noise_key, OfRun.OBSERVATION),
        jnp.asarray(dataset.splits["valid"]["x"]),
        batch_size=7,
    )
    keys = [jax.random.fold_in(noise_key, i) for i in range(7)]
    exact = -np.mean([objective(k, model, row) for k, row in zip(keys, x, strict=True)])
    for batch_size in (2, 7, 100):
        validate = make(objective, dataset, key, batch_size=batch_size)
        for _ in range(2):
            np.testing.assert_allclose(validate(model)["loss"], exact, rtol=1e-5)


def test_validation_is_minus_the_mean_objective_of_every_row():
    check_validation(loop.make_validation)


def test_check_of_validation_rejects_dropped_rows_and_other_draws():
    def dropping(objective, dataset, key, *, batch_size):
        kept = {"x": dataset.splits["valid"]["x"][: 7 // batch_size * batch_size or 7]}
        fewer = Data(dataset.splits | {"valid": kept}, dataset.noise)
        return loop.make_validation(objective, fewer, key, batch_size=batch_size)

    def other_key(objective, dataset, key, *, batch_size):
        other = jax.random.fold_in(key, batch_size)
        return loop.make_validation(objective, dataset, other, batch_size=batch_size)

    for twin in (dropping, other_key):
        with pytest.raises(AssertionError):
            check_validation(twin)


def test_fit_returns_the_last_state_and_the_records():
    seen = []
    state, history = jv.training.fit(
        start(),
        STEP,
        data(),
        batch_size=3,
        total_steps=20,
        validation=objective,
        on_evaluation=lambda state, record: seen.append((int(state.step), record)),
    )
    assert int(state.step) == 20
    assert [record["step"] for record in history] == list(range(2, 21, 2))
    assert seen == [(record["step"], record) for record in history]
    assert set(history[0]) == {"step", "train", "valid"}
    assert bits(state) == train(total_steps=20)[-1][2]
    for part in ("train", "valid"):
        assert history[-1][part]["loss"] < history[0][part]["loss"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    def diverging(key, model, x):
        return jnp.where(jnp.sum(model.mean) > 1e3, jnp.nan, jnp.sum(model.mean))

    optimizer = optax.sgd(1e3)
    state = jv.training.init(jax.random.key(0), Mean(jnp.zeros(3)), optimizer)
    step = jv.training.make_step(diverging, optimizer)
    with refused("loss", "nan", "step 4"):
        jv.training.fit(state, step, data(), batch_size=3, total_steps=8, eval_every_steps=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 11}, ("batch_size", "10", "11")),
        ({"batch_size": 0}, ("batch_size", "0")),
        ({"total_steps": -1}, ("total_steps", "-1")),
        ({"total_steps": 2.5}, ("total_steps", "2.5")),
        ({"eval_every_steps": 0}, ("eval_every_steps", "0")),
        ({"eval_every_steps": True}, ("eval_every_steps", "True")),
    ],
)
def test_bad_sizes_are_refused(options, words):
    options = {"batch_size": 3, "total_steps": 4, "eval_every_steps": 2} | options
    with refused(*words):
        jv.training.fit(start(), STEP, data(), **options)


# A real model on real data.


def digits():
    x = (load_digits().images > 8).astype(np.float32)
    return Data({"train": {"x": x[:1500]}, "valid": {"x": x[1500:]}}, noise=0.0)


def check_learns(objective):
    """At least 22 nats below the 44.4 = 64 log 2 of fair coins.

    A correct run gains 23.4; one whose posterior collapses, and so learns the pixels' means alone,
    gains 20.3.
    """
    optimizer = optax.adam(5e-3)
    model = jv.models.vae(jax.random.key(1), (8, 8), latent_dim=4, hidden=(32,))
    _, history = jv.training.fit(
        jv.training.init(jax.random.key(0), model, optimizer),
        jv.training.make_step(objective, optimizer),
        digits(),
        batch_size=100,
        total_steps=300,
        eval_every_steps=50,
        validation=jv.elbo,
    )
    last = history[-1]["valid"]["loss"]
    assert last < 64 * np.log(2) - 22, f"validation loss {last:.2f} nats"


@pytest.mark.slow
def test_a_model_learns_digits():
    check_learns(jv.elbo)


@pytest.mark.slow
def test_check_of_learning_rejects_a_collapsed_posterior():
    with pytest.raises(AssertionError, match="validation loss 2"):
        check_learns(partial(jv.elbo, beta=20.0))
