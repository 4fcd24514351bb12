"""Likelihoods by name."""

from typing import Literal, TypeAlias, get_args

from jaxvae.checks import require_choice
from jaxvae.models.likelihoods.base import Likelihood
from jaxvae.models.likelihoods.bits import Bernoulli
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
from jaxvae.models.likelihoods.reals import (
    FixedGaussian,
    Gaussian,
    GaussianPerValue,
    Laplace,
    StudentT,
)
from jaxvae.types import InputError

LikelihoodName: TypeAlias = Literal[
    "bernoulli",
    "continuous_bernoulli",
    "beta",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "gaussian",
    "gaussian_fixed",
    "gaussian_per_value",
    "laplace",
    "student_t",
    "categorical",
    "poisson",
    "negative_binomial",
    "zero_inflated_negative_binomial",
]

_LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "beta": Beta,
    "discretized_logistic": DiscretizedLogistic,
    "discretized_logistic_mixture": DiscretizedLogisticMixture,
    "gaussian": Gaussian,
    "gaussian_fixed": FixedGaussian,
    "gaussian_per_value": GaussianPerValue,
    "laplace": Laplace,
    "student_t": StudentT,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
}


def make_likelihood(
    likelihood: LikelihoodName | Likelihood, num_categories: int | None = None
) -> Likelihood:
    """The likelihood of this name, with its defaults; or the one that is given.

    Args:
        likelihood: a name, or a module.
        num_categories: C, for "categorical" alone.

    Raises:
        InputError: the name is not one of `LikelihoodName`, or `num_categories` is missing, below 2,
            or without effect.

    >>> make_likelihood("gaussian_per_value").num_params
    2
    """
    named = isinstance(likelihood, str)
    if named and likelihood == "categorical":
        if num_categories is None:
            raise InputError(
                'num_categories: expected an integer of at least 2 with likelihood="categorical", '
                "got None; pass Categorical(num_categories) itself as the likelihood"
            )
        return Categorical(num_categories)
    if not (named and likelihood in _LIKELIHOODS) and (
        named or not isinstance(likelihood, Likelihood)
    ):
        module = ", or a module of jaxvae.models.likelihoods"
        require_choice("likelihood", likelihood, get_args(LikelihoodName), or_else=module)
    if num_categories is not None:
        got = repr(likelihood) if named else type(likelihood).__name__
        raise InputError(
            f'num_categories: has an effect with likelihood="categorical" alone, got '
            f"{num_categories!r} with likelihood={got}; leave it out"
        )
    return _LIKELIHOODS[likelihood]() if isinstance(likelihood, str) else likelihood
