"""All figures of a report: functions from arrays, records or a model to a `Figure`."""

from jaxvae.evaluation.decoding import how_shown
from jaxvae.reports.bench import efficiency_bars
from jaxvae.reports.contour import elbo_contours
from jaxvae.reports.curves import loss_curves, rate_distortion
from jaxvae.reports.decoding import class_samples, prior_samples, reconstruction_means
from jaxvae.reports.images import example_grid, reconstructions
from jaxvae.reports.information import information_bars, rate_distortion_frontier
from jaxvae.reports.latents import kl_bars, latent_scatter
from jaxvae.reports.traversals import is_standard_normal, latent_manifold, latent_traversals
from jaxvae.reports.walks import interpolations

__all__ = [
    "class_samples",
    "efficiency_bars",
    "elbo_contours",
    "example_grid",
    "how_shown",
    "information_bars",
    "interpolations",
    "is_standard_normal",
    "kl_bars",
    "latent_manifold",
    "latent_scatter",
    "latent_traversals",
    "loss_curves",
    "prior_samples",
    "rate_distortion",
    "rate_distortion_frontier",
    "reconstruction_means",
    "reconstructions",
]
