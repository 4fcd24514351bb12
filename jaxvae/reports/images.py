"""Pictures of examples: mosaics of images, or lines and heat maps of other events."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxvae.reports import vectors
from jaxvae.reports.style import DPI, IMAGE_WIDTH, INK
from jaxvae.types import InputError

TILE = 120  # the largest width of one image, screen pixels
PAIRS_A_ROW = 12


def example_grid(x: Float[np.ndarray, "N *event"], *, columns: int | None = None) -> Figure:
    """Draw examples as a grid of images, or as a heat map if they are not images.

    Args:
        x: [N, H, W], [N, H, W, 1] or [N, H, W, 3] is drawn as images, 0 black and 1 white; values
            outside 0 to 1 are scaled to their range. Anything else is drawn as rows of numbers.
        columns: images per row; a square grid if not given.

    Returns:
        The figure.

    Raises:
        InputError: there is no example.
    """
    x = _examples("x", x)
    images = as_images(x)
    if images is None:
        return vectors.heat_map(x.reshape(len(x), -1))
    columns = min(len(x), columns or math.ceil(math.sqrt(len(x))))
    return picture(mosaic(unit(images), columns, gap=1), tile=images.shape[2])[0]


def reconstructions(
    x: Float[np.ndarray, "N *event"], mean: Float[np.ndarray, "N *event"]
) -> Figure:
    """Draw examples as the model observed them, with the mean of the reconstruction below each.

    Args:
        x: [N, *event], as in `example_grid`.
        mean: E[x|z] at the posterior mean of each, [N, *event].

    Returns:
        The figure; events that are not images are drawn as dots (x) and lines (mean).

    Raises:
        InputError: there is no example, or the shapes differ.
    """
    x, mean = _examples("x", x), _examples("mean", mean)
    if x.shape != mean.shape:
        raise InputError(f"mean: expected the shape of x, {x.shape}, got {mean.shape}")
    both = as_images(np.concatenate([x, mean]))
    if both is None:
        return vectors.pairs(x.reshape(len(x), -1), mean.reshape(len(x), -1))
    top, bottom = np.split(unit(both), 2)
    columns = min(len(x), PAIRS_A_ROW)
    blocks = [
        np.concatenate([_row(rows[start : start + columns], columns) for rows in (top, bottom)])
        for start in range(0, len(x), columns)
    ]
    height, gap = both.shape[1], max(2, both.shape[1] // 4)
    spacer = np.ones((gap, *blocks[0].shape[1:]), np.float32)
    stacked = np.concatenate([part for block in blocks for part in (block, spacer)][:-1])
    figure, axes = picture(stacked, tile=both.shape[2], left=0.55)
    period = 2 * (height + 1) + gap
    centres = [
        b * period + r * (height + 1) + (height - 1) / 2 for b in range(len(blocks)) for r in (0, 1)
    ]
    label_rows(axes, centres, ["x", "mean"] * len(blocks))
    return figure


def as_images(x: Float[np.ndarray, "N *event"]) -> np.ndarray | None:
    """Return the examples as [N, H, W] or [N, H, W, 3], or None if they are not images."""
    if x.ndim == 4 and x.shape[-1] == 1:
        return x[..., 0]
    return x if x.ndim == 3 or (x.ndim == 4 and x.shape[-1] == 3) else None


def unit(images: np.ndarray) -> np.ndarray:
    """Leave values from 0 to 1 as they are, scale others from their common range, and replace NaN by 0."""
    finite = images[np.isfinite(images)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if low < 0 or high > 1:
        images = (images - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.nan_to_num(np.clip(images, 0, 1), nan=0.0).astype(np.float32)


def mosaic(images: np.ndarray, columns: int, *, gap: int = 0) -> np.ndarray:
    """Arrange images in reading order in one array, with white gaps and white in unused places.

    Args:
        images: [N, H, W] or [N, H, W, 3], values from 0 to 1.
        columns: images per row.
        gap: pixels between images.

    Returns:
        [rows (H + gap) - gap, columns (W + gap) - gap] and, for colour, 3.
    """
    size, height, width = images.shape[:3]
    rows = -(-size // columns)
    shape = (rows * (height + gap), columns * (width + gap), *images.shape[3:])
    canvas = np.ones(shape, np.float32)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas[: shape[0] - gap, : shape[1] - gap]


def picture(
    pixels: np.ndarray, *, tile: int, left: float = 0.0, bottom: float = 0.0
) -> tuple[Figure, Axes]:
    """Draw an array of pixels, each as the same whole number of screen pixels, so that it is sharp.

    Args:
        pixels: [H, W] grey or [H, W, 3], values from 0 to 1.
        tile: width of one image in pixels of the array; limits the magnification.
        left: margin for row labels, inches.
        bottom: margin for column labels, inches.

    Returns:
        The figure and its axes, without spines and ticks.
    """
    height, width = pixels.shape[:2]
    scale = max(1, min(int((IMAGE_WIDTH - left) * DPI) // width, TILE // tile))
    margin_x, margin_y = round(left * DPI), round(bottom * DPI)
    across, down = margin_x + scale * width, margin_y + scale * height
    # A hundredth of a pixel more, so that rounding down the size in inches does not lose a pixel.
    figure = Figure(((across + 0.01) / DPI, (down + 0.01) / DPI), dpi=DPI, facecolor="white")
    box = (margin_x / across, margin_y / down, scale * width / across, scale * height / down)
    axes = figure.add_axes(box)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure, axes


def label_rows(axes: Axes, centres: Sequence[float], labels: Sequence[str]) -> None:
    """Label a picture's rows on the left, at these pixel rows."""
    axes.set_yticks(centres, labels, color=INK)
    axes.tick_params(axis="y", length=0)


def label_columns(axes: Axes, centres: Sequence[float], labels: Sequence[str]) -> None:
    """Label a picture's columns below, at these pixel columns."""
    axes.set_xticks(centres, labels, color=INK)
    axes.tick_params(axis="x", length=0)


def _row(images: np.ndarray, columns: int) -> np.ndarray:
    """Return one row of a mosaic, padded with white, and a white line below it."""
    filled = np.ones((columns, *images.shape[1:]), np.float32)
    filled[: len(images)] = images
    row = mosaic(filled, columns, gap=1)
    return np.concatenate([row, np.ones((1, *row.shape[1:]), np.float32)])


def _examples(name: str, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"{name}: expected [N, *event] with N >= 1, got shape {x.shape}")
    return x
