"""A distribution with draws from it, and the result of integrating its density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution, biject_to, constraints

from jaxvae.compiling import jit_quickly
from jaxvae.distributions import log_prob, sample_with_log_prob
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.distributions.support import of_one_value
from jaxvae.types import PRNGKey

TOLERANCE = 0.01
"""The largest accepted distance of the log of a sum or a quadrature from log 1 = 0, nats."""
ROUGH = 0.3
"""The coarsest resolution of a check, nats: a method with a larger error raises `UnknownError`."""
_RESOLVED = 1e-3
"""The largest accepted change of a coordinate from one float32 number to the next."""


class UnknownError(Exception):
    """An error: the quantity cannot be determined; the message says why."""


class Sum(NamedTuple):
    """The integral of a density over its support, and its moments if the method sums them too."""

    log_value: float
    """The logarithm of the integral, nats: 0 for a normalised density."""
    limit: float
    """The largest distance of `log_value` from 0 for a normalised density, nats."""
    how: str
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    products: Callable[[np.ndarray], np.ndarray] | None = None
    """A function that returns the means of `x_i x_j` with j = order[i], for every i; None if not known."""


class Drawn(NamedTuple):
    """A distribution with n draws [n, *event], their log-densities [n], and a log_prob of flattened values."""

    distribution: Distribution
    values: np.ndarray
    log_prob: np.ndarray
    score: Callable[[Array], Array]


def drawn(distribution: Distribution, key: PRNGKey, num_draws: int) -> Drawn:
    """Draw from a distribution over one event, each draw with its own key."""
    keys = jax.random.split(key, num_draws)
    values, log_probs = jit_quickly(jax.vmap(lambda k: sample_with_log_prob(distribution, k)))(keys)
    shape = distribution.event_shape
    return Drawn(
        distribution,
        np.asarray(values),
        np.asarray(log_probs, np.float64),
        lambda flat: log_prob(distribution, flat.reshape(shape)),
    )


def unconstrained(d: Drawn) -> tuple[np.ndarray, Any]:
    """Return the draws in unconstrained coordinates, and the transform from these; None if they are the same."""
    support = d.distribution.support
    if d.distribution.is_discrete or support is None:
        raise UnknownError(f"no coordinates are known for the support {support}")
    each = of_one_value(support)
    if each is constraints.real:
        return d.values, None
    try:
        transform = biject_to(support if each.event_dim else each)
    except NotImplementedError:
        raise UnknownError(f"no coordinates are known for the support {support}") from None
    with numpyro_promotion():
        u = np.asarray(jit_quickly(jax.vmap(transform.inv))(jnp.asarray(d.values)))
        inner = np.nextafter(d.values, np.median(d.values, axis=0, keepdims=True))
        moved = np.asarray(jit_quickly(jax.vmap(transform.inv))(jnp.asarray(inner)))
    with np.errstate(invalid="ignore"):
        unresolved = ~(np.abs(moved - u) <= _RESOLVED * (1 + np.abs(u)))
    if unresolved.reshape(len(u), -1).any(axis=1).mean() > _RESOLVED or not np.isfinite(u).all():
        raise UnknownError(
            "draws lie so near to the border of the support that float32 rounds them"
        )
    return u, transform


def repeated(flat: np.ndarray) -> np.ndarray:
    """Return which columns of draws [n, D] repeat values in most rows: point masses, not densities [D]."""
    return np.array([len(np.unique(column)) < len(column) / 2 for column in flat.T], bool)
