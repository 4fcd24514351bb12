"""DReG for bounds other than IWAE, partially-IWAE, and the running baseline."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
from jaxvae import bounds
from tests.support import oracles
from tests.support.refusals import refusal
from tests.support.statistics import z_test
from tests.test_gradients import Bits, X, flat, gradients_of

OTHERS = {
    "renyi": partial(jv.importance_weighted, bound=partial(bounds.renyi, alpha=0.5), num_samples=4),
    "multiply_iwae": partial(jv.multiply_iwae, num_outer=2, num_samples=2),
    "combination_iwae": partial(
        jv.importance_weighted, bound=partial(bounds.combination_iwae, beta=0.3), num_samples=4
    ),
    "thermodynamic": partial(
        jv.importance_weighted,
        bound=partial(bounds.thermodynamic, betas=jnp.array([0.0, 0.3])),
        num_samples=4,
    ),
}


def difference(objective, gradient):
    """Gradients of an estimator minus the pathwise ones on the same samples, [draws, parameters]."""
    model = oracles.linear_gaussian(0)
    x = oracles.draw_x(model, 0, 1)[0]
    ours, path = (
        gradients_of(partial(objective, gradient=g), model, x) for g in (gradient, "pathwise")
    )
    return ours - path


@pytest.mark.slow
@pytest.mark.parametrize("objective", OTHERS.values(), ids=OTHERS)
def test_dreg_has_the_pathwise_mean(objective):
    """Both are unbiased, so the difference has mean 0; STL drops a term that has not."""
    verdict = z_test(difference(objective, "dreg"), 0.0, rounding=1e-5)
    assert verdict.passed, verdict
    assert not z_test(difference(objective, "stl"), 0.0, rounding=1e-5).passed


@pytest.mark.slow
def test_partially_iwae_takes_each_part_from_its_own_bound():
    model = oracles.linear_gaussian(0)
    x = jnp.asarray(oracles.draw_x(model, 0, 1)[0])
    key, sizes = jax.random.key(0), {"num_outer": 3, "num_samples": 2}

    def gradient(objective):
        tree = jax.grad(lambda model: objective(key, model, x).objective)(model)
        encoder = [getattr(tree, n)[...] for n in ("encoder", "offset", "log_diagonal")]
        return flat(encoder), flat([getattr(tree, n)[...] for n in ("weight", "bias", "log_scale")])

    encoder, decoder = gradient(partial(jv.partially_iwae, **sizes))
    of_iwae = gradient(partial(jv.iwae, num_samples=6))
    of_multiply = gradient(partial(jv.multiply_iwae, **sizes))
    np.testing.assert_allclose(decoder, of_iwae[1], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(encoder, of_multiply[0], rtol=2e-5, atol=1e-6)
    assert np.abs(encoder - of_iwae[0]).max() > 1e-3
    assert np.abs(decoder - of_multiply[1]).max() > 1e-3
    value = jv.partially_iwae(key, model, x, **sizes).bound
    np.testing.assert_allclose(value, jv.iwae(key, model, x, num_samples=6).bound, rtol=1e-6)


def test_a_running_baseline():
    """The baseline of step t is the running mean of the objective before t, and lowers the noise."""
    optimizer, decay = optax.sgd(0.0), 0.9
    objective = partial(jv.elbo, kl="monte_carlo", gradient="score")
    step = jax.jit(jv.training.make_step(objective, optimizer, baseline_decay=decay))
    state = jv.training.init(jax.random.key(0), Bits(), optimizer)
    batch, expected = jnp.asarray(np.tile(X, (8, 1))), None
    for _ in range(5):
        state, metrics = step(state, batch)
        mean = -float(metrics["loss"])
        expected = mean if expected is None else decay * expected + (1 - decay) * mean
        np.testing.assert_allclose(state.running, expected, rtol=1e-5)

    def spread(baseline):
        draws = gradients_of(partial(objective, baseline=baseline), Bits(), draws=4000)
        return draws.var(axis=0).sum()

    assert spread(float(state.running)) < 0.7 * spread(0.0)


def test_a_baseline_decay_out_of_range_is_refused():
    with refusal(match="baseline_decay"):
        jv.training.make_step(jv.elbo, optax.sgd(0.1), baseline_decay=1.0)
