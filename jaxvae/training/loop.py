"""The training loop: many steps per dispatch, no arrays copied to the host between evaluations."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxvae.batching import fill_absent, map_examples, unpack
from jaxvae.binding import bind
from jaxvae.checks import require_positive
from jaxvae.compiling import jit_quickly
from jaxvae.keys import OfRun, stream_key
from jaxvae.training.blocks import choose_block_steps
from jaxvae.training.feeds import DataSet, Feed, InMemory, batch_rows
from jaxvae.training.metrics import Metrics, batch_metrics
from jaxvae.training.step import Step, TrainState
from jaxvae.types import InputError, Model, Objective, PRNGKey

SECONDS_A_DISPATCH = 0.5  # short enough for progress and Ctrl-C, long enough to hide the dispatch


class Stage(NamedTuple):
    """A point at which training pauses: an evaluation, the end of the run, or a requested stop."""

    state: TrainState
    metrics: Metrics
    steps_per_s: float
    is_evaluation: bool


def stages(
    state: TrainState,
    feed: Feed,
    *,
    total_steps: int,
    eval_every_steps: int,
    gathered: Metrics | None = None,
    on_progress: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    agree: Callable[[int, bool], tuple[int, bool]] = lambda count, stop: (count, stop),
) -> Iterator[Stage]:
    """Train, handing over control at every evaluation.

    The buffers of a yielded state are donated to the next dispatch: copy any that you want to keep.

    Args:
        state: from `init`, or restored.
        feed: the batches and the step, such as
            `InMemory(step, dataset, batch_size=..., block_steps=choose_block_steps(...))`.
        total_steps: the step at which training ends.
        eval_every_steps: number of steps between two evaluations.
        gathered: the training metrics of a restored run since its last evaluation.
        on_progress: called with (step, steps per second) after every dispatch.
        should_stop: called after every dispatch; when it returns True, the next stage yielded is the last.
        agree: maps the number of steps of the next dispatch and the wish to stop, as this process proposes
            them, to the values that all processes use; called after every dispatch.

    Yields:
        `Stage`, with the training metrics since the last evaluation.

    Raises:
        InputError: a size is not usable, or the feed's blocks do not end at the evaluations.
    """
    require_positive(total_steps=total_steps, eval_every_steps=eval_every_steps)
    now, block = int(state.step), feed.block_steps
    if math.gcd(now, eval_every_steps, total_steps) % block:
        raise InputError(
            f"block_steps: expected a divisor of {now}, {eval_every_steps} and {total_steps} (the first "
            f"step, eval_every_steps and total_steps), got {block}; see jaxvae.training.choose_block_steps"
        )
    metrics = gathered or feed.no_metrics(state)
    # Donation invalidates the owner's buffer, so the caller's arrays are copied once.
    state, metrics = jax.tree.map(jnp.copy, (state, metrics))
    dispatch, begin = block, time.perf_counter()
    stage_begin, stage_step = begin, now
    while now < total_steps:
        boundary = min(total_steps, (now // eval_every_steps + 1) * eval_every_steps)
        count = min(max(dispatch // block, 1) * block, boundary - now, feed.longest(now))
        state, metrics = jax.block_until_ready(feed.run(state, metrics, now, count))
        now += count
        elapsed, begin = time.perf_counter() - begin, time.perf_counter()
        # Change by a factor of at most 4: the first dispatch includes the compilation.
        wanted = int(count * SECONDS_A_DISPATCH / max(elapsed, 1e-9))
        dispatch = max(1, min(4 * dispatch, max(wanted, dispatch // 4)))
        steps_per_s = (now - stage_step) / (begin - stage_begin)
        if on_progress:
            on_progress(now, steps_per_s)
        dispatch, stop = agree(dispatch, should_stop())
        stopping = stop and now < total_steps
        if now == boundary or stopping:
            yield Stage(state, metrics, steps_per_s, now == boundary)
            if stopping:
                return
            metrics = jax.tree.map(_zeros, metrics)
            begin = stage_begin = time.perf_counter()
            stage_step = now


def _zeros(a: Array) -> Array:
    """Return zeros with the shape and the placement of the array."""
    spread = len(a.sharding.device_set) > 1
    return jnp.zeros_like(a, device=a.sharding) if spread else jnp.zeros_like(a)


def observe_split(
    key: PRNGKey, dataset: DataSet, split: str, *, batch_size: int = 1000
) -> Float[Array, "N *event"]:
    """Return the x of a whole split as model inputs, on the device; row i uses the key `fold_in(key, i)`.

    Other fields of the rows, such as weights, are left out: `observe_batch` returns them too.
    """
    rows = jnp.asarray(dataset.splits[split]["x"])
    return jit_quickly(partial(map_examples, dataset.observe, batch_size=batch_size))(key, rows)


def observe_batch(key: PRNGKey, dataset: DataSet, split: str) -> dict[str, Array]:
    """Return a whole split as one batch: `x` from `observe_split`, and the rows' `label`, `mask` and `weight`."""
    rows = jax.tree.map(jnp.asarray, batch_rows(dataset, split))
    return rows | {"x": observe_split(key, dataset, split)}


def make_validation(
    objective: Objective, dataset: DataSet, key: PRNGKey, *, batch_size: int = 500
) -> Callable[[Model], dict[str, float]]:
    """Compile `validate(model) -> mean Terms over the validation split`, in which every row counts once.

    Every call uses the same draws, so two calls differ by the model alone. The scale is the same as in
    training: `loss` is minus the mean objective, in nats.
    """
    noise_key = stream_key(key, OfRun.VALIDATION)
    batch = observe_batch(stream_key(noise_key, OfRun.OBSERVATION), dataset, "valid")

    @jit_quickly
    def means(model: PyTree, batch: dict[str, Array]) -> Metrics:
        examples = fill_absent(unpack(batch))

        def one(key: PRNGKey, row: Any) -> Any:
            x, label, mask = row
            return objective(key, bind(model, label, mask), x)

        rows = examples.x, examples.label, examples.mask
        terms = map_examples(one, noise_key, rows, batch_size=batch_size)
        return batch_metrics(terms, examples)

    return lambda model: {name: float(value) for name, value in means(model, batch).items()}


def fit(
    state: TrainState,
    step: Step,
    dataset: DataSet,
    *,
    batch_size: int,
    total_steps: int,
    eval_every_steps: int | None = None,
    validation: Objective | None = None,
    on_evaluation: Callable[[TrainState, dict[str, Any]], None] | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Train to `total_steps`.

    Args:
        state: from `init`.
        step: from `make_step`.
        dataset: from `jaxvae.data.load`, or any object with `splits` and `observe`.
        batch_size: B, at most the number of training rows.
        total_steps: the step at which training ends.
        eval_every_steps: number of steps between two records; a tenth of the run by default.
        validation: the objective to evaluate on the validation split for every record.
        on_evaluation: called with the state and the record; the state is valid until the call returns.

    Returns:
        The last state, and the records: each has the `step`, and under `train` and, with `validation`,
        `valid`, a mapping of means in nats.

    Raises:
        InputError: a size is not usable, or the loss is no longer finite.
    """
    history: list[dict[str, Any]] = []
    if eval_every_steps is None:
        require_positive(total_steps=total_steps)
        eval_every_steps = max(1, total_steps // 10)
    if validation is not None and "valid" not in dataset.splits:
        raise InputError(
            f"validation: expected a data set with a valid split, got {', '.join(dataset.splits)}"
        )
    validate = make_validation(validation, dataset, state.key) if validation else None
    require_positive(total_steps=total_steps, eval_every_steps=eval_every_steps)
    block_steps = choose_block_steps(int(state.step), eval_every_steps, total_steps)
    feed = InMemory(step, dataset, batch_size=batch_size, block_steps=block_steps)
    for stage in stages(
        state,
        feed,
        total_steps=total_steps,
        eval_every_steps=eval_every_steps,
    ):
        state = stage.state
        record = record_of(stage, validate)
        history.append(record)
        if on_evaluation:
            on_evaluation(state, record)
    return state, history


def record_of(stage: Stage, validate: Callable[[Model], dict[str, float]] | None) -> dict[str, Any]:
    """Return the record of an evaluation: step, training means and validation means.

    Raises:
        InputError: the training loss is not finite.
    """
    step = int(stage.state.step)
    train = {name: float(value) for name, value in stage.metrics.items()}
    if not np.isfinite(train["loss"]):
        raise InputError(
            f"loss: expected finite nats, got {train['loss']} by step {step}; "
            "lower the learning rate, or look at the data and the objective"
        )
    record: dict[str, Any] = {"step": step, "train": train}
    if validate:
        record["valid"] = validate(stage.state.model)
    return record
