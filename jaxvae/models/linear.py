"""Linear decoders with normal noise, and a linear encoder that contains their optimal q(z|x)."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, Self, TypeVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import known_number, require_key, require_positive
from jaxvae.models.likelihoods import require_event_shape
from jaxvae.types import AnyArray, InputError, PRNGKey

P = ParamSpec("P")
R = TypeVar("R")

NOISE_FLOOR = 1e-6
"""The least noise variance after an M-step, as a fraction of a value's variance over the data."""


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with products in full float32, also on hardware that would round them."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


class LinearEncoder(nnx.Module):
    """A linear encoder: `mean = weight (x - offset)` [D], and a constant `scale = exp(log_scale)` [D]."""

    def __init__(self, key: PRNGKey, event_shape: tuple[int, ...], latent_dim: int):
        self.event_shape, size = event_shape, math.prod(event_shape)
        draw = nnx.initializers.normal(size**-0.5)
        self.weight = nnx.Param(draw(key, (latent_dim, size), jnp.float32))
        self.offset = nnx.Param(jnp.zeros(size))
        self.log_scale = nnx.Param(jnp.zeros(latent_dim))

    def __call__(self, x: Float[Array, "*event"]) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
        """Return the location and scale of q(z|x)."""
        mean = self.weight[...] @ (flat(x, self.event_shape) - self.offset[...])
        return mean, jnp.exp(self.log_scale[...])


class LinearModel(nnx.Module):
    """`p(x|z) = N(weight z + offset, diag(noise))`; subclasses define the prior and the posterior.

    `noise` is one variance for all E values of x, or one for each: learned, `exp(log_variance)`, or
    fixed.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis; E is its size.
        latent_dim: D.
        noise_per_value: whether each value has its own noise variance.
        variance: variance of the noise; learned if None.

    Raises:
        InputError: an argument is out of its range; the message names it.
    """

    def __init__(
        self,
        key: PRNGKey,
        event_shape: Sequence[int],
        *,
        latent_dim: int,
        noise_per_value: bool = False,
        variance: float | None = None,
    ):
        require_key(key)
        require_positive(latent_dim=latent_dim)
        self.event_shape, self.latent_dim = require_event_shape(event_shape), latent_dim
        size = math.prod(self.event_shape)
        decoder_key, encoder_key = jax.random.split(key)
        draw = nnx.initializers.normal(latent_dim**-0.5)
        self.weight = nnx.Param(draw(decoder_key, (size, latent_dim), jnp.float32))
        self.offset = nnx.Param(jnp.zeros(size))
        self.fixed_variance = require_variance(variance)
        if variance is None:
            self.log_variance = nnx.Param(jnp.zeros(size if noise_per_value else ()))
        self.encoder = LinearEncoder(encoder_key, self.event_shape, latent_dim)

    @property
    def noise(self) -> Float[Array, "E"]:
        """The variance of each value of x given z."""
        size = self.offset[...].shape
        if self.fixed_variance is not None:
            return jnp.full(size, self.fixed_variance, jnp.float32)
        return jnp.broadcast_to(jnp.exp(self.log_variance[...]), size)

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|z) = N(weight z + offset, diag(noise))."""
        mean, scale = self.weight[...] @ z + self.offset[...], jnp.sqrt(self.noise)
        normal = dist.Normal(mean.reshape(self.event_shape), scale.reshape(self.event_shape))
        return normal.to_event(len(self.event_shape))

    def initialized(
        self,
        key: PRNGKey,
        xs: Float[AnyArray, "N *event"],
        weights: Float[AnyArray, "N"] | None = None,
    ) -> Self:
        """Return the model at the scale of the data, an initialisation for EM or gradient ascent.

        `offset` is the mean of the data, the noise (if learned) their variance, and `weight` is drawn so
        that the latents alone would also explain about all of that variance.

        Args:
            key: one typed key.
            xs: examples.
            weights: weights of the examples; equal if None.

        Raises:
            InputError: the key or the examples are invalid.
        """
        require_key(key)
        rows = flat_rows(xs, self.event_shape)
        mean, variance = weighted_moments(rows, weights)
        draw = jax.random.normal(key, self.weight[...].shape)
        weight = draw * jnp.sqrt(variance / self.latent_dim)[:, None]
        new = self.with_decoder(weight, mean, jnp.maximum(variance, noise_floor(variance)))
        new.encoder.offset[...] = mean
        return new

    def with_decoder(
        self, weight: Float[Array, "E D"], offset: Float[Array, "E"], noise: Float[Array, "E"]
    ) -> Self:
        """Return a copy with this decoder; a noise variance shared by all values is the mean of `noise`."""
        new = jax.tree.map(lambda leaf: leaf, self)
        new.weight[...], new.offset[...] = weight, offset
        if self.fixed_variance is None:
            shared = new.log_variance[...].ndim == 0
            new.log_variance[...] = jnp.log(jnp.mean(noise) if shared else noise)
        return new


def flat_rows(xs: Float[AnyArray, "N *event"], event_shape: tuple[int, ...]) -> Float[Array, "N E"]:
    """Return the examples as vectors.

    Raises:
        InputError: the examples are not of this event shape, or there are none.
    """
    xs = jnp.asarray(xs, jnp.float32)
    if xs.shape[1:] != event_shape or xs.shape[0] == 0:
        raise InputError(
            f"xs: expected [N, *event] with N >= 1 and event shape {event_shape}, got {xs.shape}"
        )
    return xs.reshape(xs.shape[0], -1)


def flat(x: Float[Array, "*event"], event_shape: tuple[int, ...]) -> Float[Array, "E"]:
    """Return one example as a vector.

    Raises:
        InputError: x is not of this event shape.
    """
    if x.shape != event_shape:
        raise InputError(
            f"x: expected one example of shape {event_shape}, got shape {x.shape}; "
            "jax.vmap the call over a batch axis"
        )
    return x.reshape(-1)


def weighted_moments(
    rows: Float[Array, "N E"], weights: Float[AnyArray, "N"] | None = None
) -> tuple[Float[Array, "E"], Float[Array, "E"]]:
    """Return the weighted mean and variance (1/N) of each column."""
    w = jnp.ones(rows.shape[0]) if weights is None else jnp.asarray(weights, jnp.float32)
    w = w / jnp.sum(w)
    mean = w @ rows
    return mean, w @ (rows - mean[None]) ** 2


def noise_floor(variance: Float[Array, "E"]) -> Float[Array, "E"]:
    """Return the least noise variance of each value: 1e-6 of its variance, or of the mean variance if it is constant.

    In a Heywood case the noise variance tends to 0, and the likelihood has no maximum at a positive one.
    """
    scale = jnp.where(variance > 0, variance, jnp.mean(variance))
    return jnp.maximum(NOISE_FLOOR * scale, 1e-30)


def require_variance(variance: float | None) -> float | None:
    """Return the fixed variance as a float of Python, which is not trained.

    Raises:
        InputError: the variance is neither None nor a finite number above 0.
    """
    if variance is None:
        return None
    return known_number("variance", variance, above=0, or_else=", or None to learn it")
