"""Pareto k-hat: the heaviness of the tail of importance weights, from the largest weights."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvae.types import InputError

SMALLEST_TAIL = 5
_PRIOR_MEAN, _PRIOR_COUNT = 0.5, 10
"""The weak prior of k-hat, equivalent to ten observations of a tail with k = 1/2."""


def tail_length(num_samples: int) -> int:
    """Return the number of the K weights that form the tail: `min(K / 5, 3 sqrt(K))`."""
    return min(num_samples // 5, math.ceil(3 * math.sqrt(num_samples)))


def pareto_k(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """Pareto k-hat of importance weights, the shape of a generalised Pareto fit to their tail.

    `P(w > u + y | w > u) = (1 + k y / s)^(-1/k)` over the largest `tail_length(K)` weights; weights of
    shape k have finite moments of order below 1/k. Below 0.5 their variance is finite and the
    standard error is valid; up to 0.7 estimates are usable; above, the most important weights have
    probably not been drawn, and no standard error shows how far off the estimate is.

    Args:
        log_w: all log-weights [K], nats; an additive constant has no effect.

    Returns:
        k-hat, a scalar without unit; NaN for fewer than 25 weights, whose tail is too short, or if the
        weights of the tail are equal up to float32 rounding, as under the exact posterior; infinite if
        fewer than five weights are not 0.

    Raises:
        InputError: `log_w` is not a vector.

    >>> e = jax.random.normal(jax.random.key(0), (5000,))
    >>> narrow, wide = 0.48 * e**2, -1.5 * e**2  # q a fifth, and twice, as wide as a Gaussian p
    >>> bool(pareto_k(narrow) > 0.7), bool(pareto_k(wide) < 0.5)
    (True, True)

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling";
    the fit of Zhang and Stephens (2009), "A new and efficient estimation method for the generalized
    Pareto distribution".
    """
    if jnp.ndim(log_w) != 1:
        raise InputError(f"log_w: expected log-weights of shape [K], got {jnp.shape(log_w)}")
    largest = jax.lax.top_k(log_w, min(tail_length(log_w.shape[0]) + 1, log_w.shape[0]))[0]
    return pareto_k_of_tail(largest)


def pareto_k_of_tail(
    largest: Float[Array, "tail"], *, unknown: float = jnp.nan
) -> Float[Array, ""]:
    """Pareto k-hat from the largest M + 1 log-weights in decreasing order, the last being the threshold u.

    If k-hat is undefined, the result is `unknown`.
    """
    size = largest.shape[0] - 1
    if size < SMALLEST_TAIL:
        return jnp.full((), unknown, largest.dtype)
    tail = largest[::-1] - largest[0]  # in increasing order
    threshold, tail = tail[0], tail[1:]
    above = tail > threshold  # ties with the threshold do not belong to the tail
    count = jnp.sum(above.astype(tail.dtype))
    # Log-excesses log(w - u), relative to the largest: the fit does not depend on their scale. They remain
    # logarithms, since the weights of a very poor posterior exceed the range of float32.
    below = jnp.where(above, threshold - tail, -1.0)
    log_y = jnp.where(above, tail, 0.0) + _log_one_minus_exp(below)
    k = _shape(log_y - log_y[-1], above, count)
    k = (count * k + _PRIOR_COUNT * _PRIOR_MEAN) / (count + _PRIOR_COUNT)
    differ = threshold < -1e-5 * jnp.maximum(1, jnp.abs(largest[0]))
    few = jnp.where(
        jnp.isneginf(threshold), jnp.inf, unknown
    )  # all but a few have no weight at all
    return jnp.where(count < SMALLEST_TAIL, few, jnp.where(differ, k, unknown))


def _log_one_minus_exp(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(1 - exp(a))` for a <= 0."""
    return jnp.log(-jnp.expm1(a))


def _shape(
    log_y: Float[Array, "M"], above: Bool[Array, "M"], count: Float[Array, ""]
) -> Float[Array, ""]:
    """The shape k of a generalised Pareto distribution, from log-excesses in increasing order.

    The last excess is 0, and only the last `count` are valid. The estimate is quasi-Bayesian, the mean of
    theta = -k / s under its profile likelihood on a grid. The grid points are theta = 1 - c, c > 0; they are
    represented by their sign and log|theta|, and theta < 0 corresponds to k > 0.
    """
    size = log_y.shape[0]
    points = 30 + math.isqrt(size)
    quantiles = (jnp.arange(points, dtype=log_y.dtype) + 0.5) / points
    log_quartile = log_y[
        size - count.astype(int) + jnp.maximum((count / 4 + 0.5).astype(int), 1) - 1
    ]
    log_c = jnp.log(jnp.sqrt(1 / quantiles) - 1) - jnp.log(3.0) - log_quartile
    is_negative = log_c > 0
    # For theta near 0 the likelihood is that of the exponential distribution, the limit of k -> 0.
    tiny = jnp.finfo(log_y.dtype).eps
    log_size = jnp.where(is_negative, log_c, 0.0) + jnp.log(
        jnp.maximum(jnp.abs(jnp.expm1(-jnp.abs(log_c))), tiny)
    )  # log|theta|: c (1 - 1 / c), or 1 - c

    def k_of(is_negative: Array, log_size: Array) -> Array:
        log_theta_y = log_size + log_y
        below_one = jnp.minimum(jnp.exp(jnp.minimum(log_theta_y, 0.0)), 1 - tiny)
        each = jnp.where(is_negative, jax.nn.softplus(log_theta_y), jnp.log1p(-below_one))
        return jnp.sum(jnp.where(above, each, 0.0)) / jnp.maximum(count, 1)

    k = jax.vmap(k_of)(is_negative, log_size)
    profile = count * (log_size - jnp.log(jnp.abs(k)) - k - 1)
    # The mean of theta, for each sign separately: the log of the sum of weights times |theta|.
    log_weight = jax.nn.log_softmax(profile) + log_size
    negative = jax.nn.logsumexp(jnp.where(is_negative, log_weight, -jnp.inf))
    positive = jax.nn.logsumexp(jnp.where(is_negative, -jnp.inf, log_weight))
    apart = jnp.maximum(-jnp.expm1(-jnp.abs(negative - positive)), tiny)
    return k_of(negative > positive, jnp.maximum(negative, positive) + jnp.log(apart))
