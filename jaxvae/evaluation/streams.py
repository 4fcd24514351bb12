"""Evaluation of functions on rows in batches, and means over rows with their standard errors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from jaxvae.batching import Examples, deal_out, layout_of, on_each, shares, unpack
from jaxvae.binding import bind
from jaxvae.checks import require_key, require_positive
from jaxvae.compiling import jit_quickly
from jaxvae.keys import fold_each
from jaxvae.types import Batch, InputError, PRNGKey, Values


def key_of_draws(key: Any, why: str) -> PRNGKey:
    """Return the key of a function that has to draw.

    Raises:
        InputError: the key is None, or not a typed key.
    """
    if key is None:
        raise InputError(f"key: expected one made by jax.random.key(seed), {why}, got None")
    require_key(key)
    return key


def mean_and_error(values: Values, weight: Values | None = None) -> tuple[float, float]:
    """Return the mean of values [N] and its standard error sd / sqrt(N), in float64; the error of one value is NaN.

    With weights [N] the mean is `m = sum_i w_i v_i / sum w` and its error `sqrt(n / (n - 1) sum_i w_i^2 (v_i -
    m)^2) / sum w` over the n values of positive weight. Values of weight 0 are ignored, even if they are NaN.

    >>> [round(number, 4) for number in mean_and_error([1.0, 4.0, np.nan], [2.0, 1.0, 0.0])]
    [2.0, 1.3333]

    Source: Cochran (1977), "Sampling techniques", section 6.4, the variance of a ratio of two means.
    """
    values = np.asarray(values, np.float64)
    if weight is None:
        spread = values.std(ddof=1) if len(values) > 1 else np.nan
        return float(values.mean()), float(spread / np.sqrt(len(values)))
    values, weight = there(values, weight)
    size, total = len(values), weight.sum()
    mean = weight @ values / total
    spread = np.sqrt(np.sum(np.square(weight * (values - mean))) * size / max(size - 1, 1))
    return float(mean), float(spread / total if size > 1 else np.nan)


def there(
    values: Values, weight: Values | None
) -> tuple[Float[np.ndarray, "n ..."], Float[np.ndarray, "n"]]:
    """Return the rows of values [N, ...] of positive weight, and their weights (1 if `weight` is None), float64."""
    values = np.asarray(values, np.float64)
    if weight is None:
        return values, np.ones(len(values))
    weight = np.asarray(weight, np.float64)
    return values[weight > 0], weight[weight > 0]


def mean_of_rows(values: Values, weight: Values | None) -> Float[np.ndarray, "..."]:
    """Return the weighted mean of values [N, ...] over their first axis, float64."""
    rows, weight = there(values, weight)
    return np.asarray(np.average(rows, axis=0, weights=weight))


def is_there(xs: Batch) -> Bool[np.ndarray, "N"]:
    """Return True for rows of positive weight."""
    weight = weights_of(xs)
    return np.ones(len(unpack(xs).x), bool) if weight is None else weight > 0


def weights_of(xs: Batch) -> Float[np.ndarray, "N"] | None:
    """Return the weight of each row in means over rows, its `weight` times its `mask` [N]; None if all are equal.

    Raises:
        InputError: a weight is negative or not finite, or all are 0.
    """
    weight = unpack(xs).weight
    if weight is None:
        return None
    weight = np.asarray(weight, np.float64)
    if not (np.all((weight >= 0) & (weight < np.inf)) and np.any(weight > 0)):
        raise InputError("batch: expected finite weights of at least 0, not all of them 0")
    return weight


def stream(
    function: Callable[..., Any],
    model: PyTree,
    key: PRNGKey | None,
    xs: Batch,
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Any:
    """Return `function(model, fold_in(key, index[i]), xs[i], **options)` of all rows i, of any weight, in NumPy arrays.

    Without a key, the function gets None in its place.
    `index` is the batch's entry of this name, as in training; without it the rows are numbered from 0.
    A function with its options is compiled once for all calls (once per call if the model is not a pytree). If the
    rows are distributed over several devices, each device computes its own rows, `batch_size` at a time.

    The last batch is padded with copies of the last row, so that all batches have one shape.
    """
    require_positive(batch_size=batch_size)
    if key is not None:
        require_key(key)
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

    def in_order(*parts: np.ndarray) -> np.ndarray:
        each = [np.reshape(part, (devices, batch_size, *part.shape[1:])) for part in parts]
        rows = np.concatenate(each, axis=1)[:, :share]
        return rows.reshape(size, *rows.shape[2:])

    return jax.tree.map(in_order, *jax.device_get(parts))


@jax.tree_util.register_static
class Constant:
    """A model that is not a pytree, as a constant of compiled code.

    Its contents may change unnoticed between calls. So each call makes a new constant, equal to no other, and
    compiles again.
    """

    def __init__(self, model: PyTree):
        self.model = model


def hold(model: PyTree) -> PyTree | Constant:
    """Return a model as an argument of compiled functions: unchanged if it is a pytree, else as a `Constant`."""
    return model if jax.tree.leaves(model) != [model] else Constant(model)


@partial(jit_quickly, static_argnums=(0, 1, 2))
def _batch(
    function: Callable[..., Any],
    options: tuple[tuple[str, Any], ...],
    layout: NamedSharding | None,
    held: PyTree | Constant,
    key: PRNGKey | None,
    examples: Examples,
    index: Array,
) -> Any:
    def local(first: Any, examples: Examples, held: Any, key: PRNGKey | None, index: Array) -> Any:
        del first  # a row's key is of its index in the whole
        model = held.model if isinstance(held, Constant) else held

        def one(key: PRNGKey | None, row: Examples) -> Any:
            return function(bind(model, row.label, row.mask), key, row.x, **dict(options))

        rows = jax.tree.map(lambda column: column[index], examples)
        keys = None if key is None else fold_each(key, rows.index)
        return jax.vmap(one)(keys, rows)

    return on_each(local, layout, examples, held, key, index)
