"""How near the workloads of `jaxvae bench` come to the time of their products alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxvae.reports.style import BLUE, INK, MUTED, frame


def efficiency_bars(workloads: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A bar a workload: time of its products alone over time of its step; whiskers span the rounds.

    Args:
        workloads: name -> what `jaxvae.bench.measure` found.

    Returns:
        The figure.
    """
    names = list(workloads)
    found = [workloads[name]["efficiency"] for name in names]
    median = np.array([one["median"] for one in found])
    ends = np.array([[one["median"] - one["min"], one["max"] - one["median"]] for one in found]).T
    far = max(1.0, *(one["max"] for one in found))
    figure, axes = frame(0.9 + 0.42 * len(names))
    places = range(len(names))
    axes.barh(places, median, height=0.6, color=BLUE)
    axes.errorbar(median, places, xerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=3)
    for place, name in zip(places, names, strict=True):
        one = workloads[name]
        speed, flop = one["steps_per_s"]["median"], one["flop_per_s"]["median"] / 1e9
        text = f"{speed:.3g} steps/s, {flop:.3g} GFLOP/s"
        axes.text(1.04 * far, place, text, va="center", fontsize=8, color=MUTED)
    axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [f"{name}, {workloads[name]['batch_size']}" for name in names])
    axes.set_xlim(0, 1.6 * far)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.invert_yaxis()
    axes.set_xlabel("time of the products alone / time of the step (workload, batch size)")
    return figure
