"""The oracles and the statistics are themselves tested: they judge everything else."""

import numpy as np
import pytest
from scipy import stats

from tests.support import oracles
from tests.support.statistics import assert_mean, assert_mean_exceeds, z_test


@pytest.mark.parametrize("full", [False, True])
def test_elbo_formula_is_evidence_minus_gaussian_kl(full):
    model = oracles.linear_gaussian(1, full=full)
    (x,) = oracles.draw_x(model, 2, 1)
    q, p = oracles.parameters(model), oracles.parameters(oracles.with_exact_posterior(model))
    tril_q, tril_p = (np.diag(np.exp(m.log_diagonal)) + m.lower for m in (q, p))
    shift = np.linalg.solve(tril_p, (p.encoder - q.encoder) @ x + p.offset - q.offset)
    ratio = np.linalg.solve(tril_p, tril_q)
    kl = 0.5 * (np.sum(ratio**2) + shift @ shift - 2) + np.sum(p.log_diagonal - q.log_diagonal)
    expected = oracles.log_evidence(model, x) - kl
    # The exact posterior passes through float32, so the two agree to float32.
    np.testing.assert_allclose(oracles.elbo(q, x).bound, expected, atol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(oracles.elbo(q, x).bound, expected + kl, atol=1e-5)


def test_elbo_gradient_is_the_finite_difference():
    model = oracles.linear_gaussian(3, full=True)
    (x,) = oracles.draw_x(model, 4, 1)
    p, gradient = oracles.parameters(model), oracles.elbo_gradient(model, x)
    for name in p._fields:
        value = getattr(p, name)
        for i in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[i] = 1e-5
            up, down = (oracles.elbo(p._replace(**{name: value + s}), x) for s in (step, -step))
            slope = (up.bound - down.bound) / 2e-5
            np.testing.assert_allclose(getattr(gradient, name)[i], slope, rtol=1e-4, atol=1e-5)


def test_quadrature_of_two_samples_converges_and_is_ordered():
    model = oracles.linear_gaussian(5, latent_dim=1)
    (x,) = oracles.draw_x(model, 6, 1)
    value = oracles.iwae_of_two(model, x)
    np.testing.assert_allclose(value, oracles.iwae_of_two(model, x, nodes=60), atol=1e-6)
    assert oracles.elbo(oracles.parameters(model), x).bound < value
    assert value < oracles.log_evidence(model, x)


def test_discrete_evidence_sums_to_one():
    model = oracles.Discrete()
    every = np.array(list(np.ndindex(2, 2, 2, 2)))
    np.testing.assert_allclose(np.exp(oracles.discrete_log_evidence(model, every)).sum(), 1)


def test_z_test_finds_a_small_bias_and_no_other():
    samples = np.random.default_rng(0).normal(size=(10_000, 5))
    assert z_test(samples, 0.0).passed
    assert not z_test(samples + np.array([0, 0, 0.1, 0, 0]), 0.0).passed
    assert z_test(samples - 0.1, 0.0, side="above").passed
    assert not z_test(samples - 0.1, 0.0, side="below").passed
    assert_mean_exceeds(samples[:, 0], -0.1)
    with pytest.raises(AssertionError, match="max z"):
        assert_mean(samples, 0.1)
    with pytest.raises(AssertionError, match="needs more"):
        assert_mean_exceeds(samples[:, 0], 0.0)


def test_z_test_never_passes_nan_and_needs_rounding_for_constants():
    assert not z_test(np.full((10, 2), np.nan), 0.0).passed
    assert not z_test(np.full((10, 2), 1e-7), 0.0).passed
    assert z_test(np.full((10, 2), 1e-7), 0.0, rounding=1e-6).passed


def test_false_alarm_rate_is_at_most_what_is_stated():
    # 2,000 correct tests at 5%: 100 alarms expected at most, and 150 is 5 deviations beyond.
    samples = np.random.default_rng(1).normal(size=(500, 2_000, 4))
    alarms = sum(not z_test(samples[:, i], 0.0, false_alarm=0.05).passed for i in range(2_000))
    assert alarms < stats.binom(2_000, 0.05).isf(1e-6), f"{alarms} alarms of 2,000"
