from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxvae as jv
from jaxvae.evaluation import pareto_k
from tests.support.pareto import pareto_oracle
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

REPEATS, SAMPLES = 200, 5000


def gaussian_weights(variance):
    """log w of q = N(0, variance) for p = N(0, 1): a tail of shape k = 1 - variance below 1."""
    e = np.random.default_rng(0).normal(size=(REPEATS, SAMPLES))
    return np.float32(0.5 * (1 - variance) * e**2)


def check_against_the_source(function):
    rng = np.random.default_rng(1)
    rows = [
        *gaussian_weights(0.5)[:3],
        *gaussian_weights(0.1)[:3],
        *np.float32(np.log(stats.genpareto.rvs(0.6, size=(3, SAMPLES), random_state=rng))),
        np.float32(rng.normal(size=SAMPLES) - 700),
    ]
    for row in rows:
        np.testing.assert_allclose(function(row), pareto_oracle(row), atol=1e-4)


def test_k_hat_is_that_of_the_source():
    check_against_the_source(jax.jit(pareto_k))


def of_all_weights(log_w):
    """A fit to the weights themselves, not to what they exceed the threshold by."""
    return pareto_k(jnp.concatenate([log_w, jnp.full(1, -jnp.inf)])[: len(log_w) // 5])


@pytest.mark.parametrize("twin", [of_all_weights, lambda log_w: -pareto_k(log_w)])
def test_check_against_the_source_rejects(twin):
    with pytest.raises(AssertionError):
        check_against_the_source(twin)


@pytest.mark.parametrize("variance", [0.7, 0.5])
def test_k_hat_is_the_known_shape_of_gaussian_weights(variance):
    """Over 200 repetitions within 0.02, which covers the bias of a tail of 213 weights."""
    found = jax.jit(jax.vmap(pareto_k))(gaussian_weights(variance))
    for side, limit in (("above", 0.02), ("below", -0.02)):
        assert_mean(found, 1 - variance + limit, side=side, false_alarm=1e-6)


@pytest.mark.slow
def test_no_tail_no_k_hat():
    assert np.isnan(pareto_k(jnp.arange(24.0)))
    assert np.isnan(pareto_k(jnp.full(100, -500.0)))
    assert np.isfinite(pareto_k(jnp.arange(25.0)))


def test_one_weight_that_holds_everything_is_beyond_use():
    alone = jnp.full(100, -jnp.inf).at[7].set(0.0)
    assert pareto_k(alone) > 1
    assert pareto_k(jnp.arange(100.0) * 50) > 1


@pytest.mark.slow
def test_k_hat_finds_a_proposal_that_is_too_narrow():
    """Of the exact posterior made narrower by s the weights have the shape 1 - s^2."""
    from tests.support import oracles

    xs = oracles.draw_x(oracles.linear_gaussian(), 0, 50)
    estimate = partial(jv.evaluation.log_likelihood, jax.random.key(0), num_samples=2000)
    for scale, low, high in ((0.3, 0.7, 1.5), (1.2, -5.0, 0.5)):
        model = oracles.with_exact_posterior(oracles.linear_gaussian(), widen=scale)
        k_hat = estimate(model, xs).pareto_k
        assert low < np.median(k_hat) < high


def test_what_is_no_vector_is_refused():
    with refused("log_w", "[K]", "(2, 3)"):
        pareto_k(jnp.zeros((2, 3)))
