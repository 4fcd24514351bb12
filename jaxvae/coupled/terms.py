"""Everything here couples the examples of a batch: what each of those objectives starts from."""

from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxvae.batching import stream_key
from jaxvae.distributions import analytic_kl
from jaxvae.objectives import KL
from jaxvae.sampling import Samples, draw
from jaxvae.types import InputError, Model, PRNGKey, Terms


def draw_each(
    keys: Key[Array, "B"], model: Model, xs: Float[Array, "B *event"], *, at_least: int = 2
) -> Samples:
    """One sample of q(z|x) for each example: `Samples` with a leading axis B.

    Raises:
        InputError: the keys are not one an example, or there are fewer than `at_least` examples.
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
    return jax.vmap(lambda key, x: draw(key, model, x, 1))(keys, xs)


def elbo_of(samples: Samples, kl: KL) -> Terms:
    """The terms of the ELBO of each example, [B] each, from one sample."""
    require_choice("kl", kl, KL)
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


def apart(key: PRNGKey) -> PRNGKey:
    """A key for what is not a sample of q(z|x): those count up from `fold_in(key, 0)`."""
    return stream_key(key, 0)


def require_choice(name: str, value: str, choices: object) -> None:
    """Refuse an option that is not among the choices of a `Literal`.

    Raises:
        InputError: naming the option and the choices.
    """
    if value not in get_args(choices):
        expected = " or ".join(f'"{choice}"' for choice in get_args(choices))
        raise InputError(f"{name}: expected {expected}, got {value!r}")
