"""What a likelihood is: how many numbers a value of x takes, its support, and p(x|z) itself."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint

from jaxvae.types import InputError

VARIANCE_FLOOR = 1e-8


@runtime_checkable
class Likelihood(Protocol):
    """p(x|z) from the decoder's output: `num_params` numbers P for every value of x.

    An `nnx.Module`, so that what all examples share, such as a variance, can be learned.
    """

    num_params: int
    """P: how many numbers the decoder gives for each value of x."""

    @property
    def support(self) -> Constraint:
        """Where one value of x lies; data of another support are refused."""
        ...

    def features(self, x: Float[Array, "*event"], /) -> Float[Array, "..."]:
        """What an encoder sees of one example: of the same or another shape, about unit size."""
        ...

    def __call__(self, params: Float[Array, "P *event"], /) -> Distribution:
        """p(x|z) over one example of shape `*event`."""
        ...


def variance_of(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """A positive variance from an unconstrained number: `softplus(raw) + 1e-8`."""
    return jax.nn.softplus(raw) + VARIANCE_FLOOR


def feature_shape(likelihood: Likelihood, event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what an encoder sees of one example."""
    x = jax.ShapeDtypeStruct(event_shape, jnp.float32)
    return jax.eval_shape(likelihood.features, x).shape


def require_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """The event shape as a tuple of positive integers.

    Raises:
        InputError: it is empty or has an axis below one.
    """
    shape = tuple(event_shape) if isinstance(event_shape, Sequence) else event_shape
    if (
        not isinstance(shape, tuple)
        or not shape
        or not all(type(n) is int and n > 0 for n in shape)
    ):
        raise InputError(
            f"event_shape: expected a tuple of positive integers such as (28, 28), got {event_shape!r}"
        )
    return shape
