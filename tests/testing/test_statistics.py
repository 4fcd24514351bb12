import numpy as np
import pytest
from scipy import stats

from jaxvae.testing import assert_mean, assert_mean_exceeds, check_order, z_test
from jaxvae.testing.statistics import normal_quantile
from tests.support.refusals import refused


def test_quantile_is_that_of_scipy():
    tails = [0.3, 0.05, 1e-6, 1e-12, 1e-100]
    np.testing.assert_allclose([normal_quantile(t) for t in tails], stats.norm.isf(tails))


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


def test_order_passes_shows_and_rejects():
    rng = np.random.default_rng(2)
    shared, own = rng.normal(size=4096), 0.1 * rng.normal(size=(3, 4096))
    rising = [shared + own[0], shared + own[1] + 0.05, shared + own[2] + 0.1]
    order = check_order(rising, upper=1.0)
    assert order.passed
    assert order.shown
    assert len(order.z) == 3
    equal = check_order([rising[0], shared + own[1]])
    assert equal.passed
    assert not equal.shown
    assert not check_order(rising[::-1]).passed
    assert not check_order(rising, upper=-0.2).passed
    assert not check_order([np.full(10, np.nan), np.zeros(10)]).passed


def test_refusals():
    samples = np.zeros((10, 2))
    with refused("side", "'left'"):
        z_test(samples, 0.0, side="left")  # type: ignore[arg-type]
    with refused("false_alarm", "0"):
        z_test(samples, 0.0, false_alarm=0)
    with refused("samples", "(1, 2)"):
        z_test(samples[:1], 0.0)
    with refused("bounds", "paired"):
        check_order([np.zeros(3), np.zeros(4)])
    with refused("bounds", "got one"):
        check_order([np.zeros(3)])
