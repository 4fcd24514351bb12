"""From the decoder's output to p(x|z): what x is made of. One file a kind of data."""

from typing import Literal, TypeAlias, get_args

from jaxvae.models.likelihoods.base import (
    Likelihood,
    feature_shape,
    require_event_shape,
    variance_of,
)
from jaxvae.models.likelihoods.bits import Bernoulli, BernoulliLogits, softplus
from jaxvae.models.likelihoods.reals import Gaussian
from jaxvae.types import InputError

__all__ = [
    "Bernoulli",
    "BernoulliLogits",
    "Gaussian",
    "Likelihood",
    "LikelihoodName",
    "feature_shape",
    "make_likelihood",
    "require_event_shape",
    "softplus",
    "variance_of",
]

LikelihoodName: TypeAlias = Literal["bernoulli", "gaussian"]

_LIKELIHOODS = {"bernoulli": Bernoulli, "gaussian": Gaussian}


def make_likelihood(likelihood: LikelihoodName | Likelihood) -> Likelihood:
    """The likelihood of this name, with its defaults; or the one that is given.

    Raises:
        InputError: the name is not one of `LikelihoodName`.
    """
    if not isinstance(likelihood, str) and isinstance(likelihood, Likelihood):
        return likelihood
    if likelihood not in _LIKELIHOODS:
        expected = " or ".join(f'"{choice}"' for choice in get_args(LikelihoodName))
        raise InputError(
            f"likelihood: expected {expected}, or a module of jaxvae.models.likelihoods, "
            f"got {likelihood!r}"
        )
    return _LIKELIHOODS[likelihood]()
