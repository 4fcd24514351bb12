"""From a configuration to a trained, evaluated run folder; and from a folder back to its model."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvae import hosts
from jaxvae.parallel import data_mesh, shard
from jaxvae.placement import from_first_process, local, put, replicated
from jaxvae.runs.config import Parts, TrainConfig, build, from_json
from jaxvae.runs.evaluate import evaluate
from jaxvae.runs.folder import RunFolder
from jaxvae.runs.watch import (
    SAME_DATA,
    Interrupted,
    Reporter,
    draw,
    require_same_data,
    say_other_versions,
    signals,
    tensorboard,
)
from jaxvae.training import Metrics, TrainState, choose_block_steps, init, stages
from jaxvae.training.checkpoints import Checkpoints
from jaxvae.training.feeds import no_metrics
from jaxvae.training.loop import Stage, make_validation, record_of
from jaxvae.training.streamed import make_feed
from jaxvae.types import InputError, Model

T = TypeVar("T")


class Saved(NamedTuple):
    """What a checkpoint holds: the state, and the metrics gathered since the last evaluation."""

    state: TrainState
    metrics: Metrics


def train(
    config: TrainConfig,
    path: Path,
    *,
    reporter: Reporter | None = None,
    devices: int | None = None,
) -> RunFolder:
    """Train a new run in a new folder.

    After `jaxvae.parallel.initialize` all processes call it; the first one writes the folder, and what
    it returns on the others is a name alone.

    Args:
        config: what to train; checked before anything is written.
        path: the folder to make; that of process 0 where there are several.
        reporter: what to tell about progress.
        devices: how many take part in each step; all there are by default. The numbers do not depend on it.

    Returns:
        The run folder, with checkpoints, metrics and `results.json`.

    Raises:
        InputError: a value is not usable, or the folder exists or cannot be written.
        Interrupted: SIGINT or SIGTERM came; the run is saved and can be resumed.
    """
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
    _held(run, lambda: _train(run, parts, reporter or Reporter(), mesh))
    return run


def resume(
    path: Path, *, reporter: Reporter | None = None, devices: int | None = None
) -> RunFolder:
    """Go on with a run from its last checkpoint, to the same bits as if it had never stopped.

    On other devices, or on another number of them or of processes, to the same numbers but for rounding.

    Args:
        path: the run folder; with several processes it is process 0 that reads it.
        reporter: what to tell about progress.
        devices: how many take part in each step; all there are by default.

    Raises:
        InputError: there is no run, it is in use, or its data have changed.
        Interrupted: SIGINT or SIGTERM came; the run is saved and can be resumed.
    """
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
        _train(run, parts, reporter, mesh)

    _held(run, go_on)
    return run


def _first_only(function: Callable[[], T], other: T) -> T:
    """`function()` on the first process, which alone touches the run's folder."""
    return function() if hosts.is_first() else other


def _held(run: RunFolder, function: Callable[[], None]) -> None:
    """Call a function while the first process holds the folder."""
    with contextlib.ExitStack() as stack:
        hosts.together(lambda: _first_only(lambda: stack.enter_context(run.locked()), None))
        hosts.advise(f"go on with `jaxvae train --resume {run.path}` on every process")
        function()


def _devices_used(mesh: Mesh | None) -> dict[str, int]:
    return {"devices_used": 1 if mesh is None else mesh.size, "processes": hosts.count()}


def _require_same_rows(parts: Parts) -> None:
    record = parts.dataset.record()
    hosts.require_same({f"data: {name}": repr(record[name]) for name in SAME_DATA})


def _train(run: RunFolder, parts: Parts, reporter: Reporter, mesh: Mesh | None) -> None:
    if not hosts.is_first():
        _follow(run, parts, mesh)
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
            _loop(run, parts, checkpoints, saved, board, _Stop(caught), reporter, mesh)
        which, step = "best", checkpoints.best()
        model = restore_model(parts, checkpoints, which)
    results = evaluate(
        parts,
        model,
        split="test",
        num_samples=config.test_num_samples,
        on_progress=reporter.examples,
    )
    run.write("results.json", {"checkpoint": which, "step": step, **results})


def _where(mesh: Mesh) -> str:
    devices = f"on {mesh.size} {mesh.devices.flat[0].platform} devices"
    return devices if hosts.count() == 1 else f"{devices} of {hosts.count()} processes"


class _Stop:
    """What signals ask for; with several processes, when all have heard of it.

    Args:
        caught: the signals that this process got.
    """

    def __init__(self, caught: list[int]):
        self.caught = caught
        self.agreed: list[int] = caught if hosts.count() == 1 else []

    def agree(self, count: int, stop: bool) -> tuple[int, bool]:
        """The number of steps that the first process wants, and whether any process stops."""
        if hosts.count() == 1:
            return count, stop
        said = [json.loads(text) for text in hosts.gather(json.dumps([count, *self.caught[:1]]))]
        self.agreed += [number for _, *signals in said for number in signals]
        return said[0][0], bool(self.agreed)


def _stages(
    parts: Parts, saved: Saved, stop: _Stop, mesh: Mesh | None, **on: Any
) -> Iterator[Stage]:
    """The stages of a run, on the devices of the mesh."""
    total, every = parts.config.total_steps, parts.config.eval_every_steps
    assert every is not None
    step, block_steps = parts.step, choose_block_steps(int(saved.state.step), every, total)
    if mesh is not None:
        step, saved = shard(step, mesh), put(from_first_process(saved), replicated(mesh))
    return stages(
        saved.state,
        make_feed(
            step,
            parts.dataset,
            batch_size=parts.batch_size,
            block_steps=block_steps,
            mesh=mesh,
        ),
        total_steps=total,
        eval_every_steps=every,
        gathered=saved.metrics,
        should_stop=lambda: bool(stop.caught),
        agree=stop.agree,
        **on,
    )


def _follow(run: RunFolder, parts: Parts, mesh: Mesh | None) -> None:
    """The loop on a process that writes nothing."""
    saved = hosts.together(lambda: _fresh(parts))
    with signals() as caught:
        stop = _Stop(caught)
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
    stop: _Stop,
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
        # The line before the checkpoint: a run killed in between drops the line and writes it again.
        run.append_metrics({**record, "steps_per_s": stage.steps_per_s, "time": time.time()})
        nothing = jax.tree.map(np.zeros_like, jax.device_get(local(stage.metrics)))
        loss = record["valid"]["loss"] if validate else None
        checkpoints.save(step, Saved(stage.state, nothing), loss=loss)
        draw(board, record)
        reporter.evaluation(record)
        if stop.agreed and step < config.total_steps:
            raise Interrupted(stop.agreed[0], step, run.path)


def load_model(run: RunFolder, which: str = "best") -> tuple[Parts, Model, int]:
    """The parts of a run, its trained model, and the step that the model is of.

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


def restore_model(parts: Parts, checkpoints: Checkpoints, which: str) -> Model:
    """The model of the best or the last checkpoint.

    Raises:
        InputError: there is none, or it is damaged.
    """
    step = checkpoints.best() if which == "best" else checkpoints.last()
    if step is None:
        raise InputError(
            f"run: {checkpoints.folder} holds no checkpoint yet; "
            f"go on with it by `jaxvae train --resume {checkpoints.folder.parent}`"
        )
    return checkpoints.restore(step, _fresh(parts)).state.model


def _saved(parts: Parts, checkpoints: Checkpoints) -> Saved:
    fresh, last = _fresh(parts), checkpoints.last()
    return fresh if last is None else checkpoints.restore(last, fresh)


def _fresh(parts: Parts) -> Saved:
    _, run_key, *_ = parts.config.keys()
    state = init(run_key, parts.model, parts.optimizer)
    return Saved(
        state, no_metrics(parts.step, state, dataset=parts.dataset, batch_size=parts.batch_size)
    )
