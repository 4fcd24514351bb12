"""Everything here couples the examples of a batch: `(keys [B], model, xs [B, *event]) -> Terms` of [B].

Each is for `jaxvae.training.make_step(objective, optimizer, batch_coupled=True)`. The term that
couples enters `objective` alone, so that its mean over the batch is the published objective;
`bound`, `distortion` and `rate` are those of each example on its own.

A `weight` [B], of the batch or of its `mask` of examples, reaches the term that couples, too. An example of
weight 0 is not there, NaN included; weights that are alike are none, and only their ratios matter. Of
independent examples of one law, covariance and MMD have no bias, whatever the weights. An example of
weight 2 weighs as two do, but is no pair: it is not compared with itself. Fewer examples than an objective
needs are refused, or, where the weights are traced, give a finite number: see `aggregate_covariance`,
`mmd2`, `log_weights` and `discriminator_log_likelihood`.
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
