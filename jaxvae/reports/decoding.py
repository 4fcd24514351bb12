"""What a trained model shows of itself: means of p(x|z), one key an example."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvae.batching import map_examples
from jaxvae.distributions import sample
from jaxvae.types import InputError, Model, PRNGKey, require_positive

BATCH = 500  # examples decoded together
LARGEST_SEED = 2**32 - 1


def prior_samples(model: Model, *, num: int, seed: int) -> Float[np.ndarray, "num *event"]:
    """Means of p(x|z) at draws of z from the prior.

    Args:
        model: any object with `prior` and `likelihood`.
        num: how many.
        seed: sample i draws from `fold_in(key(seed), i)`, so more of them begin with the same ones.

    Returns:
        `E[x|z_i]` with `z_i ~ p(z)`, [num, *event], float32.

    Raises:
        InputError: `num` is below 1, or `seed` is not in 0 to 2^32 - 1.
    """
    require_positive(num=num)
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed: expected an integer from 0 to 2^32 - 1, got {seed}")

    def mean(model: Model, key: PRNGKey, _: Array) -> Array:
        return model.likelihood(sample(model.prior(), key)).mean

    return _map(mean, model, jnp.arange(num), jax.random.key(seed))


def reconstruction_means(
    model: Model, xs: Float[Array, "N *event"]
) -> Float[np.ndarray, "N *event"]:
    """Means of p(x|z) at the mean of q(z|x).

    Args:
        model: any object with `posterior` and `likelihood`.
        xs: examples as the model sees them, [N, *event].

    Returns:
        `E[x|z]` at `z = E_q[z|x_i]`, [N, *event], float32.
    """

    def mean(model: Model, _: PRNGKey, x: Array) -> Array:
        return model.likelihood(model.posterior(x).mean).mean

    return _map(mean, model, xs)


def likelihood_means(
    model: Model, zs: Float[Array | np.ndarray, "N D"]
) -> Float[np.ndarray, "N *event"]:
    """Means of p(x|z) at given latents.

    Args:
        model: any object with `likelihood`.
        zs: latents, [N, D].

    Returns:
        `E[x|z_i]`, [N, *event], float32.
    """
    return _map(lambda model, _, z: model.likelihood(z).mean, model, jnp.asarray(zs))


def _map(function, model: Model, rows: Array, key: PRNGKey | None = None) -> np.ndarray:
    """`function(model, key_i, rows[i])` for every row, in one compilation."""

    @jax.jit
    def every(model: Model, key: PRNGKey, rows: Array) -> Array:
        return map_examples(partial(function, model), key, rows, batch_size=BATCH)

    no_draws = jax.random.key(0)
    return np.asarray(every(model, no_draws if key is None else key, jnp.asarray(rows)), np.float32)
