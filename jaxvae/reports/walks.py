"""Interpolations between the posterior means of two examples, decoded by p(x|z)."""

import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from jaxvae import evaluation
from jaxvae.evaluation.walks import Walk
from jaxvae.reports import vectors
from jaxvae.reports.images import as_images, label_columns, mosaic, picture, unit
from jaxvae.reports.style import INK
from jaxvae.types import Model, PRNGKey


def interpolations(
    model: Model,
    x_a: Float[Array | np.ndarray, "N *event"],
    x_b: Float[Array | np.ndarray, "N *event"],
    *,
    num: int = 8,
    kind: Walk = "linear",
    num_samples: int | None = None,
    key: PRNGKey | None = None,
) -> Figure:
    """Draw means of p(x|z) on the path between the posterior means of two examples, one row per pair.

    Args:
        model: any object with `prior`, `posterior` and `likelihood`.
        x_a: the start of each row: examples as the model sees them, [N, *event].
        x_b: the end of each row, [N, *event].
        num: number of points of a row, both ends included.
        kind: "linear" or "spherical", see `evaluation.interpolate`.
        num_samples: for posteriors without a closed-form mean, see `evaluation.posterior_moments`.
        key: the key of draws, see `evaluation.interpolate`.

    Returns:
        The figure: images lie between the two examples themselves; other events are drawn as lines.

    Raises:
        InputError: the numbers of examples differ, the latents are discrete, or an option is unknown.
    """
    means = evaluation.interpolate(
        model, x_a, x_b, num=num, kind=kind, num_samples=num_samples, key=key
    )
    size, *event = means.shape[0], *means.shape[2:]
    ways = np.linspace(0, 1, num)
    ends = [np.asarray(x, np.float32).reshape(size, 1, *event) for x in (x_a, x_b)]
    rows = np.concatenate([ends[0], means, ends[1]], axis=1)
    images = as_images(rows.reshape(-1, *event))
    if images is None:
        titles = [f"pair {pair}" for pair in range(size)]
        lines = means.reshape(size, num, -1)
        return vectors.fans(lines, ways, titles, label="t, from x_a to x_b")
    columns, width = num + 2, images.shape[2]
    figure, axes = picture(mosaic(unit(images), columns, gap=1), tile=width, bottom=0.55)
    centres = [column * (width + 1) + (width - 1) / 2 for column in range(columns)]
    label_columns(axes, centres, ["x_a", *(f"{way:.2g}" for way in ways), "x_b"])
    axes.set_xlabel(f"t, a {kind} walk between the posterior means", color=INK)
    return figure
