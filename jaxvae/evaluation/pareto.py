"""Pareto k-hat: how heavy the tail of importance weights is, from the largest of them."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae.types import InputError

SMALLEST_TAIL = 5
_PRIOR_MEAN, _PRIOR_COUNT = 0.5, 10
"""The weak prior of k-hat: ten observations of a tail of k = 1/2."""
_NOTHING = -80.0
"""What a log-weight counts as, beside the largest, where it is lower: next to nothing in float32."""


def tail_length(num_samples: int) -> int:
    """How many of K weights count as their tail: `min(K / 5, 3 sqrt(K))`."""
    return min(num_samples // 5, math.ceil(3 * math.sqrt(num_samples)))


def pareto_k(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """Pareto k-hat of importance weights, the shape of a generalised Pareto fit to their tail.

    `P(w > u + y | w > u) = (1 + k y / s)^(-1/k)` over the largest `tail_length(K)` weights; weights of
    shape k have finite moments of order below 1/k. Below 0.5 their variance is finite and the
    standard error holds; up to 0.7 estimates are usable; above, the weights that matter most are
    likely not among those that were drawn, and no error bar can say how far off the estimate is.

    Args:
        log_w: all log-weights [K], nats; an additive constant does not matter.

    Returns:
        k-hat, a scalar without unit; NaN where fewer than 25 weights make no tail, or where those of
        the tail do not differ beyond float32, as under the exact posterior.

    Raises:
        InputError: `log_w` is no vector.

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


def pareto_k_of_tail(largest: Float[Array, "M+1"]) -> Float[Array, ""]:
    """Pareto k-hat from the largest M + 1 log-weights in falling order, the last being the threshold u."""
    size = largest.shape[0] - 1
    if size < SMALLEST_TAIL:
        return jnp.full((), jnp.nan, largest.dtype)
    tail = jnp.maximum(largest[::-1] - largest[0], _NOTHING)  # in rising order
    threshold, tail = tail[0], tail[1:]
    # Excesses w - u as parts of the greatest one: the fit does not depend on their unit.
    y = jnp.exp(tail) * jnp.expm1(threshold - tail) / jnp.expm1(threshold)
    k = _shape(jnp.maximum(y, jnp.exp(_NOTHING)))
    k = (size * k + _PRIOR_COUNT * _PRIOR_MEAN) / (size + _PRIOR_COUNT)
    return jnp.where(threshold < -1e-5 * jnp.maximum(1, jnp.abs(largest[0])), k, jnp.nan)


def _shape(y: Float[Array, "M"]) -> Float[Array, ""]:
    """K of a generalised Pareto from excesses in rising order, the last of them 1.

    The mean of theta = -k / s under its profile likelihood on a grid, a quasi-Bayesian estimate.
    """
    size = y.shape[0]
    points = 30 + math.isqrt(size)
    quantiles = (jnp.arange(points, dtype=y.dtype) + 0.5) / points
    quartile = y[int(size / 4 + 0.5) - 1]
    theta = 1 + (1 - jnp.sqrt(1 / quantiles)) / (3 * quartile)

    def k_of(theta: Array) -> Array:
        return jnp.mean(jnp.log1p(-theta * y))

    # At theta = 0 the likelihood is that of the exponential distribution, the limit of k -> 0.
    theta = jnp.where(theta == 0, jnp.finfo(y.dtype).eps, theta)
    k = jax.vmap(k_of)(theta)
    profile = size * (jnp.log(-theta / k) - k - 1)
    return k_of(jnp.sum(jax.nn.softmax(profile) * theta))
