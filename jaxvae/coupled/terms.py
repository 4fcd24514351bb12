"""Everything here couples the examples of a batch: what each of those objectives starts from."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvae.batching import fill_rows
from jaxvae.checks import is_known, require_choice
from jaxvae.distributions import analytic_kl
from jaxvae.objectives import KL
from jaxvae.sampling import Samples, draw
from jaxvae.types import InputError, Model, Terms


def draw_each(
    keys: Key[Array, "B"],
    model: Model,
    xs: Float[Array, "B *event"],
    weight: Float[Array, "B"] | None = None,
    *,
    at_least: int = 2,
) -> Samples:
    """One sample of q(z|x) for each example: `Samples` with a leading axis B.

    In the place of an example of weight 0 is one that counts, see `jaxvae.batching.fill_rows`.

    Raises:
        InputError: the keys are not one an example, there are fewer than `at_least` examples that
            count, or the weights are not usable.
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
    """Refuse weights that are not one a row, and, where they are known, too few rows that count.

    Raises:
        InputError: in words of the weights.
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
    """`sum_i w_i v_i / sum_i w_i` over the first axis; 0 where all weights are.

    What is stored in a row of weight 0, NaN included, reaches neither the mean nor its gradient.
    """
    if weight is None:
        return jnp.mean(values, axis=0)
    weight = jnp.asarray(weight, values.dtype)
    column = weight.reshape(-1, *[1] * (values.ndim - 1))
    there = jnp.where(column > 0, values, jnp.zeros_like(values))
    return ratio(jnp.sum(column * there, axis=0), jnp.sum(weight))


def log_or_absent(share: Array) -> Array:
    """The log of what is at least 0; minus infinity of 0, where the gradient is 0."""
    some = share > 0
    return jnp.where(some, jnp.log(jnp.where(some, share, 1.0)), -jnp.inf)


def relative(weight: Float[Array, "B"]) -> Float[Array, "B"]:
    """The weights as shares of the largest: products of two neither overflow nor vanish, whatever their unit."""
    return ratio(weight, jnp.max(weight))


def pairs(weight: Float[Array, "B"]) -> Float[Array, "B B"]:
    """`w_i w_j`, and 0 on the diagonal: how much each pair of different rows counts."""
    return off_diagonal(weight[:, None] * weight[None])


def off_diagonal(matrix: Float[Array, "B B"]) -> Float[Array, "B B"]:
    """The matrix with 0 on its diagonal."""
    return jnp.where(jnp.eye(len(matrix), dtype=bool), jnp.zeros_like(matrix), matrix)


def ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, and 0 where the denominator is 0, also in the gradient."""
    some = denominator > 0
    return jnp.where(some, numerator, 0.0) / jnp.where(some, denominator, 1.0)


def elbo_of(samples: Samples, kl: KL) -> Terms:
    """The terms of the ELBO of each example, [B] each, from one sample."""
    require_choice("kl", kl, get_args(KL))
    distortion = -samples.log_p_x_z[:, 0]
    rate = (
        jax.vmap(analytic_kl)(samples.q, samples.p)
        if kl == "analytic"
        else (samples.log_q_z_x - samples.log_p_z)[:, 0]
    )
    bound = -(distortion + rate)
    return Terms(bound, bound, distortion, rate)


def latents(samples: Samples) -> Float[Array, "B D"]:
    """The sample of each example, flattened."""
    return samples.z.reshape(samples.z.shape[0], -1)
