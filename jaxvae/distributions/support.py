"""Log-densities that are -inf outside the support, also after a pytree round trip, `jit` or `vmap`.

NumPyro compares a value with the support only if `validate_args` is set. Here a distribution is scored by a
copy whose parts always compare: the log-density is -inf outside the support, with a gradient of 0.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool
from numpyro.distributions import Distribution, constraints

CONTAINERS = dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution
"""Wrappers that score by the distribution inside, and have no support of their own."""

MIXTURES = dist.MixtureSameFamily, dist.MixtureGeneral

SLACK = 1e-3
"""The distance by which a relaxed bit may lie outside [0, 1], since straight-through bits are rounded."""


def guarded(distribution: Distribution) -> Distribution:
    """Return a copy whose log-density is -inf outside the support, also in every distribution it wraps.

    A support of all reals needs no comparison. For bits see `can_be_bits`.

    >>> q = dist.Uniform(0.0, 1.0)
    >>> through_a_pytree = jax.tree.map(jnp.asarray, q)
    >>> float(guarded(through_a_pytree).log_prob(2.0))
    -inf
    """
    found = copy.copy(distribution)
    vars(found).update({name: _guarded_part(part) for name, part in vars(distribution).items()})
    found._validate_args = False  # NumPyro would compare only values that are not traced
    if not isinstance(distribution, CONTAINERS + MIXTURES) and _has_bounds(distribution):
        vars(found)["log_prob"] = _Compared(found)
    return found


def can_be_bits(distribution: Distribution, value: Array) -> Bool[Array, "..."] | None:
    """Return whether all values of an event lie in [0, 1], or None if the distribution is not over bits.

    Relaxations and the expectation for grey levels evaluate the Bernoulli formula at values in between on
    purpose. For a count, or a pixel from 0 to 255, it would give a log-probability above 0. Masked values are
    ignored. The check is of the whole event, not of each value, so it is cheap if many z score one x.

    >>> can_be_bits(dist.Bernoulli(0.5 * jnp.ones(2)).to_event(1), jnp.array([1.0, 3.0])).tolist()
    False
    """
    if not isinstance(of_one_value(distribution.support), type(constraints.boolean)):
        return None
    inside, part = jnp.abs(value - 0.5) <= 0.5 + SLACK, distribution
    while isinstance(part, CONTAINERS):
        if isinstance(part, dist.MaskedDistribution):
            inside |= jnp.logical_not(part._mask)
        part = part.base_dist
    return jnp.all(inside, axis=tuple(range(-distribution.event_dim, 0)))


def is_all_reals(support: Any) -> bool:
    """Return whether a support is all real numbers or vectors."""
    return of_one_value(support) is constraints.real


def of_one_value(support: Any) -> Any:
    """Return the support of one value, for a support that is the same for all values."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _guarded_part(part: Any) -> Any:
    if isinstance(part, Distribution):
        return guarded(part)
    if isinstance(part, list | tuple) and any(isinstance(one, Distribution) for one in part):
        return type(part)(_guarded_part(one) for one in part)
    return part


def _has_bounds(distribution: Distribution) -> bool:
    support = of_one_value(distribution.support)
    return support not in (None, constraints.real, constraints.boolean)


class _Compared:
    """The `log_prob` of one distribution, -inf outside its support."""

    def __init__(self, distribution: Distribution):
        self.own = type(distribution).log_prob.__get__(distribution)
        self.support: Any = distribution.support

    def __call__(self, value: Array, *intermediates: Any) -> Array:
        inside = self.support(value)
        try:  # a value outside the support is replaced by one inside, so that no NaN enters the gradient
            feasible = jax.lax.stop_gradient(self.support.feasible_like(value))
        except NotImplementedError:
            safe = value
        else:
            of_event = jnp.reshape(inside, inside.shape + (1,) * (jnp.ndim(value) - inside.ndim))
            safe = jnp.where(of_event, value, feasible)
        return jnp.where(inside, self.own(safe, *intermediates), -jnp.inf)
