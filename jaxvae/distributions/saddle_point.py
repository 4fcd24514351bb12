"""The terms of Loader's saddle-point form of log-densities, which avoids large gamma functions.

In float32 `lgamma(1e4)` is accurate to 0.004 only, and log-densities are differences of several such
numbers. Loader's form replaces them by a deviance, which is zero at the mode, and the errors of
Stirling's formula, which are below 1 / (12 n).

Source: Loader (2000), "Fast and accurate computation of binomial probabilities".
"""

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

LOG_2PI = 1.8378770664093453
LARGEST_LOG = 60.0
"""The largest log-mean that is exponentiated exactly; above it the mean grows linearly."""

_NEAR, _STIRLING_FROM, _TINY = 0.1, 4.0, 1e-15


def stirling_error(n: Float[Array, "..."], log_n: Float[Array, "..."]) -> Float[Array, "..."]:
    """`lgamma(n + 1) - (n + 1/2) log(n) + n - log(2 pi) / 2`, for n > 0.

    Args:
        n: any positive number; it may have underflowed to 0.
        log_n: the logarithm of n, finite even if n has underflowed.

    >>> round(float(stirling_error(jnp.float32(1e4), jnp.log(jnp.float32(1e4)))) * 12e4, 4)
    1.0
    """
    large = n >= _STIRLING_FROM
    safe = jnp.where(large, n, 1.0)
    inverse = 1 / safe
    square = inverse**2
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    small = jnp.where(large, 1.0, n)
    log_small = jnp.where(large, 0.0, log_n)
    exact = gammaln(small + 1) - (small + 0.5) * log_small + small - LOG_2PI / 2
    return jnp.where(large, series, exact)


def deviance(
    count: Float[Array, "..."], change: Float[Array, "..."], log_ratio: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`count * (u - log(1 + u))` with `u = change / count`, at least 0 and exact near u = 0.

    With `change = expected - count` it equals `count log(count / expected) + expected - count`, half
    the Poisson deviance.

    Args:
        count: positive, or underflowed to 0.
        change: `count * u`.
        log_ratio: `log(1 + u)`, used only if u is far from 0.

    >>> x = jnp.array([5.0])
    >>> [round(float(deviance(x, m - x, jnp.log(m / x))[0]), 6) for m in (5.0, 5.5, 20.0)]
    [0.0, 0.023449, 8.068528]
    """
    # log(1 + u) = 2 atanh(v), so u - log(1 + u) = u v - 2 v^3 (1/3 + v^2/5 + ..).
    v = change / jnp.maximum(2 * count + change, _TINY)
    near = jnp.abs(v) < _NEAR
    v = jnp.where(near, v, 0.0)
    square = v**2
    cubic = v * square * (2 / 3 + square * (2 / 5 + square * (2 / 7 + square * (2 / 9))))
    return jnp.where(near, change * v - count * cubic, change - count * log_ratio)


def bounded_log(log: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return `log` up to 60, and above it the logarithm of `e^60 (1 + log - 60)`, which float32 can represent.

    The slope of its exponential is continuous and never 0, so that training can recover from too large a mean.
    """
    return jnp.where(
        log > LARGEST_LOG, LARGEST_LOG + jnp.log1p(jnp.maximum(log - LARGEST_LOG, 0.0)), log
    )
