"""A distribution with draws of it, and what is found of its integral."""

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
"""What a sum or a quadrature may differ by from log 1 = 0, nats."""
ROUGH = 0.3
"""A check by draws that cannot tell errors of so many nats is said to be none."""
_RESOLVED = 1e-3
"""What the next number of float32 may move a coordinate by."""


class UnknownError(Exception):
    """What was asked cannot be found out; the message says why."""


class Sum(NamedTuple):
    """The integral of a density over its support, and its moments where they were summed too."""

    log_value: float
    """Its logarithm, nats: 0 where the density is one."""
    limit: float
    """How far from 0 a right one can lie, nats."""
    how: str
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    products: Callable[[np.ndarray], np.ndarray] | None = None
    """The means of `x_i x_j`, of j = order[i] for every i, where the moments are known."""


class Drawn(NamedTuple):
    """A distribution with n draws [n, *event], their log-densities [n], and log_prob of flat values."""

    distribution: Distribution
    values: np.ndarray
    log_prob: np.ndarray
    score: Callable[[Array], Array]


def drawn(distribution: Distribution, key: PRNGKey, num_draws: int) -> Drawn:
    """Draws of a distribution over one event, each with a key of its own."""
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
    """Draws in coordinates in which every number is allowed, and the transform from them."""
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
    """Which columns of draws [n, D] hold the same numbers again and again: masses, not densities."""
    return np.array([len(np.unique(column)) < len(column) / 2 for column in flat.T], bool)
