"""The growth of the time of an IWAE step with batch size, K and width."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jaxvae.bench.checks import require_usable
from jaxvae.bench.products import flop_of
from jaxvae.bench.turns import in_turn
from jaxvae.bench.workloads import LAYERS, WORKLOADS, Job, layers_job
from jaxvae.networks import Precision
from jaxvae.types import Values

AXES = {
    "batch_size": (20, 40, 80, 160),
    "num_samples": (25, 50, 100, 200),
    "width": (100, 200, 400, 800),
}


class Line(NamedTuple):
    """A least-squares line `y = intercept + slope * x`."""

    intercept: float
    slope: float
    r_squared: float


def fit_line(x: Values, y: Values) -> Line:
    """Fit the least-squares line through points, with the share of the variance that it explains.

    >>> fit_line([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    Line(intercept=1.0, slope=2.0, r_squared=1.0)
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    dx, dy = xs - xs.mean(), ys - ys.mean()
    slope = float(np.sum(dx * dy) / np.sum(dx**2))
    intercept = float(ys.mean() - slope * xs.mean())
    left = ys - intercept - slope * xs
    return Line(intercept, slope, float(1 - np.sum(left**2) / np.sum(dy**2)))


def scaling(
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    precision: Precision = "float32",
    axes: Mapping[str, Sequence[int]] = AXES,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Time the step of `iwae50` along each axis, with the other sizes unchanged, and fit a line.

    The line is `seconds = intercept + slope * flop`, with the flop of the matrix products of a step. The flop
    are linear in batch size and K, but not in the width; the line is in the flop for every axis.

    Args:
        rows: [N, 28, 28], from `draw_rows`.
        rounds: number of turns of each point.
        seconds_a_round: approximate length of a turn.
        precision: the precision of the matrix products.
        axes: values of `batch_size`, `num_samples` and `width`.
        say: called with lines about the progress.

    Returns:
        Axis -> `values`, `flop`, `seconds` (medians) and the fit: `intercept`, `slope`, `r_squared`.

    Raises:
        InputError: a number is out of its range.
    """
    require_usable(rounds, seconds_a_round)
    found = {}
    for axis, values in axes.items():
        jobs = []
        for value in values:
            say(f"iwae50 at {axis} {value}: compiling")
            jobs.append(iwae50(rows, precision, **{axis: value}))
        turns = in_turn([job.run for job in jobs], rounds, seconds_a_round)
        flop = [flop_of(job.products) for job in jobs]
        seconds = [statistics.median(point) for point in turns]
        line = fit_line(flop, seconds)
        found[axis] = {"values": list(values), "flop": flop, "seconds": seconds, **line._asdict()}
    return found


def iwae50(
    rows: Array, precision: Precision, *, batch_size: int | None = None, **sizes: int
) -> Job:
    """Compile the workload with another batch size or other `Layers`."""
    batch_size = batch_size or WORKLOADS["iwae50"].batch_size
    return layers_job(LAYERS["iwae50"]._replace(**sizes), batch_size, rows, precision)
