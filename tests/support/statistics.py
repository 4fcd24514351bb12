"""Tests of Monte Carlo means with a stated false-alarm rate.

Every function tests all entries of a vector at once; by Bonferroni's inequality the chance that a
correct vector is rejected is at most `false_alarm`, for means that are Gaussian to good accuracy.
Take thousands of samples: the tails of a mean of fewer are not Gaussian at these levels.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6

Side = Literal["two", "above", "below"]


class Verdict(NamedTuple):
    """Whether the means pass, the worst z-score, and the z-score from which they do not."""

    passed: bool
    max_z: float
    threshold: float


def z_scores(samples: np.ndarray, exact: np.ndarray | float, rounding: float = 0.0) -> np.ndarray:
    """`(mean - exact) / sqrt(standard_error^2 + rounding^2)` of each column of samples [n, ...].

    `rounding` is the arithmetic error of a mean; without it an estimate of no variance, such as
    the gradient of a term in closed form, could never pass.
    """
    samples = np.asarray(samples, np.float64)
    error = np.hypot(samples.std(axis=0, ddof=1) / np.sqrt(len(samples)), rounding)
    difference = samples.mean(axis=0) - np.asarray(exact, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / error)


def z_test(
    samples: np.ndarray,
    exact: np.ndarray | float,
    *,
    side: Side = "two",
    false_alarm: float = FALSE_ALARM,
    rounding: float = 0.0,
) -> Verdict:
    """Do the means of samples [n, ...] equal `exact` [...]?

    Args:
        samples: independent draws along the first axis.
        exact: the expectation.
        side: "above" rejects only means above `exact`, "below" only means below it.
        false_alarm: the chance of rejecting a correct vector.
        rounding: see `z_scores`.
    """
    z = z_scores(samples, exact, rounding)
    z = {"two": np.abs(z), "above": z, "below": -z}[side]
    tails = z.size * (2 if side == "two" else 1)
    threshold = float(stats.norm.isf(false_alarm / tails))
    # NaN compares as false, so a NaN never passes.
    return Verdict(bool(np.all(z <= threshold)), float(np.max(z)), threshold)


def assert_mean(
    samples: np.ndarray,
    exact: np.ndarray | float,
    *,
    side: Side = "two",
    false_alarm: float = FALSE_ALARM,
    rounding: float = 0.0,
    what: str = "mean",
) -> None:
    """Raise AssertionError, with the numbers, unless `z_test` passes."""
    verdict = z_test(samples, exact, side=side, false_alarm=false_alarm, rounding=rounding)
    assert verdict.passed, (
        f"{what}: max z = {verdict.max_z:.2f} > {verdict.threshold:.2f} ({side}-sided, false alarm "
        f"{false_alarm:g}); means {np.mean(samples, axis=0)}, exact {exact}"
    )


def assert_mean_exceeds(
    samples: np.ndarray, limit: float, *, false_alarm: float = FALSE_ALARM, what: str = "mean"
) -> None:
    """Raise AssertionError unless the mean lies above `limit` beyond doubt.

    The claim is shown, not merely left standing: if the mean were at most `limit`, this would pass
    with a chance of at most `false_alarm`.
    """
    verdict = z_test(samples, limit, side="above", false_alarm=false_alarm)
    assert verdict.max_z > verdict.threshold, (
        f"{what}: z = {verdict.max_z:.2f}, needs more than {verdict.threshold:.2f}; "
        f"mean {np.mean(samples):.6g}, limit {limit}"
    )
