"""Training and evaluation of a run from its configuration, and loading of its model from its folder."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Array

from jaxvae import hosts
from jaxvae.compiling import jit_quickly
from jaxvae.parallel import data_mesh, shard
from jaxvae.placement import from_first_process, local, put, replicated
from jaxvae.runs.config import Parts, TrainConfig, build, from_json
from jaxvae.runs.evaluate import evaluate, observed
from jaxvae.runs.folder import RunFolder
from jaxvae.runs.stop import MINUTES, Deadline, Interrupted, Stop, signals, stages_until
from jaxvae.runs.watch import (
    SAME_DATA,
    Reporter,
    draw,
    require_same_data,
    say_other_versions,
    tensorboard,
)
from jaxvae.training import Metrics, TrainState, choose_block_steps, init
from jaxvae.training.checkpoints import Checkpoints
from jaxvae.training.feeds import no_metrics
from jaxvae.training.loop import Stage, make_validation, record_of
from jaxvae.training.streamed import make_feed
from jaxvae.types import AnyModel, InputError, Model

T = TypeVar("T")

EVALUATION = "all of training, before its evaluation"


class Saved(NamedTuple):
    """The content of a checkpoint: the state, and the training metrics since the last evaluation."""

    state: TrainState
    metrics: Metrics


class Kept(NamedTuple):
    """The trained model and test data, kept in memory so that a report in the same process need not load them."""

    parts: Parts
    model: AnyModel
    step: int
    batch: dict[str, Array]
    """The test split as model inputs."""


def train(
    config: TrainConfig,
    path: Path,
    *,
    reporter: Reporter | None = None,
    devices: int | None = None,
    max_minutes: float | None = None,
) -> RunFolder:
    """Train a new run in a new folder.

    After `jaxvae.parallel.initialize` all processes must call it; the first one writes the folder, and on
    the others the returned `RunFolder` has only its path.

    Args:
        config: the configuration; it is checked before anything is written.
        path: the folder to make; with several processes, the path given to process 0.
        reporter: receives the progress.
        devices: number of devices that share each step; all by default. The results do not depend on it.
        max_minutes: save and stop before this time since the call has passed, checked after each dispatch;
            no limit by default.

    Returns:
        The run folder, with checkpoints, metrics and `results.json`.

    Raises:
        InputError: a value is not usable, or the folder exists or cannot be written.
        Interrupted: SIGINT or SIGTERM came, or the minutes are up; the run is saved and can be resumed.
    """
    deadline = Deadline(max_minutes)
    values = dataclasses.asdict(config) | {"devices": devices}
    hosts.require_same({name: repr(value) for name, value in values.items()})
    mesh = hosts.together(lambda: data_mesh(devices))
    parts = hosts.together(lambda: build(config))
    _require_same_rows(parts)
    path = Path(hosts.gather(str(path))[0])
    run = hosts.together(
        lambda: _first_only(
            lambda: RunFolder.create(
                path, parts.config, parts.dataset.record(), **_devices_used(mesh)
            ),
            RunFolder(path),
        )
    )
    _held(run, lambda: _train(run, parts, reporter or Reporter(), mesh, deadline))
    return run


def resume(
    path: Path,
    *,
    reporter: Reporter | None = None,
    devices: int | None = None,
    max_minutes: float | None = None,
) -> RunFolder:
    """Resume a run from its last checkpoint, with the same bits as if it had never stopped.

    On other devices, or with another number of devices or processes, the results are the same up to rounding.

    Args:
        path: the run folder; with several processes, process 0 reads it.
        reporter: receives the progress.
        devices: number of devices that share each step; all by default.
        max_minutes: the time limit of this call; no limit by default.

    Raises:
        InputError: there is no run, it is in use, or its data have changed.
        Interrupted: SIGINT or SIGTERM came, or the minutes are up; the run is saved and can be resumed.
    """
    deadline = Deadline(max_minutes)
    reporter = reporter or Reporter()
    hosts.require_same({"resume": str(path), "devices": repr(devices)})
    mesh = hosts.together(lambda: data_mesh(devices))
    run = hosts.together(lambda: _first_only(lambda: RunFolder.open(path), RunFolder(path)))

    def go_on() -> None:
        written = hosts.together(lambda: _first_only(lambda: run.read("config.json"), None))
        config = from_json(json.loads(hosts.gather(json.dumps(written))[0]), run.config_path)
        parts = hosts.together(lambda: build(config))
        _require_same_rows(parts)
        hosts.together(lambda: _first_only(lambda: require_same_data(run, parts), None))
        if hosts.is_first():
            say_other_versions(run, reporter)
        _train(run, parts, reporter, mesh, deadline)

    _held(run, go_on)
    return run


_init = jit_quickly(init, static_argnums=2)


def _first_only(function: Callable[[], T], other: T) -> T:
    """Call `function()` on the first process, which alone accesses the run folder; return `other` elsewhere."""
    return function() if hosts.is_first() else other


def _held(run: RunFolder, function: Callable[[], None]) -> None:
    """Call a function while the first process has locked the folder."""
    with contextlib.ExitStack() as stack:
        hosts.together(lambda: _first_only(lambda: stack.enter_context(run.locked()), None))
        hosts.advise(f"go on with `jaxvae train --resume {run.path}` on every process")
        function()


def _devices_used(mesh: Mesh | None) -> dict[str, int]:
    return {"devices_used": 1 if mesh is None else mesh.size, "processes": hosts.count()}


def _require_same_rows(parts: Parts) -> None:
    record = parts.dataset.record()
    hosts.require_same({f"data: {name}": repr(record[name]) for name in SAME_DATA})


def _train(
    run: RunFolder, parts: Parts, reporter: Reporter, mesh: Mesh | None, deadline: Deadline
) -> None:
    if not hosts.is_first():
        _follow(run, parts, mesh, deadline)
        return
    config = parts.config
    with run.checkpoints() as checkpoints:

        def start() -> Saved:
            saved = _saved(parts, checkpoints)
            checkpoints.require_room(
                saved, copies=3
            )  # the best, the last, and the one being written
            run.rewind_metrics(int(saved.state.step))
            return saved

        saved = hosts.together(start)
        first = int(saved.state.step)
        reporter.start(config, first)
        if mesh is not None and first < config.total_steps:
            reporter.say(_where(mesh))
        with tensorboard(run, first) as board, signals() as caught:
            _loop(run, parts, checkpoints, saved, board, Stop(caught, deadline), reporter, mesh)
        which, step = "best", checkpoints.best()
        model = restore_model(parts, checkpoints, which, like=_shapes_of(saved))

    def examples(done: int, total: int) -> None:
        reporter.examples(done, total)
        if done < total and deadline.is_near():
            raise Interrupted(MINUTES, config.total_steps, run.path, EVALUATION)

    xs = observed(parts, "test")
    results = evaluate(
        parts,
        model,
        split="test",
        xs=xs,
        num_samples=config.test_num_samples,
        on_progress=examples,
    )
    run.write("results.json", {"checkpoint": which, "step": step, **results})
    run.kept = Kept(parts, model, step or 0, xs)


def _where(mesh: Mesh) -> str:
    devices = f"on {mesh.size} {mesh.devices.flat[0].platform} devices"
    return devices if hosts.count() == 1 else f"{devices} of {hosts.count()} processes"


def _stages(
    parts: Parts, saved: Saved, stop: Stop, mesh: Mesh | None, **on: Any
) -> Iterator[Stage]:
    """Return the stages of a run, on the devices of the mesh."""
    total, every = parts.config.total_steps, parts.config.eval_every_steps
    assert every is not None
    step, block_steps = parts.step, choose_block_steps(int(saved.state.step), every, total)
    if mesh is not None:
        step, saved = shard(step, mesh), put(from_first_process(saved), replicated(mesh))
    return stages_until(
        stop,
        saved.state,
        make_feed(
            step,
            parts.dataset,
            batch_size=parts.batch_size,
            block_steps=block_steps,
            mesh=mesh,
        ),
        gathered=saved.metrics,
        total_steps=total,
        eval_every_steps=every,
        **on,
    )


def _follow(run: RunFolder, parts: Parts, mesh: Mesh | None, deadline: Deadline) -> None:
    """Run the training loop on a process other than the first, which writes nothing."""
    saved = hosts.together(lambda: _fresh(parts))
    with signals() as caught:
        stop = Stop(caught, deadline)
        for stage in _stages(parts, saved, stop, mesh):
            step = int(stage.state.step)
            if stop.agreed and step < parts.config.total_steps:
                raise Interrupted(stop.agreed[0], step, run.path)


def _loop(
    run: RunFolder,
    parts: Parts,
    checkpoints: Checkpoints,
    saved: Saved,
    board: Any,
    stop: Stop,
    reporter: Reporter,
    mesh: Mesh | None,
) -> None:
    config = parts.config
    validate = None
    if "valid" in parts.dataset.splits and int(saved.state.step) < config.total_steps:
        validate = make_validation(parts.objective, parts.dataset, saved.state.key)
    for stage in _stages(parts, saved, stop, mesh, on_progress=reporter.progress):
        step = int(stage.state.step)
        if not stage.is_evaluation:
            checkpoints.save(step, Saved(stage.state, stage.metrics), loss=None)
            raise Interrupted(stop.agreed[0], step, run.path)
        record = record_of(stage._replace(state=local(stage.state)), validate)
        # Metrics before the checkpoint: a run killed in between drops this line and writes it again.
        run.append_metrics({**record, "steps_per_s": stage.steps_per_s, "time": time.time()})
        nothing = jax.tree.map(np.zeros_like, jax.device_get(local(stage.metrics)))
        loss = record["valid"]["loss"] if validate else None
        checkpoints.save(step, Saved(stage.state, nothing), loss=loss)
        draw(board, record)
        reporter.evaluation(record)
        if stop.agreed and step < config.total_steps:
            raise Interrupted(stop.agreed[0], step, run.path)


def load_model(run: RunFolder, which: str = "best") -> tuple[Parts, Model, int]:
    """Load the parts of a run, its trained model, and the step of that checkpoint.

    Args:
        run: an existing run.
        which: "best" (on the validation split) or "last".

    Raises:
        InputError: there is no checkpoint, it is damaged, or the data have changed.
    """
    parts = build(run.config())
    require_same_data(run, parts)
    with run.checkpoints() as checkpoints:
        step = checkpoints.best() if which == "best" else checkpoints.last()
        return parts, restore_model(parts, checkpoints, which), step or 0


def restore_model(
    parts: Parts, checkpoints: Checkpoints, which: str, *, like: Saved | None = None
) -> Model:
    """Restore the model of the best or the last checkpoint; `like` are its shapes, if they are known.

    Raises:
        InputError: there is none, or it is damaged.
    """
    step = checkpoints.best() if which == "best" else checkpoints.last()
    if step is None:
        raise InputError(
            f"run: {checkpoints.folder} holds no checkpoint yet; "
            f"go on with it by `jaxvae train --resume {checkpoints.folder.parent}`"
        )
    return checkpoints.restore(step, like or _shapes(parts)).state.model


def _saved(parts: Parts, checkpoints: Checkpoints) -> Saved:
    last = checkpoints.last()
    return _fresh(parts) if last is None else checkpoints.restore(last, _shapes(parts))


def _fresh(parts: Parts) -> Saved:
    _, run_key, *_ = parts.config.keys()
    return _with_metrics(parts, _init(run_key, parts.model, parts.optimizer))


def _shapes(parts: Parts) -> Saved:
    """Return the shapes of a checkpoint's arrays, without computing anything."""
    _, run_key, *_ = parts.config.keys()
    state = jax.eval_shape(partial(init, optimizer=parts.optimizer), run_key, parts.model)
    return _shapes_of(_with_metrics(parts, state))


def _shapes_of(saved: Saved) -> Saved:
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved
    )


def _with_metrics(parts: Parts, state: TrainState) -> Saved:
    of = {"dataset": parts.dataset, "batch_size": parts.batch_size}
    return Saved(state, no_metrics(parts.step, state, **of))
