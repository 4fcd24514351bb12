"""Training curves: losses, and the path through the rate-distortion plane, in nats."""

from collections.abc import Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from jaxvae.reports.style import BLUE, FAINT, MUTED, ORANGE, SEQUENTIAL, frame
from jaxvae.types import InputError

Records = Sequence[dict[str, Any]]

ROUND = (1, 2, 2.5, 5, 10)  # no ticks at 600, 1,200, ...
EARLY = 0.2  # the share of early points, whose outliers may lie outside the frame
SPLITS = {"train": ("training", BLUE), "valid": ("validation", ORANGE)}


def loss_curves(records: Records) -> Figure:
    """Draw training and validation loss against the step.

    The first points may lie far above the others; those that would flatten the rest lie outside the
    frame, and a note states their number and largest value.

    Args:
        records: lines of `metrics.jsonl`, with `step` and, for each split, `loss` in nats.

    Returns:
        The figure.

    Raises:
        InputError: there are no records.
    """
    _require(records, "loss")
    figure, axes = frame()
    curves = [(*SPLITS[name], *_series(records, name, "loss")) for name in SPLITS]
    curves = [curve for curve in curves if len(curve[2])]
    for label, colour, step, loss in curves:
        axes.plot(step, loss, color=colour, label=label, lw=1.6, marker="o", ms=3)
    bottom, top = _limits([loss for *_, loss in curves])
    axes.set_ylim(bottom, top)
    above = [
        (value, at)
        for *_, step, loss in curves
        for at, value in zip(step, loss, strict=True)
        if value > top
    ]
    if above:
        value, at = max(above)
        which = "one point" if len(above) == 1 else f"{len(above)} points, up to"
        note = f"Not in the frame: {which} {value:,.1f} nats at step {at:,.0f}"
        axes.set_title(note, loc="right", color=MUTED, fontsize=9)
    _steps(axes)
    axes.set_ylabel("loss (nats per example)")
    axes.legend(frameon=False, loc="upper right")
    return figure


def rate_distortion(records: Records) -> Figure:
    """Draw the path of training through the plane of rate and distortion, with lines of equal ELBO.

    Args:
        records: lines of `metrics.jsonl`, with `step`, `train` and optionally `valid`, which hold
            `rate` and `distortion` in nats.

    Returns:
        The figure.

    Raises:
        InputError: there are no records, or they hold no rate and distortion.
    """
    _require(records, "rate", "distortion")
    step, rate = _series(records, "train", "rate")
    _, distortion = _series(records, "train", "distortion")
    valid = _series(records, "valid", "rate")[1], _series(records, "valid", "distortion")[1]
    figure, axes = frame(4.2)
    axes.plot(rate, distortion, color=FAINT, lw=1, zorder=2)
    points = axes.scatter(rate, distortion, c=step, cmap=SEQUENTIAL, s=26, zorder=3)
    if len(valid[0]):
        last = valid[0][-1:], valid[1][-1:]
        marker = {"mfc": "none", "mec": ORANGE, "mew": 1.6, "ms": 8, "zorder": 4}
        axes.plot(*last, "D", label="last on validation", **marker)
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98))
    bottom, top = _limits([distortion, valid[1][-1:]], stretch=3)
    axes.set_ylim(bottom, top)
    axes.set_xlim(_limits([rate[distortion <= top], valid[0][-1:]], stretch=np.inf))
    equal_elbo_lines(axes)
    axes.set_xlabel("rate (nats)")
    axes.set_ylabel("distortion (nats)")
    bar = figure.colorbar(
        points, ax=axes, label="step", pad=0.02, format=StrMethodFormatter("{x:,.0f}")
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND))
    return figure


def equal_elbo_lines(axes: Axes) -> None:
    """Draw dashed lines of equal rate + distortion across the frame, labelled where there is room."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    room_x, room_y = 0.1 * (right - left), 0.1 * (top - bottom)
    for level in MaxNLocator(8).tick_values(left + bottom, right + top):
        ends = np.asarray([left, right])
        axes.plot(
            ends, level - ends, "--", color=FAINT, lw=0.8, zorder=1, scalex=False, scaley=False
        )
        x = min(right - room_x, level - bottom - room_y)  # away from the start of training
        if x > left + room_x and level - x < top - room_y:
            _label_line(axes, x, level - x, f"ELBO {-level:g}")


def _label_line(axes: Axes, x: float, y: float, label: str) -> None:
    """Draw a label along a line of slope -1 in data units."""
    text = axes.text(
        x, y, label, color=MUTED, fontsize=8, zorder=1.5, ha="center", va="center",
        rotation=-45, rotation_mode="anchor", transform_rotates_text=True,
        path_effects=[effects.withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip
    text.set_in_layout(False)


def _series(records: Records, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values of the records that have this number."""
    pairs = [
        (record["step"], record[split][name]) for record in records if name in record.get(split, {})
    ]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def _limits(curves: Sequence[np.ndarray], *, stretch: float = 1.0) -> tuple[float, float]:
    """Return limits of an axis that shows everything except early outliers.

    Early values may extend the range of the later ones upwards by `stretch` times its length.
    """
    late = np.concatenate([curve[int(EARLY * len(curve)) :] for curve in curves])
    every = np.concatenate(curves)
    late, every = late[np.isfinite(late)], every[np.isfinite(every)]
    if not len(late):
        return 0.0, 1.0
    low, high = every.min(), max(late.max(), every.min())
    if every.max() > high:
        high = min(every.max(), high + stretch * (high - low)) if high > low else every.max()
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - margin), float(high + margin)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(left=0)


def _require(records: Records, *names: str) -> None:
    if not records:
        raise InputError("records: expected at least one line of metrics, got none")
    missing = [name for name in names if name not in records[0]["train"]]
    if missing:
        raise InputError(
            f"records: expected {' and '.join(missing)} under train, got "
            f"{', '.join(records[0]['train'])}; the objective returned a bare scalar"
        )
