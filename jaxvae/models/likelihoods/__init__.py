"""From the decoder's output to p(x|z): what x is made of. One file a kind of data."""

from jaxvae.models.likelihoods.base import (
    Likelihood,
    feature_shape,
    require_event_shape,
    variance_of,
)
from jaxvae.models.likelihoods.bits import Bernoulli, BernoulliLogits, softplus
from jaxvae.models.likelihoods.classes import Categorical
from jaxvae.models.likelihoods.counts import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from jaxvae.models.likelihoods.grey import (
    Beta,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
)
from jaxvae.models.likelihoods.named import LikelihoodName, make_likelihood
from jaxvae.models.likelihoods.reals import (
    FixedGaussian,
    Gaussian,
    GaussianPerValue,
    Laplace,
    StudentT,
)

__all__ = [
    "Bernoulli",
    "BernoulliLogits",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FixedGaussian",
    "Gaussian",
    "GaussianPerValue",
    "Laplace",
    "Likelihood",
    "LikelihoodName",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "feature_shape",
    "make_likelihood",
    "require_event_shape",
    "softplus",
    "variance_of",
]
