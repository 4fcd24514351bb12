"""Models, one module per family, each declaring p(z), q(z|x) and p(x|z)."""

from jaxvae.models.autoregressive import AutoregressiveVAE, autoregressive
from jaxvae.models.beta_vae import beta_vae
from jaxvae.models.conditional import ConditionalVAE, conditional_vae, require_labels
from jaxvae.models.conv_vae import conv_vae
from jaxvae.models.count_vae import BatchCountVAE, CountVAE, count_vae
from jaxvae.models.factor_analysis import LinearGaussian, factor_analysis, fit_ppca, ppca
from jaxvae.models.flow_prior import flow_prior_vae
from jaxvae.models.gaussian_mixture import GaussianMixture, gaussian_mixture
from jaxvae.models.gmvae import gmvae
from jaxvae.models.hierarchical import Hierarchical, hierarchical
from jaxvae.models.ica import ICA, amari_index, ica
from jaxvae.models.kmeans import kmeans
from jaxvae.models.ladder import Ladder, ladder
from jaxvae.models.priors import FlowPrior, MixturePrior
from jaxvae.models.sequence_vae import SequenceDecoder, sequence_vae
from jaxvae.models.ssvae import SSVAE, ssvae
from jaxvae.models.vae import VAE, vae
from jaxvae.models.vampprior import PseudoInputs, VampPriorVAE, vampprior

__all__ = [
    "ICA",
    "SSVAE",
    "VAE",
    "AutoregressiveVAE",
    "BatchCountVAE",
    "ConditionalVAE",
    "CountVAE",
    "FlowPrior",
    "GaussianMixture",
    "Hierarchical",
    "Ladder",
    "LinearGaussian",
    "MixturePrior",
    "PseudoInputs",
    "SequenceDecoder",
    "VampPriorVAE",
    "amari_index",
    "autoregressive",
    "beta_vae",
    "conditional_vae",
    "conv_vae",
    "count_vae",
    "factor_analysis",
    "fit_ppca",
    "flow_prior_vae",
    "gaussian_mixture",
    "gmvae",
    "hierarchical",
    "ica",
    "kmeans",
    "ladder",
    "ppca",
    "require_labels",
    "sequence_vae",
    "ssvae",
    "vae",
    "vampprior",
]
