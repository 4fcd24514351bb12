"""Pictures of examples that are not images: rows of numbers as heat maps, dots and lines."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxvae.reports.style import BLUE, DPI, INK, ORANGE, SEQUENTIAL, WIDTH, bare, frame

COLUMNS = 4  # panels per row
FAN = "cividis"


def heat_map(x: Float[np.ndarray, "N M"]) -> Figure:
    """Draw a heat map with one row per example and one column per dimension.

    Args:
        x: [N, M].

    Returns:
        The figure.
    """
    figure, axes = frame(4.0)
    image = axes.imshow(x, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
    axes.set_xlabel("dimension of x")
    axes.set_ylabel("example")
    _whole(axes.xaxis, x.shape[1])
    _whole(axes.yaxis, x.shape[0])
    bar = figure.colorbar(image, ax=axes, label="value", pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def pairs(x: Float[np.ndarray, "N M"], mean: Float[np.ndarray, "N M"]) -> Figure:
    """Draw one panel per example: x as dots, its reconstruction as a line.

    Args:
        x: [N, M].
        mean: [N, M].

    Returns:
        The figure.
    """
    figure, panels = _panels(len(x))
    dots = "o" if x.shape[1] <= 64 else "."
    for axes, row, fitted in zip(panels, x, mean, strict=True):
        axes.plot(fitted, color=ORANGE, lw=1.4, label="mean of p(x|z)")
        axes.plot(row, dots, color=BLUE, ms=3.5 if dots == "o" else 1.5, label="x")
        _whole(axes.xaxis, x.shape[1])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    figure.supxlabel("dimension of x", fontsize=10, color=INK)
    return figure


def fans(
    lines: Float[np.ndarray, "R S M"],
    values: Float[np.ndarray, "S"],
    titles: Sequence[str],
    *,
    label: str = "z[d]",
) -> Figure:
    """Draw one panel per row, with a line for every value, coloured by the value.

    Args:
        lines: [R, S, M], the lines of R panels.
        values: [S], the value of the latent for each line.
        titles: the titles of the R panels.
        label: the label of the values.

    Returns:
        The figure.
    """
    figure, panels = _panels(len(lines))
    shade = Normalize(values.min(), values.max())
    colours = matplotlib.colormaps[FAN](shade(values))
    for axes, fan, title in zip(panels, lines, titles, strict=True):
        for line, colour in zip(fan, colours, strict=True):
            axes.plot(line, color=colour, lw=1.1)
        axes.set_title(title, fontsize=9)
        _whole(axes.xaxis, lines.shape[2])
    bar = figure.colorbar(ScalarMappable(shade, FAN), ax=panels, label=label, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    figure.supxlabel("dimension of x", fontsize=10, color=INK)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure((WIDTH, 0.7 + 1.5 * rows), dpi=DPI, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[:count]:
        bare(axes)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, list(grid[:count])


def _whole(axis, size: int) -> None:
    """Set few ticks, at whole numbers."""
    axis.set_major_locator(MaxNLocator(min(5, max(1, size)), integer=True))
