"""Many runs in one dispatch: each has the states, batches and noise of a single run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.training.feeds import InMemory
from jaxvae.training.loop import make_validation
from jaxvae.training.many import STACKED, ManyInMemory, make_runs, make_validations, stack
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
    single = InMemory(STEP, Numbered(), batch_size=4)
    for i, state in enumerate(STATES):
        single.order = jnp.zeros(10, jnp.int32), jnp.int32(-1)
        expected = draws(single, state)
        np.testing.assert_array_equal(found[0, i], expected[0])
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-6)
        assert np.abs(found[0, i] - found[0, i - 1]).min() > 1e-4  # the twin: draws of another run


def test_validation_is_that_of_single_runs():
    state = stack(STATES)
    found = make_validations(lambda _: seen, {}, Numbered(), batch_size=2)(state)
    for i, one in enumerate(STATES):
        expected = make_validation(seen, Numbered(), one.key)(one.model)
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-6)
            assert abs(found[name][i - 1] - value) > 1e-4 * abs(value)


def sorts(jaxpr, inside=False):
    """Whether each sort in a program, at any depth, is inside of a `cond`."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sort":
            yield inside
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):
                yield from sorts(inner, inside or equation.primitive.name == "cond")


def program(state, mapped):
    feed = ManyInMemory(lambda _: STEP, {}, Numbered(), batch_size=4, num_runs=3)
    metrics = feed.no_metrics(stack(STATES))
    return jax.make_jaxpr(mapped)(state, metrics, feed.order, feed.rows, {}, 2).jaxpr


def test_an_order_is_drawn_once_an_epoch():
    run = make_runs(lambda _: STEP, Numbered(), batch_size=4)
    found = list(sorts(program(stack(STATES), run)))
    assert found
    assert all(found)


def test_a_step_counter_for_each_run_would_draw_orders_at_every_step():
    axes = STACKED._replace(step=0), 0, (0, None)
    single = InMemory(STEP, Numbered(), batch_size=4)
    mapped = jax.vmap(single._run, in_axes=(*axes, None, None), out_axes=(axes[0], 0, 0))
    state = stack(STATES)._replace(step=jnp.zeros(3, jnp.int32))
    with jax.debug_key_reuse(False):
        twin = program(state, lambda *args: mapped(*args[:4], args[5]))
    assert not all(sorts(twin))


def test_models_that_differ_are_refused():
    other = jv.models.vae(jax.random.key(0), (7,), latent_dim=3, hidden=(4,), likelihood="gaussian")
    with refused("seeds", "differ"):
        stack([STATES[0], jv.training.init(jax.random.key(1), other, SGD)])
