"""Traversals of the latent space: p(x|z) over a plane of two latents, or along one latent at a time."""

from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from numpyro.distributions import Independent, Normal

from jaxvae import evaluation
from jaxvae.checks import require_positive
from jaxvae.evaluation.decoding import likelihood_means
from jaxvae.reports import vectors
from jaxvae.reports.images import as_images, label_columns, label_rows, mosaic, picture, unit
from jaxvae.reports.latents import most_active
from jaxvae.reports.style import INK, MUTED
from jaxvae.types import InputError, Model, PRNGKey

MOST_LATENTS = 8


def latent_manifold(model: Model, *, size: int = 20, key: PRNGKey | None = None) -> Figure:
    """Draw means of p(x|z) over a plane of two latents, evenly spaced in prior probability.

    `z = Phi^-1((i + 1/2) / size)` on each axis, Phi the standard normal's distribution function.

    Args:
        model: a model of images with two latents and a standard normal prior.
        size: images along a side.
        key: the key of draws, used if p(x|z) has no mean.

    Returns:
        The figure; z[0] grows to the right and z[1] upwards.

    Raises:
        InputError: there are not two latents, or the examples are not images.
    """
    require_positive(size=size)
    if model.prior().event_shape != (2,):
        raise InputError(
            f"model: expected two latents, got a prior of shape {model.prior().event_shape}; "
            "use latent_traversals"
        )
    z = manifold_axis(size)
    columns, rows = np.meshgrid(z, z[::-1])
    means = likelihood_means(model, np.stack([columns.ravel(), rows.ravel()], axis=1), key=key)
    images = as_images(means)
    if images is None:
        raise InputError(
            f"model: expected examples that are images, got shape {means.shape[1:]}; "
            "use latent_traversals"
        )
    figure, axes = picture(mosaic(unit(images), size), tile=images.shape[2], left=0.6, bottom=0.5)
    height, width = images.shape[1:3]
    ticks = np.unique(np.linspace(0, size - 1, min(size, 6)).round().astype(int))
    names = [f"{z[tick]:.1f}" for tick in ticks]
    label_columns(axes, [width * (tick + 0.5) - 0.5 for tick in ticks], names)
    label_rows(axes, [height * (size - 1 - tick + 0.5) - 0.5 for tick in ticks], names)
    axes.set_xlabel("z[0]", color=INK)
    axes.set_ylabel("z[1]", color=INK)
    return figure


def manifold_axis(size: int) -> Float[np.ndarray, "size"]:
    """Return the standard normal quantiles at (i + 1/2) / size, float32."""
    quantile = NormalDist().inv_cdf
    return np.asarray([quantile((i + 0.5) / size) for i in range(size)], np.float32)


def latent_traversals(
    model: Model,
    xs: Float[Array | np.ndarray, "N *event"],
    *,
    steps: int = 11,
    span: float = 3.0,
    num_samples: int | None = None,
    key: PRNGKey | None = None,
) -> Figure:
    """Draw means of p(x|z) along the most active latents, one at a time, for the first example.

    Latent d runs from `-span` to `span` under the standard normal prior; under another prior, it runs
    +-`span` standard deviations of its posterior means over examples, about their mean.

    Args:
        model: any object with `posterior` and `likelihood`.
        xs: examples as the model sees them, [N, *event]; all of them determine which latents are active,
            and the first one determines the posterior mean at which the other latents are fixed.
        steps: number of values of z[d] per row.
        span: half the range of the values.
        num_samples: for posteriors without a closed-form mean, see `evaluation.posterior_moments`.
        key: the key of these draws, and of draws from a p(x|z) without a mean.

    Returns:
        The figure: a row per latent, at most 8, labelled with its number and active-unit variance.

    Raises:
        InputError: `steps` is below 1, or there are no examples.
    """
    require_positive(steps=steps)
    units = evaluation.active_units(model, xs, num_samples=num_samples, key=key)
    chosen = most_active(units.variance)[:MOST_LATENTS]
    values = np.linspace(-span, span, steps, dtype=np.float32)
    latents = evaluation.posterior_moments(model, xs, num_samples=num_samples, key=key).mean
    zs = np.tile(np.asarray(latents[0], np.float32), (len(chosen), steps, 1))
    standard = is_standard_normal(model)
    for row, d in enumerate(chosen):
        middle, spread = (0.0, 1.0) if standard else (latents[:, d].mean(), latents[:, d].std())
        zs[row, :, d] = middle + spread * values
    means = likelihood_means(model, zs.reshape(-1, zs.shape[-1]), key=key)
    images = as_images(means)
    if images is None:
        lines = means.reshape(len(chosen), steps, -1)
        titles = [f"z[{d}]  var {units.variance[d]:.2g}" for d in chosen]
        return vectors.fans(lines, values, titles)
    figure, axes = picture(
        mosaic(unit(images), steps, gap=1), tile=images.shape[2], left=1.4, bottom=0.55
    )
    height, width = images.shape[1:3]
    rows = [row * (height + 1) + (height - 1) / 2 for row in range(len(chosen))]
    label_rows(axes, rows, [f"z[{d}]  var {units.variance[d]:.2g}" for d in chosen])
    for tick, d in zip(axes.get_yticklabels(), chosen, strict=True):
        tick.set_color(INK if units.active[d] else MUTED)
    centres = [column * (width + 1) + (width - 1) / 2 for column in range(steps)]
    label_columns(axes, centres, [f"{value:.1f}" for value in values])
    unit_of_z = "" if standard else " in standard deviations over examples"
    axes.set_xlabel(f"z[d]{unit_of_z}, the other latents at the posterior mean", color=INK)
    return figure


def is_standard_normal(model: Model) -> bool:
    """Return whether p(z) = N(0, I)."""

    def loc_and_scale() -> Any:
        p = model.prior()
        each = p.base_dist if isinstance(p, Independent) else p
        return (each.loc, each.scale) if isinstance(each, Normal) else None

    found = jax.jit(loc_and_scale)()
    if found is None or isinstance(found[0], Tracer):
        return False
    loc, scale = jax.device_get(found)
    return bool(np.all(loc == 0) and np.all(scale == 1))
