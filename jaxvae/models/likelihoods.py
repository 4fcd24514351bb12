"""From the decoder's output to p(x|z): what x is made of."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.types import InputError

Likelihood: TypeAlias = Literal["bernoulli", "gaussian"]

VARIANCE_FLOOR = 1e-8


def variance_of(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """A positive variance from an unconstrained number: `softplus(raw) + 1e-8`."""
    return jax.nn.softplus(raw) + VARIANCE_FLOOR


class Bernoulli(nnx.Module):
    """Independent bits with `logits` = the decoder's output; support {0, 1}."""

    def __call__(self, output: Float[Array, "*event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        return BernoulliLogits(output).to_event(output.ndim)


class BernoulliLogits(dist.BernoulliLogits):
    """`log p(x) = x * logits - softplus(logits)`, for x in [0, 1].

    Departs from NumPyro's, whose gradient at a logit of exactly 0 is off by one half.
    """

    def log_prob(self, value: Array) -> Array:
        """Log-probability, nats."""
        return value * self.logits - softplus(self.logits)


@jax.custom_jvp
def softplus(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(1 + exp(a))`, whose derivative is exactly `sigmoid(a)`; finite for every finite a."""
    return jnp.maximum(a, 0) + jnp.log1p(jnp.exp(-jnp.abs(a)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


class Gaussian(nnx.Module):
    """Independent reals with `mean` = the decoder's output and one learned variance for all of them."""

    def __init__(self):
        self.raw_variance = nnx.Param(jnp.asarray(math.log(math.expm1(1.0)), jnp.float32))

    def __call__(self, output: Float[Array, "*event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        scale = jnp.sqrt(variance_of(self.raw_variance[...]))
        return dist.Normal(output, jnp.broadcast_to(scale, output.shape)).to_event(output.ndim)


def make_likelihood(name: Likelihood) -> Bernoulli | Gaussian:
    """The likelihood module of this name.

    Raises:
        InputError: the name is not one of `Likelihood`.
    """
    modules = {"bernoulli": Bernoulli, "gaussian": Gaussian}
    if name not in modules:
        expected = " or ".join(f'"{choice}"' for choice in get_args(Likelihood))
        raise InputError(f"likelihood: expected {expected}, got {name!r}")
    return modules[name]()


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
