"""Mutual information of x and z, and the decomposition of the rate in two parts."""

import math
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from jaxvae.checks import require_key, require_positive
from jaxvae.evaluation.aggregate import Draws, log_aggregate, posterior_draws, require_two
from jaxvae.evaluation.streams import mean_and_error, weights_of
from jaxvae.types import AnyModel, Batch, PRNGKey

Weight: TypeAlias = Float[np.ndarray, "N"] | None

NEAR = 0.9
"""The fraction of log N above which an estimate is near its ceiling."""


class PerLatent(NamedTuple):
    """A quantity of each latent separately, with its standard error over examples, nats."""

    mean: Float[np.ndarray, "D"]
    standard_error: Float[np.ndarray, "D"]


class MutualInformation(NamedTuple):
    """The mutual information of z and the index of the example, among N examples, nats."""

    each: Float[np.ndarray, "N"]
    """Estimates of KL(q(z|x_n) || q(z)) of every example, nats."""
    mean: tuple[float, float]
    """I(x; z), with its standard error over examples, which includes the Monte Carlo error, nats."""
    ceiling: float
    """The maximum of I(x; z): log N, or for weighted examples the entropy of their normalised weights, nats."""
    per_latent: PerLatent | None
    """I(x; z_d) of each latent; None if the posterior does not factorise."""

    @property
    def near_ceiling(self) -> bool:
        """True if the estimate exceeds 90 % of its ceiling, where it is uninformative."""
        return bool(self.mean[0] > NEAR * self.ceiling)

    def __str__(self) -> str:
        (mean, error), size = self.mean, len(self.each)
        said = f"I(x; z) = {mean:.2f} +- {error:.2f} nats, at most log N = {self.ceiling:.2f}"
        if self.near_ceiling:
            said += f"; near that ceiling it says little more than that {size:,} examples are few"
        return said


class Surgery(NamedTuple):
    """Distortion, the rate and its two parts, each as `(mean, standard error)` over examples, nats."""

    distortion: tuple[float, float]
    """-E log p(x|z)."""
    rate: tuple[float, float]
    """E log q(z|x) - log p(z), the sum of mutual information and marginal KL."""
    mutual_information: MutualInformation
    """I(x; z), the part of the rate that distinguishes examples."""
    marginal_kl: tuple[float, float]
    """KL(q(z) || p(z)), the part of the rate due to the distance of the aggregate posterior from the prior."""
    marginal_kl_per_latent: PerLatent | None
    """KL(q(z_d) || p(z_d)) of each latent; None if posterior or prior does not factorise."""

    def __str__(self) -> str:
        rate, kl = (f"{mean:.2f} +- {error:.2f}" for mean, error in (self.rate, self.marginal_kl))
        distortion = f"{self.distortion[0]:.2f} +- {self.distortion[1]:.2f}"
        most = "at most " if self.mutual_information.near_ceiling else ""
        return (
            f"distortion {distortion}, rate {rate} nats; of the rate {most}{kl} nats are "
            f"KL(q(z) || p(z)), and {self.mutual_information}"
        )


def mutual_information(
    key: PRNGKey, model: AnyModel, xs: Batch, *, num_samples: int = 1, batch_size: int = 500
) -> MutualInformation:
    """Estimate the mutual information of the N examples and z, `I = mean_n KL(q(z|x_n) || q(z))`.

    `each[n] = mean_k (log q(z_k|x_n) - log q(z_k))`, `z_k ~ q(z|x_n)`, `q(z) = mean_m q(z|x_m)` over all
    N examples, including x_n: N x N K densities, in chunks. It is unbiased for the empirical distribution
    of the examples. As an estimate for their population it is too small, since I is concave in the
    distribution of x, and I under the empirical distribution never exceeds log N, whatever the information
    in z: more examples raise it.

    Args:
        key: one typed key; sample k of example i draws from `fold_in(fold_in(key, i), k)`.
        model: any object with `prior` and `posterior`, or with `given`; q(z|x) must be able to score a
            given z.
        xs: two examples or more [N, *event], or a batch with `x` and optionally `label` and `mask`.
        num_samples: K.
        batch_size: examples at a time, for the sampling.

    Returns:
        `each` [N], its `mean` with a standard error, `ceiling` = log N, and the information of each
        latent if q factorises, nats; `str` warns if the ceiling is near. The standard error is, to first
        order, that for the population's I.

    Raises:
        InputError: there are fewer than two examples, an option is invalid, or q cannot score a given z.

    >>> import jax
    >>> from jaxvae.testing import draw_examples, linear_gaussian
    >>> model = linear_gaussian()
    >>> xs = draw_examples(jax.random.key(0), model, 100)
    >>> print(mutual_information(jax.random.key(1), model, xs, num_samples=10))
    I(x; z) = 0.37 +- 0.04 nats, at most log N = 4.61

    Source: Hoffman and Johnson (2016), "ELBO surgery: yet another way to carve up the variational
    evidence lower bound".
    """
    draws = _checked_draws(key, model, xs, num_samples, batch_size, decode=False)
    return _mutual_information(weights_of(xs), draws, *_log_aggregate(model, xs, draws))


def elbo_surgery(
    key: PRNGKey, model: AnyModel, xs: Batch, *, num_samples: int = 1, batch_size: int = 500
) -> Surgery:
    """Decompose the ELBO in three parts: `-ELBO = distortion + I(x; z) + KL(q(z) || p(z))`.

    `rate = E log q(z|x) - log p(z) = I(x; z) + KL(q(z) || p(z))` with the q(z) of the N examples, exact
    for their empirical distribution: the parts are estimated from the same samples and sum to the rate up
    to rounding. As estimates for the population the first part is too small, at most log N, and the second
    too large by the same amount: if I(x; z) is near log N, `marginal_kl` is only an upper bound.

    Args:
        key: one typed key; sample k of example i draws from `fold_in(fold_in(key, i), k)`.
        model: any object with `prior`, `posterior` and `likelihood`, or with `given` and one prior
            for all labels; q(z|x) must be able to score a given z.
        xs: two examples or more, as for `mutual_information`.
        num_samples: K.
        batch_size: examples at a time, for the sampling.

    Returns:
        The four quantities with standard errors over examples, and mutual information and marginal KL
        of each latent if prior and posterior factorise, nats. Those of the latents need not sum to
        those of z, since latents may be dependent under q(z).

    Raises:
        InputError: there are fewer than two examples, an option is invalid, or q cannot score a given z.

    >>> import jax
    >>> from jaxvae.testing import draw_examples, linear_gaussian
    >>> model = linear_gaussian()
    >>> xs = draw_examples(jax.random.key(0), model, 100)
    >>> parts = elbo_surgery(jax.random.key(1), model, xs)
    >>> whole = parts.mutual_information.mean[0] + parts.marginal_kl[0]
    >>> abs(whole - parts.rate[0]) < 1e-5
    True

    Source: Hoffman and Johnson (2016), "ELBO surgery: yet another way to carve up the variational
    evidence lower bound".
    """
    draws = _checked_draws(key, model, xs, num_samples, batch_size, decode=True)
    log_q_z, log_q_z_each = _log_aggregate(model, xs, draws)
    log_p_x_z, log_q, log_p = (
        np.asarray(a, np.float64) for a in (draws.log_p_x_z, draws.log_q, draws.log_p)
    )
    factorised = log_q_z_each is not None and draws.log_p_each is not None
    weight = weights_of(xs)
    over_examples = partial(_over_examples, weight)
    return Surgery(
        over_examples(-log_p_x_z),
        over_examples(log_q - log_p),
        _mutual_information(weight, draws, log_q_z, log_q_z_each),
        over_examples(log_q_z - log_p),
        _per_latent(weight, log_q_z_each - np.asarray(draws.log_p_each)) if factorised else None,
    )


def _checked_draws(
    key: PRNGKey, model: AnyModel, xs: Batch, num_samples: int, batch_size: int, *, decode: bool
) -> Draws:
    require_key(key)
    require_positive(num_samples=num_samples)
    require_two(xs)
    options = {"num_samples": num_samples, "batch_size": batch_size}
    return posterior_draws(key, model, xs, **options, decode=decode)


def _log_aggregate(
    model: AnyModel, xs: Batch, draws: Draws
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N K D"] | None]:
    """Return log q(z) of every sample, and of each latent separately if the posteriors factorise, nats."""
    size, samples, *latent = draws.z.shape
    factorised = draws.log_q_each is not None
    log_q, each = log_aggregate(
        model, xs, draws.z.reshape(size * samples, *latent), each=factorised
    )
    log_q = log_q.reshape(size, samples)
    return log_q, None if each is None else each.reshape(size, samples, -1)


def _mutual_information(
    weight: Weight,
    draws: Draws,
    log_q_z: Float[np.ndarray, "N K"],
    log_q_z_each: Float[np.ndarray, "N K D"] | None,
) -> MutualInformation:
    each = np.mean(np.asarray(draws.log_q) - log_q_z, axis=1)
    per_latent = None
    if log_q_z_each is not None:
        per_latent = _per_latent(weight, np.asarray(draws.log_q_each) - log_q_z_each)
    return MutualInformation(each, mean_and_error(each, weight), _ceiling(each, weight), per_latent)


def _ceiling(each: np.ndarray, weight: Weight) -> float:
    """The entropy of the example's index, nats: log N for equal weights."""
    if weight is None:
        return math.log(len(each))
    share = weight[weight > 0] / np.sum(weight)
    return float(-np.sum(share * np.log(share)))


def _over_examples(weight: Weight, values: Float[np.ndarray, "N K"]) -> tuple[float, float]:
    return mean_and_error(np.mean(values, axis=1), weight)


def _per_latent(weight: Weight, values: Float[np.ndarray, "N K D"]) -> PerLatent:
    pairs = [_over_examples(weight, values[..., d]) for d in range(values.shape[-1])]
    mean, error = zip(*pairs, strict=True) if pairs else ((), ())
    return PerLatent(np.array(mean), np.array(error))
