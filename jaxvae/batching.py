"""Where one example becomes many: keys folded per example, and `jax.vmap`.

A run has one key. Example i of step t draws from `fold_in(fold_in(key, t), i)`, where i is the
global index of the example, so no draw depends on the batch layout or the number of devices. Steps
count up from 0; other streams of the same run key count down from the largest fold, 2^32 - 1.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxvae.types import Batch, InputError, Model, Objective, PRNGKey, Terms, require_positive

T = TypeVar("T")

LARGEST_FOLD = 2**32 - 1
ORDER_STREAM, OBSERVATION_STREAM, VALIDATION_STREAM = range(3)


def stream_key(key: PRNGKey, stream: int) -> PRNGKey:
    """The key of a named stream of a run, apart from the keys of its steps."""
    return jax.random.fold_in(key, jnp.uint32(LARGEST_FOLD - stream))


def example_keys(
    key: PRNGKey, step: Int[Array, ""] | int, index: Int[Array, "B"]
) -> Key[Array, "B"]:
    """One key an example: `fold_in(fold_in(key, step), index[i])`."""
    return fold_each(jax.random.fold_in(key, step), index)


def fold_each(key: PRNGKey, index: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key an index: `fold_in(key, index[i])`."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


class Examples(NamedTuple):
    """A batch with its defaults filled in."""

    x: Float[Array, "B *event"]
    index: Int[Array, "B"]
    mask: Float[Array, "B"] | None


def unpack(batch: Batch) -> Examples:
    """Read a batch: an array, or a mapping with `x` and, where given, `mask` and `index`.

    Without `index` the examples count from 0. `mask` [B] weighs examples: 0 leaves one out.

    Raises:
        InputError: an entry is missing, unknown, or of another length.
    """
    if not isinstance(batch, Mapping):
        batch = {"x": batch}
    if unknown := set(batch) - {"x", "label", "mask", "index"}:
        raise InputError(
            f"batch: expected the entries x, label, mask and index, got also {sorted(unknown)}"
        )
    if "x" not in batch:
        raise InputError(f"batch: expected an entry x, got {sorted(batch)}")
    x = jnp.asarray(batch["x"])
    if x.ndim < 2 or x.shape[0] == 0:
        raise InputError(f"batch: expected x of shape [B, *event] with B >= 1, got {x.shape}")
    index, mask = batch.get("index"), batch.get("mask")
    for name, entry in (("index", index), ("mask", mask)):
        if entry is not None and jnp.shape(entry) != (x.shape[0],):
            raise InputError(
                f"batch: expected {name} of shape {(x.shape[0],)}, one an example, "
                f"got {jnp.shape(entry)}"
            )
    return Examples(
        x,
        jnp.arange(x.shape[0]) if index is None else jnp.asarray(index),
        None if mask is None else jnp.asarray(mask, jnp.float32),
    )


def over_batch(
    objective: Objective,
    keys: Key[Array, "B"],
    model: Model,
    x: Array,
    *,
    batch_coupled: bool = False,
    **options: Any,
) -> Terms | Float[Array, "B"]:
    """The objective of each example: `jax.vmap` over keys and examples, the model shared.

    A batch-coupled objective takes all the keys and all the examples itself.
    """
    if batch_coupled:
        return objective(keys, model, x, **options)
    return jax.vmap(lambda key, x: objective(key, model, x, **options))(keys, x)


def map_examples(
    function: Callable[[PRNGKey, Array], T],
    key: PRNGKey,
    xs: Float[Array, "N *event"],
    *,
    batch_size: int,
) -> T:
    """Apply a per-example function to every row, `batch_size` at a time, the last batch ragged.

    Row i gets `fold_in(key, i)`, so the result does not depend on `batch_size`.

    Args:
        function: `(key, x) -> pytree` of one example.
        key: one typed key.
        xs: [N, *event].
        batch_size: rows in one `vmap`; memory grows with it.

    Returns:
        The function's pytree with a leading axis N.

    Raises:
        InputError: there is no row, or `batch_size` is below 1.
    """
    require_positive(batch_size=batch_size)
    if jnp.ndim(xs) < 1 or xs.shape[0] == 0:
        raise InputError(f"xs: expected [N, *event] with N >= 1, got shape {jnp.shape(xs)}")
    rows = (fold_each(key, jnp.arange(xs.shape[0])), xs)
    return jax.lax.map(lambda row: function(*row), rows, batch_size=min(batch_size, xs.shape[0]))
