"""Shared parts of the objectives that couple the examples of a batch."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvae.batching import fill_rows
from jaxvae.checks import is_known, require_choice
from jaxvae.log_weights import KL, RATES, Samples, draw
from jaxvae.types import InputError, Model, Terms


def draw_each(
    keys: Key[Array, "B"],
    model: Model,
    xs: Float[Array, "B *event"],
    weight: Float[Array, "B"] | None = None,
    *,
    at_least: int = 2,
) -> Samples:
    """Draw one sample of q(z|x) for each example, as `Samples` with a leading axis B.

    An example of weight 0 is replaced by one of positive weight, see `jaxvae.batching.fill_rows`.

    Raises:
        InputError: the keys are not one per example, there are fewer than `at_least` examples of
            positive weight, or the weights are invalid.
    """
    size = jnp.shape(xs)[0] if jnp.ndim(xs) > 1 else 0
    if size < at_least:
        raise InputError(
            f"xs: expected a batch [B, *event] of at least {at_least} examples, which this "
            f"objective compares with each other, got shape {jnp.shape(xs)}"
        )
    dtype = getattr(keys, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise InputError(
            f"keys: expected typed keys [B], such as jax.random.split(key, {size}), "
            f"got {dtype or type(keys).__name__}"
        )
    if keys.shape != (size,):
        raise InputError(
            f"keys: expected one an example, of shape ({size},), got shape {keys.shape}; train "
            "with make_step(..., batch_coupled=True)"
        )
    require_rows(weight, size, at_least)
    xs = fill_rows(xs, weight)
    return jax.vmap(lambda key, x: draw(key, model, x, 1))(keys, xs)


def require_rows(weight: Float[Array, "B"] | None, size: int, at_least: int) -> None:
    """Refuse weights of a wrong shape and, if they are not traced, invalid values or too few positive ones.

    Raises:
        InputError: the weights are not [size], or known ones are not finite and at least 0, or fewer
            than `at_least` of them are positive.
    """
    if weight is None:
        return
    if jnp.shape(weight) != (size,):
        raise InputError(
            f"weight: expected shape ({size},), one an example, got {jnp.shape(weight)}"
        )
    if not is_known(weight):
        return
    known = np.asarray(weight, np.float64)
    if not np.all((known >= 0) & (known < np.inf)):
        raise InputError("weight: expected finite weights of at least 0")
    if np.sum(known > 0) < at_least:
        raise InputError(
            f"weight: expected at least {at_least} examples of a weight above 0, which this objective "
            f"compares with each other, got {np.sum(known > 0)} of {size}"
        )


def weighted_mean(
    values: Float[Array, "B ..."], weight: Float[Array, "B"] | None
) -> Float[Array, "..."]:
    """The weighted mean `sum_i w_i v_i / sum_i w_i` over the first axis; 0 if all weights are 0.

    Rows of weight 0, NaN included, affect neither the mean nor its gradient.
    """
    if weight is None:
        return jnp.mean(values, axis=0)
    weight = jnp.asarray(weight, values.dtype)
    column = weight.reshape(-1, *[1] * (values.ndim - 1))
    there = jnp.where(column > 0, values, jnp.zeros_like(values))
    return ratio(jnp.sum(column * there, axis=0), jnp.sum(weight))


def log_or_absent(share: Array) -> Array:
    """The logarithm of nonnegative values; -inf at 0, with a gradient of 0."""
    some = share > 0
    return jnp.where(some, jnp.log(jnp.where(some, share, 1.0)), -jnp.inf)


def relative(weight: Float[Array, "B"]) -> Float[Array, "B"]:
    """The weights divided by the largest, so that products of two neither overflow nor underflow at any scale."""
    return ratio(weight, jnp.max(weight))


def pairs(weight: Float[Array, "B"]) -> Float[Array, "B B"]:
    """The weights `w_i w_j` of pairs of different rows, 0 on the diagonal."""
    return off_diagonal(weight[:, None] * weight[None])


def off_diagonal(matrix: Float[Array, "B B"]) -> Float[Array, "B B"]:
    """Return the matrix with 0 on its diagonal."""
    return jnp.where(jnp.eye(len(matrix), dtype=bool), jnp.zeros_like(matrix), matrix)


def ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`; 0, with a gradient of 0, if the denominator is 0."""
    some = denominator > 0
    return jnp.where(some, numerator, 0.0) / jnp.where(some, denominator, 1.0)


def elbo_of(samples: Samples, kl: KL) -> Terms:
    """The terms of the ELBO of each example, [B] each, from one sample, nats."""
    require_choice("kl", kl, get_args(KL))
    distortion, rate = -samples.log_p_x_z[:, 0], jax.vmap(RATES[kl])(samples)
    bound = -(distortion + rate)
    return Terms(bound, bound, distortion, rate)


def latents(samples: Samples) -> Float[Array, "B D"]:
    """Return the sample of each example, flattened."""
    return samples.z.reshape(samples.z.shape[0], -1)
