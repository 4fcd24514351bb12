"""Rows in batches, one dispatch each; means with their errors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxvae.batching import Examples, deal_out, fold_each, layout_of, on_each, shares, unpack
from jaxvae.binding import bind
from jaxvae.compiling import jit_quickly
from jaxvae.types import (
    Batch,
    Model,
    PRNGKey,
    require_positive,
)


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """Mean of values [N] and its standard error sd / sqrt(N) in float64; that of one value is NaN."""
    values = np.asarray(values, np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    return float(values.mean()), float(spread / np.sqrt(len(values)))


def stream(
    function: Callable[..., Any],
    model: Model,
    key: PRNGKey,
    xs: Batch,
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Any:
    """`function(model, fold_in(key, i), xs[i], **options)` for every row, as NumPy arrays.

    A batch is a dispatch. The same function and options are compiled once for all calls (for each, of a model that
    is no pytree). Of rows that
    lie on several devices, each device computes its own, `batch_size` of them at a time.

    The last batch is filled up with copies of the last row, so that one compilation serves all.
    """
    require_positive(batch_size=batch_size)
    examples = unpack(xs)
    layout = layout_of(examples.x)
    size, devices = len(examples.x), shares(layout)
    share = size // devices
    examples, held, key = deal_out(layout, examples, hold(model), key)
    batch_size = min(batch_size, share)

    parts = []
    named_options = tuple(sorted(options.items()))
    for start in range(0, share, batch_size):
        index = np.minimum(np.arange(start, start + batch_size, dtype=np.int32), share - 1)
        batch = _batch(function, named_options, layout, held, key, examples, index)
        parts.append(jax.block_until_ready(batch))
        if on_progress:
            on_progress(devices * min(start + batch_size, share))

    def in_order(*parts: Array) -> np.ndarray:
        each = [np.reshape(part, (devices, batch_size, *part.shape[1:])) for part in parts]
        rows = np.concatenate(each, axis=1)[:, :share]
        return rows.reshape(size, *rows.shape[2:])

    return jax.tree.map(in_order, *jax.device_get(parts))


@jax.tree_util.register_static
class Constant:
    """A model that is no pytree: a constant for the compiler.

    What it holds may change between calls, where nobody sees it. So each call makes a constant of its own,
    equal to no other, and compiles anew.
    """

    def __init__(self, model: Model):
        self.model = model


def hold(model: Model) -> Model | Constant:
    """A model as an argument of compiled functions; a pytree is one by itself."""
    return model if jax.tree.leaves(model) != [model] else Constant(model)


@partial(jit_quickly, static_argnums=(0, 1, 2))
def _batch(
    function: Callable[..., Any],
    options: tuple[tuple[str, Any], ...],
    layout: NamedSharding | None,
    held: Model | Constant,
    key: PRNGKey,
    examples: Examples,
    index: Array,
) -> Any:
    def local(first: Any, examples: Examples, held: Any, key: PRNGKey, index: Array) -> Any:
        model = held.model if isinstance(held, Constant) else held

        def one(key: PRNGKey, row: Examples) -> Any:
            return function(bind(model, row.label, row.mask), key, row.x, **dict(options))

        rows = jax.tree.map(lambda column: column[index], examples)
        return jax.vmap(one)(fold_each(key, first + index), rows)

    return on_each(local, layout, examples, held, key, index)
