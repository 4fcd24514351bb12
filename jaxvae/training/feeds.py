"""Feeds: the batches of training rows held in memory, and the dispatch that trains on them.

The order of epoch e is `permutation(fold_in(order_key, e))` of the training rows, cut into batches
of B; the N mod B rows left over differ from epoch to epoch. So the batch of step t is a function of
(key, t), and a resumed run sees the same batches as an uninterrupted one.

A dispatch runs blocks of a fixed number of steps, see `jaxvae.training.blocks`. A step never sorts: the
orders of the coming epochs are drawn by a separate program, before a dispatch needs them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from jaxvae.checks import require_positive
from jaxvae.keys import OfRun, example_keys, stream_key
from jaxvae.placement import put, replicated
from jaxvae.training.blocks import compiled, repeat_blocks, require_blocks
from jaxvae.training.metrics import Metrics
from jaxvae.training.step import Step, TrainState
from jaxvae.types import InputError, PRNGKey

WINDOW_ROWS = 2**17
"""The approximate number of row indices that one window of epoch orders holds, for small data."""

Rows: TypeAlias = dict[str, Array]
"""The training rows as stored: `x` [N, *event] and optionally `label`, `mask` and `weight`."""


@runtime_checkable
class DataSet(Protocol):
    """The data set interface of the training loop; `jaxvae.data.load` returns one."""

    @property
    def splits(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Split name -> `x` [N, *event] as stored, and optionally the rows' `label`, `mask` and `weight`."""
        ...

    def observe(self, key: PRNGKey, x: Array, /) -> Array:
        """Convert one stored example to one model input."""
        ...


@runtime_checkable
class Feed(Protocol):
    """The batches of a run and the compiled dispatch that trains on them."""

    @property
    def block_steps(self) -> int:
        """S: a dispatch starts at a multiple of S and takes a multiple of S steps."""
        ...

    def no_metrics(self, state: TrainState) -> Metrics:
        """Return empty metrics of the structure that the step returns."""
        ...

    def longest(self, step: int) -> int:
        """Return the largest number of steps of a dispatch that starts at `step`, a multiple of S."""
        ...

    def run(
        self, state: TrainState, metrics: Metrics, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Run `count` steps starting at `step` = `state.step` in one dispatch; the arguments' buffers are donated.

        Raises:
            InputError: the steps are not whole blocks, or more than one dispatch may take.
        """
        ...


class InMemory:
    """A feed that holds all training rows on the device; a dispatch transfers no data to or from the host.

    Args:
        step: from `make_step`.
        dataset: the training rows are `dataset.splits["train"]["x"]`.
        batch_size: B, at most the number of training rows.
        block_steps: S, the steps of a loop of fixed length: dispatches take multiples of it. See
            `jaxvae.training.blocks.choose_block_steps`.
        mesh: devices that each hold all rows, and over which a `step` from
            `jaxvae.parallel.shard` splits each batch; one device by default.

    Raises:
        InputError: a size is not usable.
    """

    def __init__(
        self,
        step: Step,
        dataset: DataSet,
        *,
        batch_size: int,
        block_steps: int = 1,
        mesh: Mesh | None = None,
    ):
        require_positive(batch_size=batch_size, block_steps=block_steps)
        rows = batch_rows(dataset, "train")
        require_batch(batch_size, size := len(rows["x"]))
        self.block_steps = block_steps
        self.rows: Rows = on(mesh, rows)
        self._on_device = jax.device_put if mesh is None else partial(on, mesh)
        layout: dict[str, Any] = {} if mesh is None else {"out_shardings": replicated(mesh)}
        draw = make_orders(size, on_device=self._on_device, **layout)
        self.epochs = Epochs(size, batch_size, block_steps, draw)
        self._no_metrics = partial(no_metrics, step, dataset=dataset, batch_size=batch_size)
        run = make_run(
            step, dataset.observe, batch_size=batch_size, block_steps=block_steps, mesh=mesh
        )
        self._run = compiled(run)
        self._key: PRNGKey | None = None

    def no_metrics(self, state: TrainState) -> Metrics:
        """Return empty metrics, without computing anything."""
        return self._no_metrics(state)

    def longest(self, step: int) -> int:
        """Return the number of steps up to the end of the next window of epochs, in whole blocks."""
        return self.epochs.longest(step)

    def run(
        self, state: TrainState, metrics: Metrics, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Run `count` steps; orders of their epochs that are not drawn yet are drawn first."""
        require_blocks(step, count, self.block_steps, self.longest(step))
        if state.key is not self._key:  # not the array of the last dispatch: another run's
            self.epochs.forget()
        orders = self.epochs.orders(state.key, step)
        blocks = self._on_device(np.int32(count // self.block_steps))
        state, metrics = self._run(state, metrics, orders, self.rows, blocks)
        self._key = state.key
        return state, metrics


class Epochs:
    """The orders of the current and coming epochs, on the device; each is drawn once in a run.

    A window is W consecutive epochs that start at a multiple of W. It has at least one block of steps, and
    many epochs if the data are small, so that a dispatch can be long. Two windows are held: current and next.

    Args:
        size: N, the number of training rows.
        batch_size: B.
        block_steps: S.
        draw: from `make_orders`.
        num_runs: the number of runs, each with its own orders.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        block_steps: int,
        draw: Callable[..., Int[Array, "W N"]],
        num_runs: int = 1,
    ):
        self.steps_per_epoch = size // batch_size
        at_least = -(-block_steps // self.steps_per_epoch)
        self.window = max(at_least, WINDOW_ROWS // (size * num_runs), 1)
        self._block_steps, self._draw = block_steps, draw
        self._drawn: dict[int, Array] = {}

    def forget(self) -> None:
        """Discard the orders drawn so far, which belong to the key of another run."""
        self._drawn = {}

    def longest(self, step: int) -> int:
        """Return the number of steps up to the end of the next window, in whole blocks."""
        window_steps = self.window * self.steps_per_epoch
        left = (step // window_steps + 2) * window_steps - step
        return left // self._block_steps * self._block_steps

    def orders(self, key: Key[Array, "*runs"], step: int) -> tuple[Array, Array]:
        """Return the orders of the window that contains `step`, and of the next window.

        Args:
            key: the run's key, or keys [R] of several runs; the same in every call until `forget`.
            step: any step, >= 0.
        """
        current = step // (self.window * self.steps_per_epoch)
        self._drawn = {
            w: self._drawn[w] if w in self._drawn else self._draw(key, w * self.window, self.window)
            for w in (current, current + 1)
        }
        return self._drawn[current], self._drawn[current + 1]


def on(mesh: Mesh | None, tree: Any) -> Any:
    """Put arrays on every device of a mesh; without a mesh, on JAX's default device."""
    return jax.tree.map(jnp.asarray, tree) if mesh is None else put(tree, replicated(mesh))


def make_orders(
    size: int,
    over: Callable[[Any], Any] = lambda draw: draw,
    on_device: Callable[[Any], Array] = jax.device_put,
    **options: Any,
) -> Callable[..., Int[Array, "W N"]]:
    """Compile `draw(key, first, W)`: the orders of epochs `first` to `first + W - 1`.

    Args:
        size: N, the number of training rows.
        over: maps `(key, first) -> [W, N]` over runs, for several runs.
        on_device: puts a number on the devices.
        options: options of `jax.jit`.
    """

    @partial(jax.jit, static_argnums=2, **options)
    def draw(key: Key[Array, "*runs"], first: Int[Array, ""], window: int) -> Int[Array, "..."]:
        def of_run(key: PRNGKey, first: Int[Array, ""]) -> Int[Array, "W N"]:
            epochs = first + jnp.arange(window)
            return jax.vmap(epoch_order, in_axes=(None, 0, None))(key, epochs, size)

        return over(of_run)(key, first)

    return lambda key, first, window: draw(key, on_device(np.int32(first)), window)


def make_run(
    step: Step,
    observe: Callable[[PRNGKey, Array], Array],
    *,
    batch_size: int,
    block_steps: int = 1,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return the dispatch `run(state, metrics, orders, rows, blocks)`: S steps per block. Pure, not compiled.

    `blocks` is an array, so one compilation serves every count, and how the steps are divided into
    dispatches cannot change a bit of the result. `orders` is from `Epochs.orders`.
    """

    def run(
        state: TrainState,
        metrics: Metrics,
        orders: tuple[Int[Array, "W N"], Int[Array, "W N"]],
        rows: Rows,
        blocks: Int[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        observation_key = stream_key(state.key, OfRun.OBSERVATION)
        window, size = orders[0].shape
        steps_per_epoch = size // batch_size
        both = jnp.concatenate(orders)
        first = state.step // (window * steps_per_epoch) * window

        def one(carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            epoch, position = state.step // steps_per_epoch, state.step % steps_per_epoch
            at = epoch - first, position * batch_size
            index = jax.lax.dynamic_slice(both, at, (1, batch_size))[0]
            keys = example_keys(observation_key, state.step, index)
            batch = {name: array[index] for name, array in rows.items()}
            batch |= {"x": jax.vmap(observe)(keys, batch["x"]), "index": index}
            state, new = step(state, batch)
            return state, metrics.merge(new)

        carry = repeat_blocks(one, (state, metrics), blocks, block_steps)
        return carry if mesh is None else jax.lax.with_sharding_constraint(carry, replicated(mesh))

    return run


def epoch_order(key: PRNGKey, epoch: Int[Array, ""] | int, size: int) -> Int[Array, "N"]:
    """Draw the order of the training rows in an epoch: a permutation that depends on (key, epoch)."""
    order_key = jax.random.fold_in(stream_key(key, OfRun.ORDER), epoch)
    return jax.random.permutation(order_key, jnp.arange(size, dtype=jnp.int32))


def no_metrics(step: Step, state: TrainState, *, dataset: DataSet, batch_size: int) -> Metrics:
    """Return empty metrics of the structure that the step returns, without computing anything."""
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


def require_batch(batch_size: int, size: int) -> None:
    """Refuse a batch size above the number of training rows.

    Raises:
        InputError: `batch_size` is above `size`.
    """
    if batch_size > size:
        raise InputError(
            f"batch_size: expected at most {size}, the size of the training split, got {batch_size}"
        )


def batch_rows(dataset: DataSet, split: str) -> dict[str, Any]:
    """Return the fields of a split that batches contain: all but `factors`, which no model sees."""
    return {name: a for name, a in dataset.splits[split].items() if name != "factors"}
