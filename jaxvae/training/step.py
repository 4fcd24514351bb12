"""The training state and the pure step: per-example objective, batch mean, one minus sign, optax."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxvae.batching import Examples, fill_absent, over_batch, unpack
from jaxvae.checks import require_key, require_number, require_positive
from jaxvae.keys import example_keys
from jaxvae.training.metrics import Metrics, batch_metrics, total_weight
from jaxvae.types import Batch, InputError, Objective, PRNGKey


class TrainState(NamedTuple):
    """The complete state of a training run, as a pytree of arrays.

    The position in the data is a function of `key` and `step` (see `jaxvae.training.feeds`), so it
    needs no field of its own.
    """

    model: PyTree
    opt_state: optax.OptState
    key: PRNGKey
    step: Int[Array, ""]
    running: Float[Array, ""]
    """Running mean of the objective, nats; updated only with `make_step(baseline_decay=...)`."""


Step: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init(key: PRNGKey, model: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step.

    Args:
        key: the run's key; every draw of training is folded from it.
        model: a pytree, such as an NNX module. In a module, the `nnx.Param`s are trained; other
            variables and arrays are constants. In any other pytree, every float array is trained.
        optimizer: an optax transformation.

    Raises:
        InputError: the key is not a typed key, the model has no parameters to train, or one of its leaves is a
            plain number.
    """
    require_key(key)
    params, _ = split(model)
    _require_untied(model)
    _require_arrays(model)
    if not jax.tree.leaves(params):
        raise InputError(
            f"model: expected parameters to train, got none in {type(model).__name__}; "
            "wrap its weights in flax.nnx.Param"
        )
    return TrainState(model, optimizer.init(params), key, jnp.zeros((), jnp.int32), jnp.zeros(()))


def _require_untied(model: PyTree) -> None:
    if isinstance(model, nnx.Module) and (
        len(jax.tree.leaves(nnx.state(model))) < len(jax.tree.leaves(model))
    ):
        raise InputError(
            "model: expected every variable in one place, got one that is shared; as a pytree its "
            "copies would drift apart, so keep it under one name and use it twice"
        )


def _require_arrays(model: PyTree) -> None:
    """Refuse a plain float among the leaves: it could be meant as a weight or as an option."""
    for path, leaf in jax.tree.leaves_with_path(model):
        if isinstance(leaf, float):
            raise InputError(
                f"model: expected arrays to train, got the plain number {leaf} at "
                f"{type(model).__name__}{jax.tree_util.keystr(path)}; make it an array to train it, or keep it "
                "out of the pytree (a static field, a property) to leave it as it is"
            )


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    schedules: Mapping[str, optax.Schedule] | None = None,
    batch_coupled: bool = False,
    baseline_decay: float | None = None,
    microbatches: int = 1,
) -> Step:
    """Return the pure training step of an objective: jit it, scan it, or shard it.

    `loss = -mean_i objective(key_i, model, x_i)`, the keys folded from (run key, step, index).

    Args:
        objective: `(key, model, x) -> Terms` or a scalar to ascend, for one example.
        optimizer: an optax transformation that minimises.
        schedules: options of the objective that depend on the step, such as
            `{"beta": linear_warmup(...)}`: each is passed to the objective by its name.
        batch_coupled: whether the objective takes the whole batch, `(keys [B], model, xs [B, *event])`,
            and returns `Terms` of [B], as those of `jaxvae.coupled` do. The weights of a batch, or its
            mask of examples, are passed to it as `weight` [B].
        baseline_decay: decay rate of a running mean of the objective over the previous steps, which is
            passed to the objective as `baseline`; for `gradient="score"`.
        microbatches: number of equal parts of a batch, whose gradients are computed one after the other
            and summed: the result of the whole batch with the memory of one part.

    Returns:
        `step(state, batch) -> (state, metrics)`. The batch is [B, *event], or a mapping with `x`
        and optionally `label` [B] (for a model with `given`), `mask` [B] or [B, *event],
        `index` [B] and `weight` [B], see `jaxvae.batching.unpack`. `metrics["loss"]` is the mean loss in
        nats; the means of the other `Terms` have their own names. `step(state, batch, axis_name=...)` is for
        a batch that is split over a mapped axis, as `jaxvae.parallel.pmap` does: every device returns the
        result of the whole batch.

    Raises:
        InputError: an option is not usable; when traced, if the batch or the objective's result is not usable.
    """
    schedules = dict(schedules or {})
    if baseline_decay is not None:
        require_number("baseline_decay", baseline_decay, at_least=0, below=1)
    require_positive(microbatches=microbatches)
    if batch_coupled and microbatches > 1:
        raise InputError(
            f"microbatches: expected 1 with an objective that couples the batch, got {microbatches}; "
            "its parts would be other batches"
        )

    def step(
        state: TrainState, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        examples = fill_absent(unpack(batch))
        if batch_coupled and axis_name is not None:
            raise InputError(
                "step: an objective that couples the batch needs all of it on every device, got a "
                "batch dealt out over a mapped axis; use jaxvae.parallel.shard"
            )
        if microbatches > 1:
            examples = in_multiples(examples, microbatches)
        keys = example_keys(state.key, state.step, examples.index)
        options = {name: schedule(state.step) for name, schedule in schedules.items()}
        if baseline_decay is not None:
            options["baseline"] = state.running
        params, merge = split(state.model)
        # Sums and counts are added over devices, never means: the parts may have unequal weights.
        whole = partial(jax.lax.psum, axis_name=axis_name) if axis_name else lambda tree: tree
        count = whole(total_weight(examples.x.shape[0], examples.weight))

        def loss(params: Any, keys: Key[Array, "B"], examples: Examples) -> tuple[Array, Metrics]:
            terms = over_batch(
                objective,
                keys,
                merge(params),
                examples,
                batch_coupled=batch_coupled,
                **options,
            )
            metrics = batch_metrics(terms, examples)
            return metrics.sums["loss"] / count, metrics

        slope = jax.grad(loss, has_aux=True)
        if microbatches > 1:
            slope = partial(_accumulated, slope, microbatches)
        gradient, metrics = whole(slope(params, keys, examples))
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes int and float
            updates, opt_state = optimizer.update(gradient, state.opt_state, params)
        model = merge(optax.apply_updates(params, updates))
        running = state.running
        if baseline_decay is not None:
            # Before the first step there is no running mean yet.
            kept = jnp.where(state.step == 0, 0.0, baseline_decay)
            running = kept * running - (1 - kept) * metrics["loss"]
        return TrainState(model, opt_state, state.key, state.step + 1, running), metrics

    return step


def in_multiples(examples: Examples, multiple: int) -> Examples:
    """Pad the examples to a multiple of `multiple`, by copies of the last example with weight 0."""
    size = examples.x.shape[0]
    if size % multiple == 0:
        return examples
    at = jnp.arange(size + -size % multiple)
    weight = jnp.ones(size) if examples.weight is None else examples.weight
    rows = jax.tree.map(lambda a: a[jnp.minimum(at, size - 1)], examples._replace(weight=weight))
    return rows._replace(weight=jnp.where(at < size, rows.weight, 0.0))


def _accumulated(
    slope: Callable[..., tuple[Any, Metrics]], parts: int, params: Any, *rows: Any
) -> tuple[Any, Metrics]:
    """Sum `slope(params, *rows)` over parts of the rows; row i is in part i mod `parts`.

    So when the rows are split over devices in contiguous blocks, each part has rows of every device.
    """

    def add(gradient: Any, rows: Any) -> tuple[Any, Metrics]:
        of_part, metrics = slope(params, *rows)
        return jax.tree.map(jnp.add, gradient, of_part), metrics

    cut = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), rows)
    gradient, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), cut)
    return gradient, jax.tree.map(lambda a: jnp.sum(a, 0), metrics)


def split(model: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Split a model into its trainable parameters and a function that rebuilds the model from them."""
    if isinstance(model, nnx.Module):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        return params, lambda params: nnx.merge(graph, params, rest)
    leaves, tree = jax.tree.flatten(model)
    trained = [
        i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]

    def merge(params: PyTree) -> PyTree:
        merged = list(leaves)
        for i, leaf in zip(trained, params, strict=True):
            merged[i] = leaf
        return jax.tree.unflatten(tree, merged)

    return [leaves[i] for i in trained], merge
