"""From one example to a batch: one key an example, and `jax.vmap`."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxvae.binding import bind, nan_where_not
from jaxvae.checks import require_positive
from jaxvae.keys import fold_each
from jaxvae.types import AnyArray, Batch, InputError, Model, Objective, PRNGKey, Terms

T = TypeVar("T")


class Examples(NamedTuple):
    """The entries of a batch, with their defaults filled in."""

    x: Float[Array, "B *event"]
    index: Int[Array, "B"]
    label: Int[Array, "B"] | None = None
    mask: Float[Array, "B *event"] | None = None
    """Which values of x were observed; all of them if None."""
    weight: Float[Array, "B"] | None = None
    """How much each example counts; alike if None."""


def unpack(batch: Batch) -> Examples:
    """Read a batch: an array, or a mapping with `x` and, where given, the other entries.

    Without `index` the examples count from 0. `mask` is [B], where 0 leaves an example out, or
    [B, *event], where 0 marks a value of x that was not observed. `weight` [B] weighs examples.

    Raises:
        InputError: an entry is missing, unknown, or of another shape or type, or a weight is negative.
    """
    entries: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {"x": batch}
    if unknown := set(entries) - {"x", "label", "mask", "index", "weight"}:
        raise InputError(
            "batch: expected the entries x, label, mask, index and weight, "
            f"got also {sorted(unknown)}"
        )
    if "x" not in entries:
        raise InputError(f"batch: expected an entry x, got {sorted(entries)}")
    x = jnp.asarray(entries["x"])
    if x.ndim < 2 or x.shape[0] == 0:
        one_each = (
            "; where an example is one number, write it as [B, 1], and its likelihood over (1,)"
        )
        hint = one_each if x.ndim == 1 and x.shape[0] else ""
        raise InputError(f"batch: expected x of shape [B, *event] with B >= 1, got {x.shape}{hint}")
    each = {name: entries.get(name) for name in ("index", "label", "weight")}
    mask = entries.get("mask")
    if mask is not None and jnp.ndim(mask) == 1:
        each["mask"], mask = mask, None
    for name, entry in each.items():
        if entry is not None and jnp.shape(entry) != (x.shape[0],):
            either = f", or {x.shape}, one a value" if name == "mask" else ""
            raise InputError(
                f"batch: expected {name} of shape {(x.shape[0],)}, one an example{either}, "
                f"got {jnp.shape(entry)}"
            )
    if mask is not None and jnp.shape(mask) != x.shape:
        raise InputError(
            f"batch: expected mask of shape {(x.shape[0],)}, one an example, or {x.shape}, one a "
            f"value, got {jnp.shape(mask)}"
        )
    label = each["label"]
    if label is not None and not hasattr(label, "dtype"):
        label = np.asarray(label)
    if label is not None and not jnp.issubdtype(label.dtype, jnp.integer):
        raise InputError(
            f"batch: expected label to be integers, got {label.dtype}; number the classes 0, 1, .."
        )
    weights = [
        _not_negative(name, each[name]) for name in ("mask", "weight") if each.get(name) is not None
    ]
    return Examples(
        x,
        _count(x) if each["index"] is None else jnp.asarray(each["index"]),
        None if label is None else jnp.asarray(label),
        None if mask is None else jnp.asarray(mask, jnp.float32),
        math.prod(weights[1:], start=weights[0]) if weights else None,
    )


def _not_negative(name: str, values: Any) -> Float[Array, "B"]:
    """Return weights as float32. A negative or NaN weight is refused; where the values are traced, it becomes NaN."""
    if not isinstance(values, Tracer) and getattr(values, "is_fully_addressable", True):
        array = np.asarray(values)
        wrong = np.flatnonzero(~(array >= 0))
        if wrong.size:
            raise InputError(
                f"batch: expected {name} of numbers that are not negative, got {array[wrong[0]]} at {wrong[0]}; "
                "0 leaves an example out"
            )
    weights = jnp.asarray(values, jnp.float32)
    return weights + nan_where_not((weights >= 0).astype(jnp.float32))


def fill_absent(examples: Examples) -> Examples:
    """Replace each example of weight 0 by the first example of another weight, see `fill_rows`."""
    rows = {"x": examples.x, "label": examples.label, "mask": examples.mask}
    return examples._replace(**fill_rows(rows, examples.weight))


def fill_rows(rows: T, weight: Float[AnyArray, "B"] | None) -> T:
    """Replace each row of weight 0, in a pytree of rows [B, ...], by the first row of another weight.

    So values stored in rows of weight 0, NaN included, reach no weighted mean and no gradient: 0 * NaN is NaN.
    """
    if weight is None:
        return rows
    counts = weight > 0
    first = jnp.argmax(counts)

    def fill(column: Array) -> Array:
        where = counts.reshape(-1, *[1] * (column.ndim - 1))
        return jnp.where(where, column, column[first][None])

    return jax.tree.map(fill, rows)


def _count(x: Array) -> Int[Array, "B"]:
    """Return 0, 1, .., B - 1; if nothing is traced, without compiling a program for it."""
    size = x.shape[0]
    return (
        jnp.arange(size) if isinstance(x, Tracer) else jnp.asarray(np.arange(size, dtype=np.int32))
    )


def over_batch(
    objective: Objective,
    keys: Key[Array, "B"],
    model: PyTree,
    examples: Examples,
    *,
    batch_coupled: bool = False,
    **options: Any,
) -> Terms | Float[Array, "B"]:
    """Return the objective of each example: `jax.vmap` over keys and examples, the model shared.

    A batch-coupled objective takes all keys and all examples itself, and the weights of the batch, if it has
    any, as `weight` [B].

    Raises:
        InputError: a mask of values, or a model that needs labels, came with a batch-coupled objective;
            or weights with one that takes none.
    """
    if batch_coupled:
        if examples.mask is not None or not isinstance(model, Model):
            raise InputError(
                "batch: an objective that couples the batch takes whole examples of a plain model, "
                "got a mask of values or a model that needs labels"
            )
        if examples.weight is not None:
            _require_takes_weight(objective)
            options["weight"] = examples.weight
        return objective(keys, model, examples.x, **options)

    def one(key: PRNGKey, x: Array, label: Array | None, mask: Array | None) -> Any:
        return objective(key, bind(model, label, mask), x, **options)

    return jax.vmap(one)(keys, examples.x, examples.label, examples.mask)


def _require_takes_weight(objective: Objective) -> None:
    parameters = inspect.signature(objective).parameters
    if "weight" not in parameters and not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        raise InputError(
            "batch: expected an objective of the batch that takes weight=[B], for the batch has weights or a "
            "mask of examples, got one without; leave out the rows that are not there, or give it the argument"
        )


def layout_of(x: Any) -> NamedSharding | None:
    """Return the sharding of the rows of an array, as `jaxvae.parallel.place` makes it; None if they are not split."""
    sharding = None if isinstance(x, Tracer) else getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
        return None
    mesh = sharding.mesh
    assert isinstance(mesh, Mesh)
    automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    layout = NamedSharding(automatic, PartitionSpec(sharding.spec[0]))
    return layout if shares(layout) > 1 else None


def shares(layout: NamedSharding | None) -> int:
    """Return the number of parts into which a layout cuts the rows."""
    if layout is None:
        return 1
    axes = layout.spec[0]
    return math.prod(layout.mesh.shape[a] for a in (axes if isinstance(axes, tuple) else (axes,)))


def deal_out(layout: NamedSharding | None, rows: Any, *shared: Any) -> tuple[Any, ...]:
    """Split rows over the devices of a layout, and replicate the arrays that go with them.

    Args:
        layout: from `layout_of`; None leaves everything where it is.
        rows: a pytree of arrays [N, ...].
        shared: pytrees; what is no array in them stays as it is.

    Returns:
        `rows` and each of `shared`.
    """
    if layout is None:
        return rows, *shared
    everywhere = NamedSharding(layout.mesh, PartitionSpec())

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, everywhere) if isinstance(leaf, jax.Array) else leaf

    return jax.device_put(rows, layout), *jax.tree.map(put, shared)


def on_each(function: Callable[..., T], layout: NamedSharding | None, rows: Any, *shared: Any) -> T:
    """Call `function(first, rows, *shared)` on each device with its own rows, the first of which is row `first`.

    No device waits for another before the end, where every one gets all results. Without a layout it
    is one call of all rows.

    Args:
        function: returns a pytree of arrays [M, ...]; M is the same on all devices.
        layout: from `layout_of`; a constant for the compiler.
        rows: a pytree of arrays [N, ...].
        shared: pytrees of arrays.

    Returns:
        The function's pytree with a leading axis of the devices' results, one after the other.
    """
    if layout is None:
        return function(0, rows, *shared)
    whole, dealt = PartitionSpec(), layout.spec
    size = jax.tree.leaves(rows)[0].shape[0] // shares(layout)

    def local(rows: Any, *shared: Any) -> T:
        return function(jax.lax.axis_index(dealt[0]) * size, rows, *shared)

    # What is drawn and scanned over differs between devices, which needs no proof here.
    specs = (dealt, *(whole for _ in shared))
    mapped = jax.shard_map(
        local, mesh=layout.mesh, in_specs=specs, out_specs=dealt, check_vma=False
    )
    results = mapped(rows, *shared)
    return jax.lax.with_sharding_constraint(results, NamedSharding(layout.mesh, whole))


def map_examples(
    function: Callable[[PRNGKey, Any], T],
    key: PRNGKey,
    xs: Any,
    *,
    batch_size: int,
    layout: NamedSharding | None = None,
) -> T:
    """Apply a per-example function to every row, `batch_size` at a time, the last batch ragged.

    Row i gets `fold_in(key, i)`, so the result depends neither on `batch_size` nor on the layout.

    Args:
        function: `(key, x) -> pytree` of one example.
        key: one typed key.
        xs: [N, *event], or a pytree of such arrays.
        batch_size: rows in one `vmap`; memory grows with it.
        layout: from `layout_of(xs)`, where the rows lie on several devices: each maps over its own.

    Returns:
        The function's pytree with a leading axis N.

    Raises:
        InputError: there is no row, or `batch_size` is below 1.
    """
    require_positive(batch_size=batch_size)
    shape = jnp.shape(jax.tree.leaves(xs)[0])
    if not shape or shape[0] == 0:
        raise InputError(f"xs: expected [N, *event] with N >= 1, got shape {shape}")

    def over(first: Any, rows: Any, key: PRNGKey) -> T:
        count = jax.tree.leaves(rows)[0].shape[0]
        keyed = fold_each(key, first + jnp.arange(count)), rows
        return jax.lax.map(lambda row: function(*row), keyed, batch_size=min(batch_size, count))

    return on_each(over, layout, xs, key)
