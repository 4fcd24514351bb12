"""Displays of p(x|z) at given latents: its mean, its mode or a sample."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, Independent, constraints

from jaxvae.distributions import sample
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.evaluation.streams import key_of_draws, stream
from jaxvae.types import Model, PRNGKey

Shown: TypeAlias = Literal["mean", "mode", "draw"]
"""The display of p(x|z): its mean; for classes the most probable one; else one sample of x."""


def how_shown(model: Model) -> Shown:
    """Return which display of p(x|z) is available for this model."""
    found: list[Shown] = []

    def one(key: PRNGKey) -> None:
        found.append(_how(model.likelihood(sample(model.prior(), key))))

    jax.eval_shape(one, jax.eval_shape(jax.random.key, 0))
    return found[0]


def show(likelihood: Distribution, key: PRNGKey | None) -> Float[Array, "*event"]:
    """Return the mean of p(x|z); for classes the most probable one; a sample if neither is known."""
    match _how(likelihood):
        case "mean":
            with numpyro_promotion():
                return jnp.asarray(likelihood.mean)
        case "mode":
            logits: Any = likelihood.base_dist.logits  # type: ignore[attr-defined]
            return jnp.argmax(logits, axis=-1).astype(jnp.float32)
    key = key_of_draws(key, "for the draws that stand for a p(x|z) without a mean")
    return sample(likelihood, key)


def _how(likelihood: Distribution) -> Shown:
    each = likelihood.base_dist if isinstance(likelihood, Independent) else likelihood
    if isinstance(each.support, type(constraints.integer_interval(0, 1))):
        return "mode" if hasattr(each, "logits") else "draw"
    try:
        with numpyro_promotion():
            _ = likelihood.mean
    except NotImplementedError:
        return "draw"
    return "mean"


def likelihood_means(
    model: Model,
    zs: Float[Array | np.ndarray, "N D"],
    *,
    key: PRNGKey | None = None,
    batch_size: int = 500,
) -> Float[np.ndarray, "N *event"]:
    """Return the display of p(x|z) at given latents, see `show`.

    Args:
        model: any object with `prior` and `likelihood`.
        zs: latents, [N, D].
        key: one typed key for samples, required if `how_shown` returns "draw".
        batch_size: latents at a time.

    Returns:
        `E[x|z_i]`, [N, *event], float32; without a mean, the display that `how_shown` returns.

    Raises:
        InputError: there are no latents, the model needs a label, or a key is needed and not given.
    """
    shown = stream(_show_at, model, key, zs, batch_size=batch_size)
    return np.asarray(shown, np.float32)


def _show_at(model: Model, key: PRNGKey | None, z: Array) -> Array:
    return show(model.likelihood(z), key)
