"""Contours of the ELBO surface of one example, with the optimisation path and the encoder's q."""

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxvae.evaluation import Contour
from jaxvae.reports.style import DPI, INK, MUTED, ORANGE, bare
from jaxvae.types import InputError

LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The contour levels: nats below the highest ELBO."""

DARK = 10.0
"""The largest level at which the background is dark enough for white lines."""

COLOURS = "Blues_r"


def elbo_contours(surfaces: Sequence[Contour], titles: Sequence[str] | None = None) -> Figure:
    """Draw maps of the ELBO over two means, side by side, such as the whole path and a close-up of its end.

    Contours are drawn where the ELBO is 0.1, 0.3, 1, 3, 10, .. nats below the highest of the map. A frame in a map
    shows the extent of the next map, if that lies within.

    Args:
        surfaces: one or more, from `jaxvae.evaluation.contour`.
        titles: one per map; by default the ELBO at the end of the path, and the encoder's distance below it.

    Returns:
        The figure.

    Raises:
        InputError: there are no surfaces, or not one title per map.
    """
    if not surfaces:
        raise InputError("surfaces: expected at least one, got none")
    if titles is not None and len(titles) != len(surfaces):
        raise InputError(f"titles: expected {len(surfaces)}, one a map, got {len(titles)}")
    count = len(surfaces)
    side = 3.0 if count > 1 else 3.8
    size = (count * (side + 0.55) + 0.95, side + 1.2)  # with labels, bar, title and legend
    figure = Figure(size, dpi=DPI, layout="constrained", facecolor="white")
    filled = None
    for i, surface in enumerate(surfaces):
        axes = figure.add_subplot(1, count, i + 1)
        bare(axes)
        filled = _map(axes, surface)
        _marks(axes, surface)
        if i + 1 < count:
            _frame(axes, surface, surfaces[i + 1])
        axes.set_title(_title(surface) if titles is None else titles[i], loc="left", fontsize=10)
    assert filled is not None
    handles, names = figure.axes[0].get_legend_handles_labels()
    bar = figure.colorbar(filled, ax=figure.axes, pad=0.02, aspect=25, spacing="uniform")
    bar.set_ticks([*LEVELS], labels=[f"{level:g}" for level in LEVELS])
    bar.set_label("nats below the highest ELBO")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _map(axes: Axes, surface: Contour) -> QuadContourSet:
    elbo = np.asarray(surface.elbo, np.float64)
    # The end of the path need not be the global maximum.
    below = max(surface.best_elbo, float(elbo.max())) - elbo
    edges = [0.0, *LEVELS, np.inf]
    norm = BoundaryNorm(edges[:-1], ncolors=256, extend="max")
    filled = axes.contourf(
        surface.first,
        surface.second,
        below,
        levels=edges[:-1],
        norm=norm,
        cmap=COLOURS,
        extend="max",
    )
    inks = ["white" if level <= DARK else MUTED for level in LEVELS]
    lines = axes.contour(
        surface.first, surface.second, below, levels=LEVELS, colors=inks, linewidths=0.7
    )
    axes.clabel(lines, fmt="%g", fontsize=8, colors=inks)
    axes.set_aspect("equal")
    first, second = surface.coordinates
    axes.set_xlabel(f"mean of z[{first}]")
    axes.set_ylabel(f"mean of z[{second}]")
    return filled


def _marks(axes: Axes, surface: Contour) -> None:
    halo = [patheffects.withStroke(linewidth=2.6, foreground="white")]
    path, encoder = np.asarray(surface.path), np.asarray(surface.encoder)
    axes.plot(*path.T, color=INK, lw=1.2, label="optimisation of q", path_effects=halo, zorder=3)
    axes.plot(*path[0], "o", color="white", mec=INK, ms=6, label="its start", zorder=4)
    axes.plot(*encoder, "D", color=ORANGE, mec="white", ms=8, label="encoder", zorder=5)
    axes.plot(*path[-1], "*", color=INK, mec="white", ms=13, label="where it ends", zorder=6)


def _frame(axes: Axes, surface: Contour, inner: Contour) -> None:
    (left, right), (bottom, top) = ((a[0], a[-1]) for a in (inner.first, inner.second))
    within = surface.first[0] <= left and right <= surface.first[-1]
    if within and surface.second[0] <= bottom and top <= surface.second[-1]:
        axes.add_patch(
            Rectangle(
                (left, bottom), right - left, top - bottom, fill=False, ec=ORANGE, lw=1.2, zorder=2
            )
        )


def _title(surface: Contour) -> str:
    return (
        f"ELBO {surface.best_elbo:.1f} nats, encoder "
        f"{surface.best_elbo - surface.encoder_elbo:.1f} below"
    )
