"""Lower bounds on log p(x) as functions of log-weights: no models, no networks, no keys.

`log_w[k] = log p(x, z_k) - log q(z_k | x)` for samples `z_k ~ q(z|x)`, k = 1..K, in nats.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae.types import InputError


def elbo(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """Evidence lower bound, averaged over samples.

    `elbo = mean_k log_w[k]`, an unbiased estimate of E_q[log_w] <= log p(x).

    Args:
        log_w: log-weights [K], nats.

    Returns:
        A scalar, nats.

    Raises:
        InputError: `log_w` is not one axis of at least one sample.

    >>> float(elbo(jnp.array([-2.0, -4.0])))
    -3.0

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", eq. 2.
    """
    _require_samples(log_w)
    return jnp.mean(log_w)


def iwae(log_w: Float[Array, "K"]) -> Float[Array, ""]:
    """Importance-weighted bound of K samples.

    `iwae = log mean_k exp(log_w[k])`; its expectation rises with K, from the ELBO (K = 1) to log p(x).

    Args:
        log_w: log-weights [K], nats.

    Returns:
        A scalar, nats.

    Raises:
        InputError: `log_w` is not one axis of at least one sample.

    >>> round(float(iwae(jnp.log(jnp.array([1.0, 3.0])))), 6)
    0.693147

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", eq. 8.
    """
    _require_samples(log_w)
    return jax.nn.logsumexp(log_w) - jnp.log(jnp.asarray(log_w.size, log_w.dtype))


def _require_samples(log_w: Float[Array, "K"]) -> None:
    if jnp.ndim(log_w) != 1 or log_w.size == 0:
        raise InputError(
            "log_w: expected one axis of K >= 1 log-weights, "
            f"got shape {jnp.shape(log_w)}; vmap the bound over examples"
        )
