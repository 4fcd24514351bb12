"""Objectives that couple the examples of a batch: `(keys [B], model, xs [B, *event]) -> Terms` of [B].

Each is for `jaxvae.training.make_step(objective, optimizer, batch_coupled=True)`. The coupling term
enters `objective` alone, so that its mean over the batch is the published objective;
`bound`, `distortion` and `rate` are those of each example alone.

A `weight` [B], from the batch's `weight` or its `mask` of examples, also applies to the coupling term. An example
of weight 0 is ignored, even if it is NaN; equal weights have no effect, and only the ratios of weights
matter. For independent, identically distributed examples, covariance and MMD are unbiased whatever the weights.
An example of weight 2 counts twice, but is not a pair: it is not compared with itself. A batch with fewer
examples than an objective needs is refused, or, if the weights are traced, gives a finite number: see
`aggregate_covariance`, `mmd2`, `log_weights` and `discriminator_log_likelihood`.
"""

from jaxvae.coupled.dip import aggregate_covariance, dip_vae
from jaxvae.coupled.factor import FactorVAE, discriminator_log_likelihood, factor_vae
from jaxvae.coupled.info import info_vae, mmd2
from jaxvae.coupled.total_correlation import Decomposition, beta_tc_vae, decompose, log_weights

__all__ = [
    "Decomposition",
    "FactorVAE",
    "aggregate_covariance",
    "beta_tc_vae",
    "decompose",
    "dip_vae",
    "discriminator_log_likelihood",
    "factor_vae",
    "info_vae",
    "log_weights",
    "mmd2",
]
