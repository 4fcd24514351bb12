"""Everything here couples the examples of a batch: `(keys [B], model, xs [B, *event]) -> Terms` of [B].

Each is for `jaxvae.training.make_step(objective, optimizer, batch_coupled=True)`. The term that
couples enters `objective` alone, so that its mean over the batch is the published objective;
`bound`, `distortion` and `rate` are those of each example on its own.

A `weight` or a `mask` of examples in the batch reaches the term that couples, too: an example of weight 0
is not there, NaN included, and weights that are alike are none. Of weights that are unlike only the
ratios matter: they say how often an example like this one is met, and the estimate of what couples keeps its
expectation. They are no counts of copies, which would be compared with each other. Fewer examples than
an objective needs are refused, or, where the weights are traced, give the finite number that
`aggregate_covariance`, `mmd2` and `log_weights` document.
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
