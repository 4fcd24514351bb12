"""Tests of Monte Carlo means with a stated false-alarm rate.

Every test covers all entries of a vector at once; by Bonferroni's inequality the probability that a
correct vector is rejected is at most `false_alarm`, if the means are Gaussian to good accuracy.
Use thousands of samples: with fewer, the tails of a mean are not Gaussian at these levels.
"""

import itertools
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from jaxvae.checks import known_number, require_choice
from jaxvae.types import InputError, Values

FALSE_ALARM = 1e-6
"""The default probability of rejecting a correct vector."""

Side: TypeAlias = Literal["two", "above", "below"]


class ZTest(NamedTuple):
    """The result of a z-test: whether all means pass, the worst z-score, and the largest z-score that passes."""

    passed: bool
    max_z: float
    threshold: float


class Order(NamedTuple):
    """The result of `check_order`: `passed` if no wrong order is shown, `shown` if every rise is significant."""

    passed: bool
    shown: bool
    z: tuple[float, ...]
    """The z-score of each rise, from the first bound to the upper limit; positive where the bounds rise."""
    threshold: float


def normal_quantile(tail: float) -> float:
    """Return the z with `P(Z > z) = tail` for a standard normal Z, accurate for the smallest tails."""
    return -NormalDist().inv_cdf(tail)


def standard_error(samples: Values, rounding: ArrayLike = 0.0) -> np.ndarray:
    """Compute `sqrt(variance / n + rounding^2)` of the mean of each column of samples [n, ...], in float64.

    Raises:
        InputError: there are fewer than two samples.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim == 0 or len(samples) < 2:
        raise InputError(f"samples: expected [n, ...] with n >= 2, got shape {samples.shape}")
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return np.asarray(np.hypot(error, np.asarray(rounding, np.float64)))


def z_scores(samples: Values, exact: Values, rounding: ArrayLike = 0.0) -> np.ndarray:
    """Compute `(mean - exact) / sqrt(standard_error^2 + rounding^2)` of each column of samples [n, ...].

    `rounding` is the arithmetic error of a mean; without it an estimate without variance, such as
    the gradient of a term in closed form, could never pass.

    Raises:
        InputError: there are fewer than two samples.
    """
    error = standard_error(samples, rounding)
    difference = np.asarray(samples, np.float64).mean(axis=0) - np.asarray(exact, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / error)


def z_test(
    samples: Values,
    exact: Values,
    *,
    side: Side = "two",
    false_alarm: float = FALSE_ALARM,
    rounding: ArrayLike = 0.0,
) -> ZTest:
    """Test whether the means of samples [n, ...] equal `exact` [...].

    Args:
        samples: independent draws along the first axis.
        exact: the expectation.
        side: "above" rejects only means above `exact`, "below" only means below it, "two" both.
        false_alarm: the probability of rejecting a correct vector.
        rounding: see `z_scores`.

    Returns:
        Whether no entry exceeds the threshold, the worst z-score, and the threshold. A NaN never passes.

    Raises:
        InputError: an option is not usable, or there are fewer than two samples.

    >>> samples = np.random.default_rng(0).normal(size=(4096, 3))
    >>> z_test(samples, 0.0).passed, z_test(samples + 0.2, 0.0).passed
    (True, False)

    Source: Bonferroni's inequality over the entries; a normal approximation of each mean.
    """
    require_choice("side", side, ("two", "above", "below"))
    false_alarm = known_number("false_alarm", false_alarm, above=0, below=1)
    z = z_scores(samples, exact, rounding)
    z = {"two": np.abs(z), "above": z, "below": -z}[side]
    tails = z.size * (2 if side == "two" else 1)
    threshold = normal_quantile(false_alarm / tails)
    # NaN compares as false, so a NaN never passes.
    return ZTest(bool(np.all(z <= threshold)), float(np.max(z)), threshold)


def assert_mean(
    samples: Values,
    exact: Values,
    *,
    side: Side = "two",
    false_alarm: float = FALSE_ALARM,
    rounding: ArrayLike = 0.0,
    what: str = "mean",
) -> None:
    """Assert that `z_test` passes; the error states the numbers."""
    test = z_test(samples, exact, side=side, false_alarm=false_alarm, rounding=rounding)
    assert test.passed, (
        f"{what}: max z = {test.max_z:.2f} > {test.threshold:.2f} ({side}-sided, false alarm "
        f"{false_alarm:g}); means {np.asarray(samples).mean(axis=0)}, exact {exact}"
    )


def assert_mean_exceeds(
    samples: Values, limit: float, *, false_alarm: float = FALSE_ALARM, what: str = "mean"
) -> None:
    """Assert that the mean lies significantly above `limit`.

    If the mean were at most `limit`, this would pass with a probability of at most `false_alarm`.
    """
    test = z_test(samples, limit, side="above", false_alarm=false_alarm)
    assert test.max_z > test.threshold, (
        f"{what}: z = {test.max_z:.2f}, needs more than {test.threshold:.2f}; "
        f"mean {np.asarray(samples).mean():.6g}, limit {limit}"
    )


def check_order(
    bounds: Sequence[ArrayLike],
    upper: float | None = None,
    *,
    false_alarm: float = FALSE_ALARM,
    rounding: float = 1e-5,
) -> Order:
    """Test whether bounds rise in the order given, `E bounds[i] <= E bounds[i + 1] <= upper`.

    These are paired z-tests of neighbours: draw all bounds with the same keys, so that their differences have
    little noise.

    Args:
        bounds: samples [n] of each bound, lowest first, such as the ELBO, L_2, L_5; nats.
        upper: an upper limit of the last bound, such as log p(x).
        false_alarm: the probability that `passed` is false although the order holds, and that `shown` is
            true although two neighbours are equal.
        rounding: the arithmetic error of a mean, nats.

    Returns:
        `passed`: no neighbours are significantly in the wrong order. `shown`: every rise is significant.

    Raises:
        InputError: there are fewer than two values to compare, or the samples are not paired.

    >>> noise = np.random.default_rng(0).normal(size=4096)
    >>> order = check_order([noise, noise + 0.1], upper=0.5)
    >>> order.passed, order.shown
    (True, True)
    """
    false_alarm = known_number("false_alarm", false_alarm, above=0, below=1)
    samples = [np.asarray(bound, np.float64) for bound in bounds]
    if len({s.shape for s in samples}) != 1 or samples[0].ndim != 1:
        raise InputError(
            f"bounds: expected paired samples of one shape [n], got {[s.shape for s in samples]}"
        )
    rises = [more - fewer for fewer, more in itertools.pairwise(samples)]
    if upper is not None:
        rises.append(upper - samples[-1])
    if not rises:
        raise InputError("bounds: expected at least two, or one and its upper limit, got one")
    z = np.array([z_scores(rise, 0.0, rounding) for rise in rises])
    threshold = normal_quantile(false_alarm / len(z))
    passed, shown = np.all(z >= -threshold), np.all(z > threshold)
    return Order(bool(passed), bool(shown), tuple(z.tolist()), threshold)
