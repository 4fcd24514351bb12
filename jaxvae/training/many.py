"""Several runs in one dispatch: the pure step under `vmap`, each run with its own order, batches and noise.

States are stacked along a leading axis of runs, except the step counter, which all runs share. If it were
stacked too, every run would have its own position in the epoch.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from jaxvae.batching import fill_absent, map_examples, unpack
from jaxvae.binding import bind
from jaxvae.checks import require_positive
from jaxvae.keys import OfRun, stream_key
from jaxvae.training.blocks import compiled, require_blocks
from jaxvae.training.feeds import (
    DataSet,
    Epochs,
    Rows,
    batch_rows,
    make_orders,
    make_run,
    no_metrics,
    require_batch,
)
from jaxvae.training.metrics import Metrics, batch_metrics
from jaxvae.training.step import Step, TrainState
from jaxvae.types import InputError, Objective, PRNGKey

T = TypeVar("T")

STACKED = TrainState(model=0, opt_state=0, key=0, step=None, running=0)  # type: ignore[arg-type]
"""The axis of runs in each field of a stacked state; None for the shared step."""

RUNS = "run"
"""The axis of a mesh over which runs are split."""


def stack(states: Sequence[TrainState]) -> TrainState:
    """Stack the states of runs at the same step, along a new leading axis of runs.

    Raises:
        InputError: their structures or shapes differ.
    """
    first, *others = ([jnp.shape(leaf) for leaf in jax.tree.leaves(state)] for state in states)
    same = all(jax.tree.structure(state) == jax.tree.structure(states[0]) for state in states)
    if not same or any(shapes != first for shapes in others):
        raise InputError(
            "seeds: expected models of the same structure and shapes, got ones that differ; "
            "train them one by one"
        )
    bits = [_bits(state) for state in states]
    return _keyed(jax.tree.map(lambda *leaves: jnp.stack(leaves), *bits), states[0])


@jax.jit
def take(
    state: TrainState, metrics: Metrics, run: Int[Array, ""] | int
) -> tuple[TrainState, Metrics]:
    """Return the state and metrics of one run, without the axis of runs."""
    one, metrics = jax.tree.map(lambda leaf: leaf[run], (_bits(state), metrics))
    return _keyed(one, state), metrics


def _bits(state: TrainState) -> TrainState:
    """Return the fields to stack: no step, and raw key data, as moving a key would count as a use of it."""
    return state._replace(key=jax.random.key_data(state.key), step=None)  # type: ignore[arg-type]


def _keyed(bits: TrainState, like: TrainState) -> TrainState:
    key = jax.random.wrap_key_data(bits.key, impl=jax.random.key_impl(like.key))
    return bits._replace(key=key, step=like.step)


def run_mesh(num_runs: int, devices: Sequence[Any]) -> Mesh | None:
    """Return a mesh of the largest number of devices that divides the number of runs; None if that is 1."""
    most = max(d for d in range(1, len(devices) + 1) if num_runs % d == 0)
    return None if most == 1 else Mesh(np.array(devices[:most]), (RUNS,))


def deal_out(tree: T, axes: Any, mesh: Mesh | None) -> T:
    """Split arrays that have an axis of runs over the mesh, along that axis; put the others on every device."""
    if mesh is None:
        return tree
    layout = jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(axes))
    return jax.device_put(tree, jax.tree.broadcast(layout, tree))


def over_runs(function: Callable[..., Any], axes: Any, out_axes: Any, mesh: Mesh | None) -> Any:
    """Map `function` over runs by `vmap`; on a mesh, each device computes its share of the runs."""
    mapped = jax.vmap(function, in_axes=axes, out_axes=out_axes)
    if mesh is None:
        return mapped
    # Devices do not communicate, and compute shared values identically, so no check is needed.
    return jax.shard_map(
        mapped, mesh=mesh, in_specs=_specs(axes), out_specs=_specs(out_axes), check_vma=False
    )


def _specs(axes: Any) -> Any:
    return jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(RUNS),
        axes,
        is_leaf=lambda axis: axis is None,
    )


class ManyInMemory:
    """The feed of several runs: each gets the batches and noise that `InMemory` gives it alone.

    The training rows lie on the device once, whatever the number of runs.

    Args:
        step_of: maps the `own` values of one run to its step; traced, so that the runs share one program.
        own: the values that differ between runs besides their states, such as learning rates [R]: a pytree
            of arrays with a leading axis of runs. It may be empty.
        dataset: the training rows are `dataset.splits["train"]["x"]`.
        batch_size: B, at most the number of training rows.
        num_runs: R, the number of runs.
        block_steps: S, as in `InMemory`.
        mesh: from `run_mesh`.

    Raises:
        InputError: a size is not usable.
    """

    def __init__(
        self,
        step_of: Callable[[Any], Step],
        own: Any,
        dataset: DataSet,
        *,
        batch_size: int,
        num_runs: int,
        block_steps: int = 1,
        mesh: Mesh | None = None,
    ):
        require_positive(batch_size=batch_size, num_runs=num_runs, block_steps=block_steps)
        rows = batch_rows(dataset, "train")
        require_batch(batch_size, size := len(rows["x"]))
        self.block_steps = block_steps
        self._step_of, self._dataset = step_of, dataset
        self._batch_size, self._num_runs = batch_size, num_runs
        self.own = deal_out(own, 0, mesh)
        self.rows: Rows = deal_out(jax.tree.map(jnp.asarray, rows), None, mesh)
        draw = make_orders(size, lambda one: over_runs(one, (0, None), 0, mesh))
        self.epochs = Epochs(size, batch_size, block_steps, draw, num_runs)
        self._mesh = mesh
        runs = make_runs(
            step_of, dataset, batch_size=batch_size, block_steps=block_steps, mesh=mesh
        )
        self._run = compiled(runs)
        self._key: PRNGKey | None = None

    def no_metrics(self, state: TrainState) -> Metrics:
        """Return empty metrics of every run."""

        def of_one(state: TrainState, metrics: Metrics, own: Any) -> Metrics:
            state, _ = take(state, metrics, 0)
            step = self._step_of(jax.tree.map(lambda leaf: leaf[0], own))
            return no_metrics(step, state, dataset=self._dataset, batch_size=self._batch_size)

        shapes = jax.eval_shape(of_one, state, Metrics({}, jnp.zeros(1)), self.own)
        of_all = jax.tree.map(
            lambda leaf: jnp.zeros((self._num_runs, *leaf.shape), leaf.dtype), shapes
        )
        return deal_out(of_all, 0, self._mesh)

    def longest(self, step: int) -> int:
        """Return the number of steps up to the end of the next window of epochs, in whole blocks."""
        return self.epochs.longest(step)

    def run(
        self, state: TrainState, metrics: Metrics, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Run `count` steps of every run."""
        require_blocks(step, count, self.block_steps, self.longest(step))
        if state.key is not self._key:  # not the array of the last dispatch: other runs'
            self.epochs.forget()
        orders = self.epochs.orders(state.key, step)
        blocks = jax.device_put(np.int32(count // self.block_steps))
        state, metrics = self._run(state, metrics, orders, self.rows, self.own, blocks)
        self._key = state.key
        return state, metrics


def make_runs(
    step_of: Callable[[Any], Step],
    dataset: DataSet,
    *,
    batch_size: int,
    block_steps: int = 1,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return the dispatch `run(state, metrics, orders, rows, own, blocks)` of all runs. Pure, not compiled."""

    def one(
        state: TrainState, metrics: Metrics, orders: Any, rows: Rows, own: Any, blocks: Array
    ) -> tuple[TrainState, Metrics]:
        run = make_run(
            step_of(own), dataset.observe, batch_size=batch_size, block_steps=block_steps
        )
        return run(state, metrics, orders, rows, blocks)

    return over_runs(one, (STACKED, 0, 0, None, 0, None), (STACKED, 0), mesh)


def make_validations(
    objective_of: Callable[[Any], Objective],
    own: Any,
    dataset: DataSet,
    *,
    batch_size: int = 500,
    mesh: Mesh | None = None,
) -> Callable[[TrainState], dict[str, Float[Array, "R"]]]:
    """Compile `validate(state)`: for each run the means of `make_validation`, with the same draws.

    An example is drawn when it is used, so no run holds its own copy of the split.
    """
    own = deal_out(own, 0, mesh)
    rows = deal_out(jax.tree.map(jnp.asarray, batch_rows(dataset, "valid")), None, mesh)

    def means(model: PyTree, key: PRNGKey, own: Any, rows: Rows) -> Metrics:
        examples, objective = fill_absent(unpack(rows)), objective_of(own)
        noise_key = stream_key(key, OfRun.VALIDATION)
        observation_key = stream_key(noise_key, OfRun.OBSERVATION)

        def one(key: PRNGKey, row: Any) -> Any:
            index, stored, label, mask = row
            x = dataset.observe(jax.random.fold_in(observation_key, index), stored)
            return objective(key, bind(model, label, mask), x)

        row = examples.index, examples.x, examples.label, examples.mask
        terms = map_examples(one, noise_key, row, batch_size=batch_size)
        return batch_metrics(terms, examples)

    validate = jax.jit(over_runs(means, (0, 0, 0, None), 0, mesh))
    return lambda state: dict(validate(state.model, state.key, own, rows))
