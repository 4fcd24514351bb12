"""Bounds on log p(x) as functions of log-weights, without models, networks or keys.

`log_w[k] = log p(x, z_k) - log q(z_k | x)` for samples `z_k ~ q(z|x)`, k = 1..K, in nats, and
`w[k] = exp(log_w[k])`; a sample of weight 0 has `log_w[k] = -inf`. All are lower bounds in expectation, except
`renyi` of negative order, `vr_max`, `chi_upper` and the right thermodynamic sum. Any function of `log_w` can be
used as your own bound.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxvae.checks import known_number, require_choice
from jaxvae.types import InputError


def elbo(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """Evidence lower bound, averaged over samples.

    `elbo = mean_k log_w[k]`, an unbiased estimate of E_q[log w] <= log p(x).

    Args:
        log_w: log-weights [K], nats.

    Returns:
        A scalar, nats.

    Raises:
        InputError: `log_w` is not one axis of at least one sample.

    >>> float(elbo(jnp.array([-2.0, -4.0])))
    -3.0

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes".
    """
    _require_samples(log_w)
    return jnp.mean(log_w)


def iwae(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """Importance-weighted bound of K samples.

    `iwae = log mean_k w[k]`; its expectation rises with K, from the ELBO (K = 1) to log p(x).

    Args:
        log_w: log-weights [K], nats.

    Returns:
        A scalar, nats.

    Raises:
        InputError: `log_w` is not one axis of at least one sample.

    >>> round(float(iwae(jnp.log(jnp.array([1.0, 3.0])))), 6)
    0.693147

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
    """
    _require_samples(log_w)
    return _log_mean_exp(log_w)


def renyi(log_w: Float[Array, "K"], alpha: float) -> Float[Array, ""]:
    """Variational Renyi bound.

    `renyi = log mean_k w[k]^(1 - alpha) / (1 - alpha)` decreases in alpha; it is the IWAE bound at 0, the
    ELBO in the limit alpha -> 1, and `vr_max` for alpha -> -inf. The exact bound lies below log p(x) for
    alpha > 0 and above it for alpha < 0; a finite K biases the estimate downward for alpha < 1.

    Args:
        log_w: log-weights [K], nats.
        alpha: the order, any finite number.

    Raises:
        InputError: `log_w` is not one axis of at least one sample, or alpha is not finite.

    >>> log_w = jnp.log(jnp.array([1.0, 3.0]))
    >>> round(float(renyi(log_w, 0.5)), 4)
    0.6238

    Source: Li and Turner (2016), "Renyi divergence variational inference".
    """
    _require_samples(log_w)
    alpha = known_number("alpha", alpha)
    if alpha == 1:
        return jnp.mean(log_w)
    # Computed relative to the dominant log-weight. Near alpha = 1 the mean is nearly one, and its difference
    # from one is used, since dividing a rounded logarithm by 1 - alpha would amplify the rounding error.
    power = 1 - alpha
    top = jnp.max(log_w) if power > 0 else jnp.min(log_w)
    is_finite = jnp.isfinite(top)
    excess = power * (jnp.where(is_finite, log_w, 0.0) - jnp.where(is_finite, top, 0.0))
    below_one = jnp.mean(jnp.expm1(excess))
    near = below_one > -0.5
    log_mean = jnp.where(near, jnp.log1p(jnp.where(near, below_one, 0.0)), _log_mean_exp(excess))
    return jnp.where(is_finite, top + log_mean / power, top)


def vr_max(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """The largest log-weight, `max_k log_w[k]`, the Renyi bound of order -inf.

    It exceeds the IWAE bound of the same samples by at most log K; it is not a lower bound on log p(x).

    Source: Li and Turner (2016), "Renyi divergence variational inference", section 4.2.
    """
    _require_samples(log_w)
    return jnp.max(log_w)


def multiply_iwae(log_w: Float[Array, "M K"]) -> Float[Array, ""]:
    """Mean of M importance-weighted bounds of K samples each.

    `multiply_iwae = mean_m log mean_k w[m, k]`, with the mean over K, the last axis, inside the logarithm.

    Args:
        log_w: log-weights [M, K], nats.

    Raises:
        InputError: `log_w` does not have the two axes [M, K], both at least 1.

    >>> log_w = jnp.log(jnp.array([[1.0, 3.0], [2.0, 2.0]]))
    >>> round(float(multiply_iwae(log_w)), 6)
    0.693147

    Source: Rainforth et al. (2018), "Tighter variational bounds are not necessarily better".
    """
    if jnp.ndim(log_w) != 2 or log_w.size == 0:
        raise InputError(
            f"log_w: expected two axes [M, K], both at least 1, got shape {jnp.shape(log_w)}"
        )
    return jnp.mean(jax.vmap(_log_mean_exp)(log_w))


def combination_iwae(log_w: Float[Array, "K"], beta: float) -> Float[Array, ""]:
    """Mixture of the ELBO and the importance-weighted bound, on the same samples.

    `combination_iwae = beta * elbo(log_w) + (1 - beta) * iwae(log_w)`.

    Args:
        log_w: log-weights [K], nats.
        beta: weight of the ELBO, 0 to 1.

    Raises:
        InputError: `log_w` is not one axis of at least one sample, or beta is out of range.

    Source: Rainforth et al. (2018), "Tighter variational bounds are not necessarily better".
    """
    _require_samples(log_w)
    beta = known_number("beta", beta, at_least=0, at_most=1)
    if beta in (0, 1):  # 0 * -inf is not what a weight of 0 means
        return jnp.mean(log_w) if beta else _log_mean_exp(log_w)
    return beta * jnp.mean(log_w) + (1 - beta) * _log_mean_exp(log_w)


def thermodynamic(
    log_w: Float[Array, "K"],
    betas: Float[Array, "P"],
    *,
    side: Literal["left", "right"] = "left",
) -> Float[Array, ""]:
    """Riemann sum of the thermodynamic integral, log p(x) = int_0^1 E_{pi_b}[log w] db.

    `pi_b(z)` is proportional to `q(z|x)^(1-b) p(x, z)^b`; its expectations are self-normalised averages
    with weights `softmax(b * log_w)`. The integrand increases in b, so the left sum is a lower bound and
    the right sum an upper bound on log p(x), up to the bias of self-normalisation at a finite K.

    Args:
        log_w: log-weights [K], nats.
        betas: the left ends of the intervals [P], increasing from 0; the last interval ends at 1.
        side: the end of each interval at which the integrand is evaluated, "left" or "right".

    Raises:
        InputError: `log_w` is not one axis of at least one sample, the points do not increase from 0 to at
            most 1, or `side` is unknown.

    >>> log_w = jnp.log(jnp.array([1.0, 3.0]))
    >>> bool(thermodynamic(log_w, jnp.array([0.0])) == elbo(log_w))
    True

    Source: Masrani, Le and Wood (2019), "The thermodynamic variational objective".
    """
    _require_samples(log_w)
    require_choice("side", side, ("left", "right"))
    if jnp.ndim(betas) != 1 or betas.size == 0:
        raise InputError(f"betas: expected one axis of at least one point, got {jnp.shape(betas)}")
    _require_partition(betas)
    ends = jnp.concatenate([betas, jnp.ones(1, betas.dtype)])
    points = ends[:-1] if side == "left" else ends[1:]
    widths = jnp.diff(ends)
    areas = widths * jax.vmap(partial(_tilted_mean, log_w))(points)
    return jnp.sum(jnp.where(widths > 0, areas, 0.0))


def _tilted_mean(log_w: Float[Array, "K"], beta: Float[Array, ""]) -> Float[Array, ""]:
    """`E_{pi_beta}[log w]`; samples of weight 0 have probability 0 under pi_beta, but give -inf at beta = 0."""
    possible = log_w > -jnp.inf
    finite = jnp.where(possible, log_w, 0.0)
    share = jax.nn.softmax(jnp.where(possible, beta * finite, -jnp.inf))
    mean = jnp.sum(jnp.where(possible, share * finite, 0.0))
    return jnp.where(jnp.all(possible) | ((beta > 0) & jnp.any(possible)), mean, -jnp.inf)


def _require_partition(betas: Float[Array, "P"]) -> None:
    """Refuse points that do not increase from 0 to at most 1; traced points are not checked."""
    if isinstance(betas, Tracer):
        return
    points = np.asarray(betas)
    if points[0] != 0 or points[-1] > 1 or np.any(np.diff(points) <= 0):
        raise InputError(
            f"betas: expected points that rise from 0 to at most 1, got {points.tolist()}"
        )


def chi_upper(log_w: Float[Array, "K"], order: float = 2.0) -> Float[Array, ""]:
    """The chi upper bound, `log mean_k w[k]^order / order`, for order >= 1.

    The exact bound, log E_q[w^n] / n, lies above log p(x); a finite K biases the estimate downward.

    Args:
        log_w: log-weights [K], nats.
        order: n, at least 1; n = 1 gives the IWAE bound.

    Raises:
        InputError: `log_w` is not one axis of at least one sample, or the order is below 1.

    Source: Dieng et al. (2017), "Variational inference via chi upper bound minimization".
    """
    _require_samples(log_w)
    order = known_number("order", order, at_least=1)
    return _log_mean_exp(order * log_w) / order


def _log_mean_exp(a: Float[Array, "K"]) -> Float[Array, ""]:
    return jax.nn.logsumexp(a) - jnp.log(jnp.asarray(a.size, a.dtype))


def _require_samples(log_w: Float[Array, "K"]) -> None:
    if jnp.ndim(log_w) != 1 or log_w.size == 0:
        raise InputError(
            "log_w: expected one axis of K >= 1 log-weights, "
            f"got shape {jnp.shape(log_w)}; vmap the bound over examples"
        )
