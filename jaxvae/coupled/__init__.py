"""Everything here couples the examples of a batch: `(keys [B], model, xs [B, *event]) -> Terms` of [B].

Each is for `jaxvae.training.make_step(objective, optimizer, batch_coupled=True)`. The term that
couples enters `objective` alone, so that its mean over the batch is the published objective;
`bound`, `distortion` and `rate` are those of each example on its own. A `mask` in the batch leaves
an example out of that mean, not out of the term that couples: leave masked rows out of the batch.
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
