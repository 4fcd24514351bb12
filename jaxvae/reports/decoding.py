"""Decoding: p(x|z) of a trained model at samples, posterior means and classes, with one key per example."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.batching import Examples, map_examples, unpack
from jaxvae.binding import bind
from jaxvae.checks import require_positive
from jaxvae.compiling import jit_quickly
from jaxvae.distributions import sample
from jaxvae.evaluation.decoding import show
from jaxvae.types import Batch, InputError, Model, PRNGKey

BATCH = 500  # examples decoded together
LARGEST_SEED = 2**32 - 1


def latent_of(q: Distribution, key: PRNGKey) -> Float[Array, "D"]:
    """Return the mean of q(z|x), or a draw if z is discrete or the mean is not known."""
    try:
        return jnp.asarray(q.mean) if q.has_rsample else sample(q, key)
    except NotImplementedError:
        return sample(q, key)


def prior_samples(model: Model, *, num: int, seed: int) -> Float[np.ndarray, "num *event"]:
    """Decode draws of z from the prior; `show` defines how p(x|z) is shown.

    Args:
        model: any object with `prior` and `likelihood`.
        num: number of samples.
        seed: sample i uses `fold_in(key(seed), i)`, so a larger `num` starts with the same samples.

    Returns:
        `E[x|z_i]` with `z_i ~ p(z)`, [num, *event], float32.

    Raises:
        InputError: `num` is below 1, or `seed` is not in 0 to 2^32 - 1.
    """
    require_positive(num=num)
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed: expected an integer from 0 to 2^32 - 1, got {seed}")

    return _map(_at_a_draw, model, np.arange(num, dtype=np.int32), jax.random.key(seed))


def _at_a_draw(model: Model, key: PRNGKey, _: Array) -> Array:
    return show(model.likelihood(sample(model.prior(), key)), jax.random.fold_in(key, 1))


def reconstruction_means(model: Model, xs: Batch) -> Float[np.ndarray, "N *event"]:
    """Decode the mean of q(z|x), or a draw if z has no mean; `show` defines how p(x|z) is shown.

    Args:
        model: any object with `posterior` and `likelihood`.
        xs: examples as the model sees them, [N, *event], or a batch.

    Returns:
        `E[x|z]` at `z = E_q[z|x_i]`, [N, *event], float32.
    """
    return _map(_reconstructed, model, unpack(xs), jax.random.key(0))


def _reconstructed(model: Model, key: PRNGKey, row: Examples) -> Array:
    bound = bind(model, row.label, row.mask)
    z = latent_of(bound.posterior(row.x), key)
    unmasked = bind(model, row.label)
    return show(unmasked.likelihood(z), jax.random.fold_in(key, 1))


def class_samples(
    model: Any, *, num_classes: int, num: int, seed: int
) -> Float[np.ndarray, "pictures *event"]:
    """Decode `num` draws of z for every class y, the same draws for each; `show` defines how p(x|z, y) is shown.

    Args:
        model: any object with `given`.
        num_classes: the number of classes y.
        num: draws per class.
        seed: the seed of the draws.

    Returns:
        Class by class, [num_classes * num, *event], float32.
    """
    labels, draws = np.divmod(np.arange(num_classes * num, dtype=np.int32), num)
    seeds = np.full(len(labels), seed, np.uint32)
    return _map(_of_class, model, (labels, draws, seeds), jax.random.key(0))


def _of_class(model: Any, _: PRNGKey, row: tuple[Array, Array, Array]) -> Array:
    label, draw, seed = row
    key, given = jax.random.fold_in(jax.random.key(seed), draw), model.given(label)
    return show(given.likelihood(sample(given.prior(), key)), jax.random.fold_in(key, 1))


def _map(function: Callable[..., Array], model: Any, rows: Any, key: PRNGKey) -> np.ndarray:
    """Map `function(model, key_i, rows[i])` over rows, with one compilation."""
    return np.asarray(_every(function, model, key, rows), np.float32)


@partial(jit_quickly, static_argnums=0)
def _every(function: Callable[..., Array], model: Any, key: PRNGKey, rows: Any) -> Array:
    return map_examples(partial(function, model), key, rows, batch_size=BATCH)
