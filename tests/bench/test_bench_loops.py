"""The loop that is timed is the library's: the same bits as `fit`, no example more or less; steps in blocks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
from jaxvae.bench import WORKLOADS
from jaxvae.bench.blocks import LONGEST, block_of, in_blocks
from jaxvae.bench.loops import SHAPE, Driver, block_steps, grey_rows, prepare_loop
from jaxvae.bench.workloads import LAYERS, Layers, draw_rows, training_job
from jaxvae.training.feeds import InMemory

ROWS, BATCH_SIZE = 30, 8


@pytest.fixture(scope="module")
def training():
    """A step and the state before the first."""
    model, objective = Layers(6, 2, 1).build(jax.random.key(0))
    optimizer = optax.adam(1e-3)
    state = jv.training.init(jax.random.key(1), model, optimizer)
    return jv.training.make_step(objective, optimizer), state


def parameters(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.model)]


def equal(some, others):
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.slow
def test_what_is_timed_is_what_fit_does(training):
    """Three blocks of eight steps, over the ends of epochs of three: parameters to the bit, and the mean of the metrics."""
    step, state = training
    loop = prepare_loop(step, state, BATCH_SIZE, ROWS)  # it has taken the first block
    driver = loop.run.__self__
    assert (driver.step, loop.run(9), driver.step) == (8, 16, 24)
    assert float(driver.metrics.count) == 24 * BATCH_SIZE
    fit = partial(jv.training.fit, state, step, grey_rows(ROWS), batch_size=BATCH_SIZE)
    fitted, (record,) = fit(total_steps=24, eval_every_steps=24)
    assert equal(parameters(driver.state), parameters(fitted))
    assert float(driver.metrics["loss"]) == pytest.approx(record["train"]["loss"], rel=1e-6)
    shorter, _ = fit(total_steps=16)  # the twin that loses a block
    assert not equal(parameters(driver.state), parameters(shorter))


class AtMost(InMemory):
    """A feed that takes few steps in a dispatch, and says how many each had."""

    def longest(self, step):
        return 6 - step % 6

    def run(self, state, metrics, step, count):
        self.dealt = [*getattr(self, "dealt", []), (step, count)]
        assert count <= self.longest(step)
        return super().run(state, metrics, step, count)


def test_no_dispatch_is_longer_than_the_feed_allows(training):
    step, state = training
    sizes = {"batch_size": BATCH_SIZE, "block_steps": 2}
    driver = Driver(AtMost(step, grey_rows(ROWS), **sizes), state)
    assert driver.run(9) == 10  # whole blocks
    assert driver.run(6) == 6
    assert driver.feed.dealt == [(0, 6), (6, 4), (10, 2), (12, 4)]
    plain = Driver(InMemory(step, grey_rows(ROWS), **sizes), state)
    plain.run(16)
    assert equal(parameters(driver.state), parameters(plain.state))


def test_rows_are_grey_and_what_the_model_sees_is_drawn_anew():
    data = grey_rows(ROWS)
    (x,) = (data.splits["train"]["x"],)
    assert (x.shape, x.dtype) == ((ROWS, *SHAPE), np.uint8)
    assert len(np.unique(x)) == 256
    one, other = (data.observe(jax.random.key(i), x[0]) for i in (0, 1))
    assert set(np.unique(one)) == {0.0, 1.0}
    assert not np.array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssvae", "hierarchical", "conv_vae"])
def test_every_workload_that_trains_has_a_loop(name, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "jaxvae.bench.workloads.training_job",
        lambda model, objective, batch_size, rows: seen.append((model, objective, batch_size)),
    )
    WORKLOADS[name].prepare(2, draw_rows(100), "float32")
    (model, objective, batch_size) = seen[0]
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(objective, optimizer)
    state = jv.training.init(jax.random.key(1), model, optimizer)
    feed = InMemory(step, grey_rows(ROWS), batch_size=batch_size)
    shapes = feed.no_metrics(state)  # traced with the loop's batches
    assert float(shapes.count) == 0


@pytest.mark.slow
def test_the_bare_step_takes_whole_blocks():
    """The state counts its own steps; its loss is that of the same steps one by one."""
    model, objective = Layers(6, 2, 1).build(jax.random.key(0))
    rows = draw_rows(ROWS)
    job = training_job(model, objective, BATCH_SIZE, rows)
    assert job.run(1) == LONGEST
    assert job.run(LONGEST + 1) == 2 * LONGEST
    assert job.loop().run(1) == block_steps() == 8  # on a CPU, as in a run


def test_blocks():
    assert block_of(1) == LONGEST
    assert block_of(10**9) == 16  # 2e10 flop of a dispatch on a CPU
    assert block_of(10**13) == 1
    counted = []
    run = in_blocks(8, lambda: counted.append(8) or jnp.zeros(()))
    assert [run(1), run(8), run(9)] == [8, 8, 16]
    assert sum(counted) == 32


def test_the_trip_count_of_a_block_is_known():
    """In the compiled text, so that no device waits for the host; a traced count, the twin, is not known."""

    def counted(steps):
        return jax.lax.fori_loop(0, steps, lambda _, x: jnp.sin(x) @ x, jnp.ones((4, 4)))

    known = jax.jit(partial(counted, LONGEST)).lower().compile().as_text()
    assert f'"known_trip_count":{{"n":"{LONGEST}"}}' in known
    assert "known_trip_count" not in jax.jit(counted).lower(jnp.int32(3)).compile().as_text()


def test_layers_of_the_larger_batch_are_the_same():
    assert LAYERS["iwae50_128"] == LAYERS["iwae50"]
    assert (WORKLOADS["iwae50"].batch_size, WORKLOADS["iwae50_128"].batch_size) == (20, 128)
