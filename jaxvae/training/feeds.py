"""Where batches come from, and the dispatch that trains on them.

The order of epoch e is `permutation(fold_in(order_key, e))` of the training rows, cut into batches
of B; the N mod B rows left over are other rows in every epoch. So the batch of step t follows from
(key, t), and a resumed run sees the same batches as an unbroken one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxvae.batching import OBSERVATION_STREAM, ORDER_STREAM, example_keys, stream_key
from jaxvae.placement import put, replicated
from jaxvae.training.metrics import Metrics
from jaxvae.training.step import Step, TrainState
from jaxvae.types import InputError, PRNGKey, require_positive

Rows: TypeAlias = dict[str, Array]
"""The training rows as stored: `x` [N, *event] and, where there are any, `label`, `mask` and `weight`."""

Order: TypeAlias = tuple[Int[Array, "N"], Int[Array, ""]]
"""The order of an epoch, and which epoch that is."""


class DataSet(Protocol):
    """What the loop needs of a data set; `jaxvae.data.load` returns one."""

    @property
    def splits(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Split name -> `x` [N, *event] as stored and, where there are any, the rows' `label`, `mask` and `weight`."""
        ...

    def observe(self, key: PRNGKey, x: Array, /) -> Array:
        """One stored example -> one model input."""
        ...


class Feed(Protocol):
    """The batches of a run and the compiled dispatch that trains on them."""

    def no_metrics(self, state: TrainState) -> Metrics:
        """Metrics of no examples, of the structure that the step returns."""
        ...

    def longest(self, step: int) -> int | None:
        """How many steps a dispatch from this step on may take; any number if None."""
        ...

    def run(
        self, state: TrainState, metrics: Metrics, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """`count` steps from `step` = `state.step` on, in one dispatch; the buffers given are donated."""
        ...


class InMemory:
    """All training rows on the device; nothing goes to it or to the host in a dispatch.

    Args:
        step: from `make_step`.
        dataset: the training rows are `dataset.splits["train"]["x"]`.
        batch_size: B, at most the number of training rows.
        mesh: devices that hold everything in full, and among which a `step` from
            `jaxvae.parallel.shard` deals out each batch; one device by default.

    Raises:
        InputError: a size is not usable.
    """

    def __init__(self, step: Step, dataset: DataSet, *, batch_size: int, mesh: Mesh | None = None):
        require_positive(batch_size=batch_size)
        rows = batch_rows(dataset, "train")
        if batch_size > (size := len(rows["x"])):
            raise InputError(
                f"batch_size: expected at most {size}, the size of the training split, got {batch_size}"
            )
        order = jnp.zeros(size, jnp.int32), jnp.int32(-1)
        self.rows: Rows = on(mesh, rows)
        self.order: Order = on(mesh, order)
        self._no_metrics = partial(no_metrics, step, dataset=dataset, batch_size=batch_size)
        self._run = make_run(step, dataset.observe, batch_size=batch_size, mesh=mesh)

        self._on_device = jax.device_put if mesh is None else partial(on, mesh)

    def no_metrics(self, state: TrainState) -> Metrics:
        """Metrics of no examples; nothing is computed."""
        return self._no_metrics(state)

    def longest(self, step: int) -> None:
        """A dispatch may take any number of steps."""

    def run(
        self, state: TrainState, metrics: Metrics, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """`count` steps; the order of the epoch stays on the device until the next call."""
        del step
        state, metrics, self.order = self._run(
            state, metrics, self.order, self.rows, self._on_device(count)
        )
        return state, metrics


def on(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays on every device of a mesh; without one, where JAX puts them."""
    return jax.tree.map(jnp.asarray, tree) if mesh is None else put(tree, replicated(mesh))


def make_run(
    step: Step,
    observe: Callable[[PRNGKey, Array], Array],
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Metrics, Order, Rows, Array], tuple[TrainState, Metrics, Order]]:
    """Compile `run(state, metrics, order, rows, count)`: `count` steps in one dispatch, buffers donated.

    `count` is an array, so one compilation serves every count, and how the steps are dealt out to
    dispatches cannot change a bit of the result.
    """

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def run(
        state: TrainState, metrics: Metrics, order: Order, rows: Rows, count: Int[Array, ""]
    ) -> tuple[TrainState, Metrics, Order]:
        observation_key = stream_key(state.key, OBSERVATION_STREAM)
        size = rows["x"].shape[0]
        steps_per_epoch = size // batch_size

        def one(_: Array, carry: Any) -> Any:
            state, metrics, (order, ordered_epoch) = carry
            epoch, position = state.step // steps_per_epoch, state.step % steps_per_epoch
            order = jax.lax.cond(
                epoch == ordered_epoch,
                lambda: order,
                lambda: epoch_order(state.key, epoch, size),
            )
            index = jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
            keys = example_keys(observation_key, state.step, index)
            batch = {name: array[index] for name, array in rows.items()}
            batch |= {"x": jax.vmap(observe)(keys, batch["x"]), "index": index}
            state, new = step(state, batch)
            return state, metrics.merge(new), (order, epoch)

        carry = jax.lax.fori_loop(0, count, one, (state, metrics, order))
        return carry if mesh is None else jax.lax.with_sharding_constraint(carry, replicated(mesh))

    return run


def epoch_order(key: PRNGKey, epoch: Int[Array, ""] | int, size: int) -> Int[Array, "N"]:
    """The order of the training rows in an epoch: a permutation drawn from (key, epoch)."""
    order_key = jax.random.fold_in(stream_key(key, ORDER_STREAM), epoch)
    return jax.random.permutation(order_key, jnp.arange(size, dtype=jnp.int32))


def no_metrics(step: Step, state: TrainState, *, dataset: DataSet, batch_size: int) -> Metrics:
    """Metrics of no examples, of the structure that the step returns; nothing is computed."""
    rows = batch_rows(dataset, "train")
    x = jax.eval_shape(dataset.observe, state.key, rows["x"][0])
    index = jax.ShapeDtypeStruct((), jnp.int32)
    row = {name: jax.eval_shape(lambda row: row, array[0]) for name, array in rows.items()}
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *one.shape), one.dtype)
        for name, one in (row | {"x": x, "index": index}).items()
    }
    _, metrics = jax.eval_shape(step, state, batch)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)


def batch_rows(dataset: DataSet, split: str) -> dict[str, np.ndarray]:
    """What of a split's rows goes into batches: all but `factors`, which no model is shown."""
    return {name: a for name, a in dataset.splits[split].items() if name != "factors"}
