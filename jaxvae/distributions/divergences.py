"""Divergences and entropies in closed form, nats, without a Monte Carlo fallback."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, kl_divergence
from numpyro.distributions.util import sum_rightmost

from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.distributions.checks import describe
from jaxvae.distributions.class_conditional import ClassConditional
from jaxvae.distributions.discrete import OneHotCategorical
from jaxvae.types import InputError


def analytic_kl(q: Distribution, p: Distribution) -> Float[Array, "*batch"]:
    """KL(q || p) in closed form, summed over the event.

    `kl = E_q[log q(z) - log p(z)]`, for two normals (diagonal or full), two Laplaces, a Laplace
    against a normal, two Bernoullis, two categoricals, two class-conditional normals, and the pairs
    for which NumPyro has a closed form.

    Args:
        q: the distribution under which the expectation is taken.
        p: the other distribution, of the same event shape.

    Returns:
        A scalar, in nats.

    Raises:
        InputError: no closed form is known for this pair, or their events differ in shape.

    >>> q, p = (dist.Normal(jnp.full(2, m), 1.0).to_event(1) for m in (1.0, 0.0))
    >>> float(analytic_kl(q, p))
    1.0

    Departs from the source: NumPyro's categorical has NaN gradients at probabilities of 0, and
    its Bernoulli entropy is NaN at logits of -200; finite supports are summed here instead. Its KL of normals
    is infinite for a scale below 1e-19.
    """
    if q.event_shape != p.event_shape:
        raise InputError(
            f"kl: expected two distributions of one event shape, got {q.event_shape} of "
            f"{describe(q)} and {p.event_shape} of {describe(p)}"
        )
    try:
        with numpyro_promotion():
            return jnp.asarray(_kl(q, p))
    except NotImplementedError:
        raise InputError(
            f'kl: expected "monte_carlo", because no closed form of KL({describe(q)} || {describe(p)})'
            ' is known, got "analytic"'
        ) from None


def analytic_entropy(q: Distribution) -> Float[Array, ""]:
    """Entropy `E_q[-log q(z)]` in closed form, summed over the event.

    Args:
        q: a normal (diagonal or full), Laplace, Bernoulli or categorical distribution.

    Returns:
        A scalar, in nats; for a density it may be negative.

    Raises:
        InputError: no closed form is known.

    >>> round(float(analytic_entropy(dist.BernoulliLogits(jnp.zeros(3)).to_event(1)) / jnp.log(2.0)), 6)
    3.0
    """
    try:
        with numpyro_promotion():
            return jnp.asarray(_entropy(q))
    except NotImplementedError:
        raise InputError(
            "entropy: expected a distribution whose entropy has a known closed form, got "
            f"{describe(q)}; estimate it with the log-densities of samples"
        ) from None


# NumPyro annotates parameters with types wider than the arrays that they are, hence Any.


def _kl(q: Any, p: Any) -> Array:
    shape = jnp.broadcast_shapes(q.batch_shape, p.batch_shape)
    q, p = _unexpanded(q), _unexpanded(p)
    match q, p:
        case dist.Independent(), dist.Independent():
            shared = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
            return sum_rightmost(_kl(_peeled(q, shared), _peeled(p, shared)), shared)
        case dist.MultivariateNormal(), dist.Independent() if _is_diagonal_normal(p):
            kl = _kl_full_from_diagonal(q, p.mean, jnp.sqrt(p.variance))
        case ClassConditional(), ClassConditional():
            kl = _kl(q.label, p.label) + _expected(q, _kl(q.given_label, p.given_label))
        case (dist.Kumaraswamy(), _) | (dist.Delta(), _):
            # NumPyro's KL of a Kumaraswamy is a truncated series; that of a Delta compares a mass with a density.
            raise NotImplementedError
        case dist.Normal(), dist.Normal():
            kl = _kl_of_normals(q, p)
        case dist.Laplace(), dist.Laplace():
            kl = _kl_of_laplaces(q, p)
        case dist.Laplace(), dist.Normal():
            kl = _kl_of_laplace_from_normal(q, p)
        case _ if _support(q) is not None and _support(q) == _support(p):
            kl = _finite_sum(q, _log_pmf(p))
        case _:
            kl = kl_divergence(q, p)
    return jnp.broadcast_to(kl, shape)


def _entropy(q: Any) -> Array:
    shape, q = q.batch_shape, _unexpanded(q)
    match q:
        case dist.Independent():
            return sum_rightmost(_entropy(q.base_dist), q.reinterpreted_batch_ndims)
        case dist.Normal() | dist.Laplace() | dist.MultivariateNormal():
            entropy = q.entropy()
        case ClassConditional():
            entropy = _entropy(q.label) + _expected(q, _entropy(q.given_label))
        case _ if _support(q) is not None:
            entropy = -_finite_sum(q, jnp.zeros(()))
        case _:
            raise NotImplementedError
    # A parameter given as a scalar makes NumPyro's result smaller than the batch.
    return jnp.broadcast_to(entropy, shape)


def _unexpanded(distribution: Distribution) -> Any:
    while isinstance(distribution, dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def _peeled(distribution: dist.Independent, ndims: int) -> Distribution:
    left = distribution.reinterpreted_batch_ndims - ndims
    return dist.Independent(distribution.base_dist, left) if left else distribution.base_dist


def _is_diagonal_normal(p: dist.Independent) -> bool:
    return p.reinterpreted_batch_ndims == 1 and isinstance(_unexpanded(p.base_dist), dist.Normal)


def _kl_full_from_diagonal(q: Any, mean: Array, scale: Array) -> Array:
    squares = jnp.sum((q.scale_tril / scale[..., None]) ** 2, axis=(-2, -1))
    squares += jnp.sum(((q.loc - mean) / scale) ** 2, axis=-1)
    diagonal = jnp.diagonal(q.scale_tril, axis1=-2, axis2=-1)
    return (squares - mean.shape[-1]) / 2 + jnp.sum(jnp.log(scale) - jnp.log(diagonal), axis=-1)


def _expected(q: ClassConditional, each: Array) -> Array:
    """The expectation under q(y) of one number per class."""
    return jnp.sum(jax.nn.softmax(q.logits) * each, axis=-1)


def _kl_of_normals(q: Any, p: Any) -> Array:
    # The logarithm of the ratio, not of its square, which is 0 in float32 below 1e-23.
    ratio, distance = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return (ratio**2 + distance**2 - 1) / 2 - jnp.log(ratio)


def _kl_of_laplaces(q: Any, p: Any) -> Array:
    distance, ratio = jnp.abs(q.loc - p.loc), q.scale / p.scale
    return distance / p.scale + ratio * jnp.exp(-distance / q.scale) - jnp.log(ratio) - 1


def _kl_of_laplace_from_normal(q: Any, p: Any) -> Array:
    square = (2 * q.scale**2 + (q.loc - p.loc) ** 2) / p.scale**2
    return (square + jnp.log(2 * jnp.pi)) / 2 + jnp.log(p.scale) - jnp.log(2 * q.scale) - 1


def _support(distribution: Any) -> tuple[str, tuple[int, ...]] | None:
    """The kind of a finite support and its number of values, equal for comparable pairs; None if not finite."""
    match distribution:
        case dist.BernoulliLogits() | dist.BernoulliProbs():
            return "bits", (2,)
        case dist.CategoricalLogits():
            return "classes", jnp.shape(distribution.logits)[-1:]
        case dist.CategoricalProbs():
            return "classes", jnp.shape(distribution.probs)[-1:]
        case OneHotCategorical():
            return "one-hot", jnp.shape(distribution.logits)[-2:]
    return None


def _log_pmf(distribution: Any) -> Array:
    """Log-probabilities of all values of a finite support, along the last axis."""
    if isinstance(distribution, dist.BernoulliProbs | dist.CategoricalProbs):
        probs = jnp.asarray(distribution.probs)
        bits = isinstance(distribution, dist.BernoulliProbs)
        return _log(jnp.stack([1 - probs, probs], axis=-1) if bits else probs)
    logits = jnp.asarray(distribution.logits)
    if isinstance(distribution, dist.BernoulliLogits):
        return jax.nn.log_sigmoid(jnp.stack([-logits, logits], axis=-1))
    return jax.nn.log_softmax(logits)


def _log(probs: Array) -> Array:
    """`log(probs)`, -inf at 0, where the gradient is 0 and not NaN."""
    return jnp.where(probs > 0, jnp.log(jnp.where(probs > 0, probs, 1)), -jnp.inf)


def _finite_sum(q: Distribution, log_p: Array) -> Array:
    """`sum_z q(z) * (log q(z) - log_p(z))`, with 0 log 0 = 0; no gradient where q(z) = 0."""
    log_q = _log_pmf(q)
    possible = log_q > -jnp.inf
    log_q, log_p = jnp.where(possible, log_q, 0), jnp.where(possible, log_p, 0)
    terms = jnp.where(possible, jnp.exp(log_q), 0) * (log_q - log_p)
    return jnp.sum(terms, axis=(-2, -1) if isinstance(q, OneHotCategorical) else -1)
