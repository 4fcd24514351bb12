"""Names and shape checks of distributions, for error messages."""

import math

import jax.numpy as jnp
from jaxtyping import Array
from numpyro.distributions import Distribution

from jaxvae.types import InputError


def describe(distribution: Distribution) -> str:
    """The name of a distribution with the wrappers around it, such as `Independent(Normal)`."""
    base = getattr(distribution, "base_dist", None)
    name = type(distribution).__name__
    if base is None:
        return name
    transforms = dict.fromkeys(type(t).__name__ for t in getattr(distribution, "transforms", ()))
    return f"{name}({', '.join([describe(base), *transforms])})"


def as_real(values: Array) -> Array:
    """Return the parameters unchanged, or as float32 if they are integers, which would truncate derived values."""
    whole = not jnp.issubdtype(jnp.result_type(values), jnp.inexact)
    return jnp.asarray(values, jnp.result_type(float)) if whole else values


def require_one_event(distribution: Distribution, role: str) -> None:
    """Refuse a distribution over a batch of events: per-example functions see one event.

    Raises:
        InputError: the batch shape is not `()`, as when `.to_event` was forgotten.
    """
    if distribution.batch_shape != ():
        raise InputError(
            f"{role}: expected a distribution over one event, got {describe(distribution)} with "
            f"batch shape {distribution.batch_shape}; make these axes part of the event with "
            f".to_event({len(distribution.batch_shape)}), or vmap over the batch axis"
        )


def require_event(distribution: Distribution, value: Array, role: str, name: str) -> None:
    """Refuse a value whose shape is not the event shape of its distribution.

    Raises:
        InputError: the shapes differ, or the distribution is not over one event.
    """
    require_one_event(distribution, role)
    if value.shape != distribution.event_shape:
        raise InputError(
            f"{name}: expected one example of shape {distribution.event_shape}, the event shape of "
            f"{role}, got shape {value.shape}{shape_remedy(value.shape, distribution.event_shape)}"
        )


def shape_remedy(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """The end of an error message: how to get from one shape to the other, or "" if there is no known remedy.

    >>> shape_remedy((6, 8, 8), (8, 8)), shape_remedy((64,), (8, 8))
    ('; jax.vmap the call over a batch axis', '; reshape it to (8, 8)')
    """
    if got[-len(expected) :] == expected or not expected:
        return "; jax.vmap the call over a batch axis"
    if math.prod(got) == math.prod(expected):
        return f"; reshape it to {expected}"
    if got and expected[-len(got) :] == got:
        return "; a batch of one example needs its axis too: x[None]"
    return ""
