"""Many runs in one dispatch: each has the states, batches and noise of a single run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
from jaxvae.training.feeds import InMemory, epoch_order
from jaxvae.training.loop import make_validation
from jaxvae.training.many import ManyInMemory, make_runs, make_validations, stack
from tests.support.refusals import refused


class Numbered:
    """Rows that say which they are, seen through noise."""

    def __init__(self):
        x = np.arange(70.0, dtype=np.float32).reshape(10, 7)
        self.splits = {"train": {"x": x}, "valid": {"x": x[:3]}}

    def observe(self, key, x):
        return x + jax.random.uniform(key, x.shape)


def seen(key, model, x):
    """What was drawn: the noise of the objective as the rate, that of the data as the distortion."""
    terms = jv.elbo(key, model, x)
    return terms._replace(rate=jax.random.normal(jax.random.fold_in(key, 1)), distortion=x[0] ** 2)


SGD = optax.sgd(1e-3)
STEP = jv.training.make_step(seen, SGD)
STATES = [
    jv.training.init(
        jax.random.key(i),
        jv.models.vae(
            jax.random.key(9 + i), (7,), latent_dim=2, hidden=(4,), likelihood="gaussian"
        ),
        SGD,
    )
    for i in range(3)
]


def draws(feed, state, steps=7):
    """The metrics of every step, in dispatches of one."""
    found, state = [], jax.tree.map(jnp.copy, state)
    for i in range(steps):
        state, metrics = feed.run(state, feed.no_metrics(state), i, 1)
        found.append([np.asarray(metrics[name]) for name in ("rate", "distortion", "loss")])
    return np.stack(found, axis=-1)


def test_batches_and_noise_are_those_of_single_runs():
    many = ManyInMemory(lambda _: STEP, {}, Numbered(), batch_size=4, num_runs=3)
    found = draws(many, stack(STATES))
    for i, state in enumerate(STATES):
        expected = draws(InMemory(STEP, Numbered(), batch_size=4), state)
        np.testing.assert_array_equal(found[0, i], expected[0])
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-6)
        assert np.abs(found[0, i] - found[0, i - 1]).min() > 1e-4  # the twin: draws of another run


@pytest.mark.slow
def test_validation_is_that_of_single_runs():
    state = stack(STATES)
    found = make_validations(lambda _: seen, {}, Numbered(), batch_size=2)(state)
    for i, one in enumerate(STATES):
        expected = make_validation(seen, Numbered(), one.key)(one.model)
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-6)
            assert abs(found[name][i - 1] - value) > 1e-4 * abs(value)


def check_never_sorts(mapped):
    """Nothing in a dispatch draws an order: that is done once an epoch, by a program of its own."""
    feed = ManyInMemory(lambda _: STEP, {}, Numbered(), batch_size=4, num_runs=3)
    state = stack(STATES)
    orders, metrics = feed.epochs.orders(state.key, 0), feed.no_metrics(state)
    program = str(jax.make_jaxpr(mapped)(state, metrics, orders, feed.rows, {}, jnp.int32(2)))
    assert "while" in program
    assert "sort[" not in program
    assert "cond[" not in program


def test_a_dispatch_draws_no_order():
    check_never_sorts(make_runs(lambda _: STEP, Numbered(), batch_size=4, block_steps=2))


def test_check_of_orders_rejects_a_step_that_draws_one():
    def drawing(state, batch):
        order = epoch_order(state.key, state.step, 4)
        return STEP(state, {**batch, "x": batch["x"][order]})

    with jax.debug_key_reuse(False), pytest.raises(AssertionError):
        check_never_sorts(make_runs(lambda _: drawing, Numbered(), batch_size=4, block_steps=2))


@pytest.mark.parametrize("block_steps", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_bits_do_not_depend_on_the_steps_in_a_block(block_steps):
    def after(block_steps):
        feed = ManyInMemory(
            lambda _: STEP, {}, Numbered(), batch_size=4, num_runs=3, block_steps=block_steps
        )
        state = jax.tree.map(jnp.copy, stack(STATES))
        state, metrics = feed.run(state, feed.no_metrics(state), 0, 8)
        return jax.tree.leaves((state._replace(key=jax.random.key_data(state.key)), metrics))

    for found, expected in zip(after(block_steps), after(1), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_models_that_differ_are_refused():
    other = jv.models.vae(jax.random.key(0), (7,), latent_dim=3, hidden=(4,), likelihood="gaussian")
    with refused("seeds", "differ"):
        stack([STATES[0], jv.training.init(jax.random.key(1), other, SGD)])
