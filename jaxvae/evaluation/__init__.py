"""What a model is worth: likelihoods and latent use. Takes models and examples, never runs."""

from jaxvae.evaluation.labels import Classification, classification
from jaxvae.evaluation.latents import (
    ActiveUnits,
    LayerKL,
    Moments,
    active_units,
    kl_per_latent,
    kl_per_layer,
    posterior_moments,
)
from jaxvae.evaluation.likelihood import LogLikelihood, log_likelihood, terms
from jaxvae.evaluation.reliance import Reliance, reliance_on_latents
from jaxvae.evaluation.streams import mean_and_error

__all__ = [
    "ActiveUnits",
    "Classification",
    "LayerKL",
    "LogLikelihood",
    "Moments",
    "Reliance",
    "active_units",
    "classification",
    "kl_per_latent",
    "kl_per_layer",
    "log_likelihood",
    "mean_and_error",
    "posterior_moments",
    "reliance_on_latents",
    "terms",
]
