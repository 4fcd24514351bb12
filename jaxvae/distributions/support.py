"""Where a distribution has no density: a rule that a pytree, a `jit` or a `vmap` cannot switch off.

NumPyro compares a value with the support only where `validate_args` is set. Here a distribution is scored
by copies of it whose parts compare always: -inf outside, with a gradient of 0.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool
from numpyro.distributions import Distribution, constraints

CONTAINERS = dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution
"""Wrappers that score by what they wrap, and have no support of their own."""

MIXTURES = dist.MixtureSameFamily, dist.MixtureGeneral

SLACK = 1e-3
"""How far a relaxed bit may lie outside of [0, 1]: straight-through ones round there."""


def guarded(distribution: Distribution) -> Distribution:
    """The distribution whose log-density is -inf outside of its support, at every level of it.

    The reals need no comparison. For bits see `can_be_bits`.

    >>> q = dist.Uniform(0.0, 1.0)
    >>> through_a_pytree = jax.tree.map(jnp.asarray, q)
    >>> float(guarded(through_a_pytree).log_prob(2.0))
    -inf
    """
    found = copy.copy(distribution)
    vars(found).update({name: _guarded_part(part) for name, part in vars(distribution).items()})
    found._validate_args = False  # what it would compare depends on whether a trace looks on
    if not isinstance(distribution, CONTAINERS + MIXTURES) and _has_bounds(distribution):
        vars(found)["log_prob"] = _Compared(found)
    return found


def can_be_bits(distribution: Distribution, value: Array) -> Bool[Array, "..."] | None:
    """Whether all of an event lies from 0 to 1, or None where a distribution is not one of bits.

    Their formula is used of values in between on purpose, by relaxations and for the expectation of grey
    levels. Of a count or a pixel of 0 to 255 it gives a log-probability above 0. What a mask hides is not
    looked at. Asked of the event and not of each value, it costs nothing where many z score one x.

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
    """Whether a support is every real number or vector."""
    return of_one_value(support) is constraints.real


def of_one_value(support: Any) -> Any:
    """What a support says of each value, where it says the same of all of them."""
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
    """`log_prob` of one distribution, -inf outside of its support."""

    def __init__(self, distribution: Distribution):
        self.own = type(distribution).log_prob.__get__(distribution)
        self.support: Any = distribution.support

    def __call__(self, value: Array, *intermediates: Any) -> Array:
        inside = self.support(value)
        try:  # a value inside in the place of one outside, whose NaN would come into the gradient
            feasible = jax.lax.stop_gradient(self.support.feasible_like(value))
        except NotImplementedError:
            safe = value
        else:
            of_event = jnp.reshape(inside, inside.shape + (1,) * (jnp.ndim(value) - inside.ndim))
            safe = jnp.where(of_event, value, feasible)
        return jnp.where(inside, self.own(safe, *intermediates), -jnp.inf)
