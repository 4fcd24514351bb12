"""Every figure of a report, each a function from plain arrays, records or a model to a `Figure`."""

from jaxvae.reports.curves import loss_curves, rate_distortion
from jaxvae.reports.decoding import (
    class_samples,
    how_shown,
    prior_samples,
    reconstruction_means,
)
from jaxvae.reports.images import example_grid, reconstructions
from jaxvae.reports.latents import kl_bars, latent_scatter
from jaxvae.reports.traversals import is_standard_normal, latent_manifold, latent_traversals

__all__ = [
    "class_samples",
    "example_grid",
    "how_shown",
    "is_standard_normal",
    "kl_bars",
    "latent_manifold",
    "latent_scatter",
    "latent_traversals",
    "loss_curves",
    "prior_samples",
    "rate_distortion",
    "reconstruction_means",
    "reconstructions",
]
