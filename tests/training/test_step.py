from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae.training.metrics import Metrics
from tests.support.oracles import draw_x, linear_gaussian
from tests.support.refusals import refused

LEARNING_RATE = 0.1
RUN = 7  # seed of the run key


def sgd():
    return optax.sgd(LEARNING_RATE)


ELBO_STEP = jax.jit(jv.training.make_step(jv.elbo, optax.sgd(LEARNING_RATE)))


def start(model, optimizer=None):
    return jv.training.init(jax.random.key(RUN), model, optimizer or sgd())


def model_and_batch(size=4):
    model = linear_gaussian()
    return model, jnp.asarray(draw_x(model, 0, size))


def close(a, b, **tolerance):
    """Two models, states or gradients of one structure, to float32 rounding."""
    chex.assert_trees_all_close(a, b, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


# One step by hand.


def by_hand(model, xs, index, weights, step=0):
    """-mean objective and the model after plain gradient descent, an example at a time."""
    run_key = jax.random.key(RUN)

    @jax.jit
    def one(model, key, x):
        return jax.value_and_grad(lambda m: jv.elbo(key, m, x).objective)(model)

    loss, gradient = 0.0, jax.tree.map(jnp.zeros_like, model)
    for x, i, weight in zip(xs, index, weights, strict=True):
        key = jax.random.fold_in(jax.random.fold_in(run_key, step), i)
        value, slope = one(model, key, x)
        share = float(weight) / float(np.sum(weights))
        loss -= share * float(value)
        gradient = jax.tree.map(lambda g, s, w=share: g - w * s, gradient, slope)
    return loss, jax.tree.map(lambda p, g: p - LEARNING_RATE * g, model, gradient)


def check_step(make_step):
    model, xs = model_and_batch()
    index, mask = jnp.array([3, 1, 8, 4]), jnp.array([1.0, 0.5, 0.0, 2.0])
    state = start(model)._replace(step=jnp.int32(5))
    loss, expected = by_hand(model, xs, index, mask, step=5)
    after, metrics = jax.jit(make_step(jv.elbo, sgd()))(
        state, {"x": xs, "index": index, "mask": mask}
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    close(after.model, expected)
    assert after.step == 6
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))


def test_a_step_is_gradient_descent_on_minus_the_mean_objective():
    check_step(jv.training.make_step)


def summed(objective, optimizer):
    return jv.training.make_step(lambda *args: 4 * objective(*args).objective, optimizer)


def ascending_loss(objective, optimizer):
    return jv.training.make_step(lambda *args: -objective(*args).objective, optimizer)


def same_key(objective, optimizer):
    step = jv.training.make_step(objective, optimizer)
    return lambda state, batch: step(state, batch | {"index": jnp.zeros(4, jnp.int32)})


def without_mask(objective, optimizer):
    step = jv.training.make_step(objective, optimizer)
    return lambda state, batch: step(state, {"x": batch["x"], "index": batch["index"]})


def same_noise_at_every_step(objective, optimizer):
    step = jv.training.make_step(objective, optimizer)

    def twin(state, batch):
        after, metrics = step(state._replace(step=jnp.int32(0)), batch)
        return after._replace(step=state.step + 1), metrics

    return twin


@pytest.mark.parametrize(
    "twin",
    [
        summed,
        pytest.param(ascending_loss, marks=pytest.mark.slow),
        same_key,
        without_mask,
        pytest.param(same_noise_at_every_step, marks=pytest.mark.slow),
    ],
)
def test_check_of_step_rejects(twin):
    with pytest.raises(AssertionError):
        check_step(twin)


# Batches.


def test_a_masked_batch_is_the_smaller_batch():
    model, xs = model_and_batch(5)
    keep = np.array([0, 2, 3])
    mask = jnp.zeros(5).at[keep].set(1.0)
    masked, a = ELBO_STEP(start(model), {"x": xs, "mask": mask})
    smaller, b = ELBO_STEP(start(model), {"x": xs[keep], "index": keep})
    close(masked.model, smaller.model)
    close(dict(a), dict(b))
    whole, _ = ELBO_STEP(start(model), xs)
    with pytest.raises(AssertionError):
        close(masked.model, whole.model)


def test_an_array_is_a_mapping_with_x_and_index_from_zero():
    model, xs = model_and_batch()
    results = [
        ELBO_STEP(start(model), batch)
        for batch in (
            xs,
            {"x": xs},
            {"x": xs, "index": jnp.arange(4), "label": jnp.zeros(4, jnp.int32)},
            {"x": xs, "mask": jnp.ones(4)},
        )
    ]
    for state, metrics in results[1:]:
        close(state.model, results[0][0].model)
        close(dict(metrics), dict(results[0][1]))


def test_metrics_of_ragged_batches_merge_to_those_of_the_whole():
    model, xs = model_and_batch(7)
    _, whole = ELBO_STEP(start(model), xs)
    parts = [
        ELBO_STEP(start(model), {"x": xs[i:j], "index": jnp.arange(i, j)})[1]
        for i, j in ((0, 3), (3, 6), (6, 7))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.count == whole.count == 7
    close(dict(merged), dict(whole))


def test_metrics_are_the_means_of_the_terms_and_the_loss_of_the_objective():
    model, xs = model_and_batch()
    step = jv.training.make_step(partial(jv.elbo, beta=3.0), sgd())
    _, m = jax.jit(step)(start(model), xs)
    assert set(m) == {"loss", "bound", "distortion", "rate"}
    np.testing.assert_allclose(m["loss"], m["distortion"] + 3 * m["rate"], rtol=1e-5)
    np.testing.assert_allclose(m["bound"], -(m["distortion"] + m["rate"]), rtol=1e-5)


def test_schedules_are_passed_by_name_at_the_step_of_the_state():
    model, xs = model_and_batch()
    schedules = {"beta": lambda step: jnp.float32(0.5) * step.astype(jnp.float32)}
    step = jax.jit(jv.training.make_step(jv.elbo, sgd(), schedules=schedules))
    for at in (0, 3):
        state = start(model)._replace(step=jnp.int32(at))
        fixed = jax.jit(jv.training.make_step(partial(jv.elbo, beta=0.5 * at), sgd()))
        close(step(state, xs)[0].model, fixed(state, xs)[0].model)


def test_an_objective_may_be_a_scalar_and_only_a_scalar():
    model, xs = model_and_batch()
    scalar = jv.training.make_step(lambda key, m, x: jv.elbo(key, m, x).objective, sgd())
    state, metrics = jax.jit(scalar)(start(model), xs)
    assert set(metrics) == {"loss"}
    close(state.model, ELBO_STEP(start(model), xs)[0].model)
    with refused("objective", "(3,)", "sum over the event axes"):
        jv.training.make_step(lambda key, m, x: m.posterior(x).mean[0] * x, sgd())(start(model), xs)


# Models of one's own.


class Own(nnx.Module):
    """p(z), q(z|x) and p(x|z) by hand, with entries that are not to be trained."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones((3, 2)) / 4)
        self.constant = jnp.arange(3.0)
        self.statistic = nnx.Variable(jnp.ones(2))
        self.name = "own"

    def prior(self):
        return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

    def posterior(self, x):
        return dist.Normal(x @ self.weight[...], self.statistic[...]).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.weight[...] @ z + self.constant, jnp.ones(3)).to_event(1)


def test_of_a_module_only_the_parameters_are_trained():
    before = Own()
    step = jax.jit(jv.training.make_step(partial(jv.iwae, num_samples=3), optax.adam(0.1)))
    state, _ = step(start(before, optax.adam(0.1)), jnp.ones((4, 3)))
    assert isinstance(state.model, Own)
    assert jnp.all(state.model.weight[...] != before.weight[...])
    np.testing.assert_array_equal(state.model.constant, before.constant)
    np.testing.assert_array_equal(state.model.statistic[...], before.statistic[...])
    assert len(jax.tree.leaves(state.opt_state)) == 3, "count and two moments of one parameter"


class Pair(NamedTuple):
    """A model that is a plain pytree."""

    mean: jax.Array
    raw: dict[str, jax.Array]
    count: jax.Array

    def prior(self):
        return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

    def posterior(self, x):
        return dist.Normal(self.mean, jnp.exp(self.raw["log_scale"])).to_event(1)

    def likelihood(self, z):
        return dist.Normal(z, jnp.ones(2)).to_event(1)


def test_of_a_plain_pytree_every_float_array_is_trained():
    before = Pair(jnp.ones(2), {"log_scale": jnp.zeros(2)}, jnp.int32(3))
    state, _ = ELBO_STEP(start(before), jnp.zeros((4, 2)))
    assert isinstance(state.model, Pair)
    assert jnp.all(state.model.mean != before.mean)
    assert jnp.all(state.model.raw["log_scale"] != 0)
    assert state.model.count == 3


class Tied(Own):
    """One parameter under two names."""

    def __init__(self):
        super().__init__()
        self.transposed = self.weight

    def likelihood(self, z):
        return dist.Normal(self.transposed[...] @ z, jnp.ones(3)).to_event(1)


def test_a_parameter_under_two_names_stays_one_or_is_refused():
    optimizer = optax.adam(0.1)
    step = jax.jit(jv.training.make_step(jv.elbo, optimizer))
    try:
        state = start(Tied(), optimizer)
        for _ in range(3):
            state, _ = step(state, jnp.ones((4, 3)))
    except jv.InputError:
        return
    np.testing.assert_array_equal(state.model.weight[...], state.model.transposed[...])


def test_a_model_without_parameters_is_refused():
    class Fixed(Own):
        def __init__(self):
            super().__init__()
            self.weight = nnx.Variable(jnp.ones((3, 2)))

    with refused("model", "Fixed", "nnx.Param"):
        start(Fixed())
    with refused("key"):
        jv.training.init(0, Own(), sgd())


# Under transformations.


def test_the_state_keeps_its_structure_and_compiles_once():
    model, xs = model_and_batch()
    optimizer, traces = optax.adam(1e-2), []

    def counting(key, model, x):
        traces.append(1)
        return jv.elbo(key, model, x)

    step = jax.jit(chex.assert_max_traces(jv.training.make_step(counting, optimizer), n=1))
    state = start(model, optimizer)
    shape = jax.eval_shape(lambda: state)
    for count in range(1, 6):
        state, metrics = step(state, xs)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(lambda s=state: s), shape)
        assert isinstance(metrics, Metrics)
        assert state.step == count
    assert len(traces) == 1


@pytest.mark.slow
def test_seeds_can_be_mapped_over():
    optimizer, (_, xs) = optax.adam(1e-2), model_and_batch()
    step = jv.training.make_step(jv.elbo, optimizer)

    def train(seed):
        key, model = (
            jax.random.key(seed),
            jv.models.vae(
                jax.random.fold_in(jax.random.key(seed), 1),
                (3,),
                latent_dim=2,
                hidden=(),
                likelihood="gaussian",
            ),
        )
        state, metrics = jax.lax.scan(
            step, jv.training.init(key, model, optimizer), jnp.stack([xs, xs])
        )
        return state.model, metrics["loss"]

    models, losses = jax.jit(jax.vmap(train))(jnp.arange(3))
    for seed in range(3):
        model, loss = jax.jit(train)(seed)
        np.testing.assert_allclose(losses[seed], loss, rtol=1e-5)
        close(jax.tree.map(lambda leaf, s=seed: leaf[s], models), model, rtol=1e-3, atol=1e-5)
    assert len({float(loss) for loss in losses[:, 0]}) == 3
