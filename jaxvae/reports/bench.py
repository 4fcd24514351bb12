"""A figure of `jaxvae bench`: efficiency relative to the matrix products alone, and ratios to peers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxvae.reports.style import BLUE, DPI, INK, MUTED, ORANGE, WIDTH, bare

Spread = Mapping[str, float]


def efficiency_bars(workloads: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw a bar per workload: time of its products alone / time of its step; whiskers span the rounds.

    The text beside it ends with the time of the bare step / that in the library's own loop. If peers
    were timed, there is a bar for each below: steps per second of jaxvae / of the peer.

    Args:
        workloads: the `workloads` from `jaxvae.bench.rounds.measure`, by name.

    Returns:
        The figure.
    """
    peers = {
        f"{name} / {peer}": one
        for name, found in workloads.items()
        for peer, one in found.get("peers", {}).items()
    }
    heights = [0.9 + 0.42 * len(bars) for bars in (workloads, peers) if bars]
    figure = Figure((WIDTH, sum(heights)), dpi=DPI, layout="constrained", facecolor="white")
    parts = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    _bars(
        parts[0],
        [f"{name}, batch {found['batch_size']}" for name, found in workloads.items()],
        [found["efficiency"] for found in workloads.values()],
        [
            f"{found['steps_per_s']['median']:.3g} steps/s, "
            f"{found['flop_per_s']['median'] / 1e9:.3g} GFLOP/s"
            + (f", loop {found['loop']['ratio']['median']:.2f}" if "loop" in found else "")
            for found in workloads.values()
        ],
        BLUE,
    )
    parts[0].set_xticks([0, 0.25, 0.5, 0.75, 1])
    parts[0].set_xlabel("time of the products alone / time of the step")
    if peers:
        _bars(
            parts[1],
            list(peers),
            [one["ratio"] for one in peers.values()],
            [f"its {one['steps_per_s']['median']:.3g} steps/s" for one in peers.values()],
            ORANGE,
        )
        parts[1].set_xlabel("steps a second of jaxvae / of the peer, in the same rounds")
    return figure


def _bars(
    axes: Axes, names: Sequence[str], found: Sequence[Spread], texts: Sequence[str], color: str
) -> None:
    """Draw bars with whiskers from minimum to maximum, a dotted line at 1, and text at the right."""
    median = np.array([one["median"] for one in found])
    ends = np.array([[one["median"] - one["min"], one["max"] - one["median"]] for one in found]).T
    far, places = max(1.0, *(one["max"] for one in found)), range(len(names))
    bare(axes)
    axes.barh(places, median, height=0.6, color=color)
    axes.errorbar(median, places, xerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=3)
    for place, text in zip(places, texts, strict=True):
        axes.text(1.04 * far, place, text, va="center", fontsize=8, color=MUTED)
    axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, names)
    axes.set_xlim(0, 1.7 * far)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= far])  # no bar is longer
    axes.invert_yaxis()
