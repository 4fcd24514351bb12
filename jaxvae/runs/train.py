"""From a configuration to a trained, evaluated run folder; and from a folder back to its model."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae.runs.config import Parts, TrainConfig, build
from jaxvae.runs.evaluate import evaluate
from jaxvae.runs.folder import RunFolder, environment
from jaxvae.training import Metrics, TrainState, init, stages
from jaxvae.training.checkpoints import Checkpoints
from jaxvae.training.feeds import InMemory, no_metrics
from jaxvae.training.loop import make_validation, record_of
from jaxvae.types import InputError, Model

SAME_DATA = ("sha256", "sizes", "support", "num_categories", "dequantize", "binarize")


class Saved(NamedTuple):
    """What a checkpoint holds: the state, and the metrics gathered since the last evaluation."""

    state: TrainState
    metrics: Metrics


class Reporter:
    """What a run tells while it goes on; this one is silent. The command line has its own."""

    def start(self, config: TrainConfig, first_step: int) -> None:
        """Training begins, or goes on, at `first_step`."""

    def progress(self, step: int, steps_per_s: float) -> None:
        """A dispatch ended."""

    def evaluation(self, record: dict[str, Any]) -> None:
        """A line of metrics was written."""

    def say(self, line: str) -> None:
        """Something worth knowing happened."""

    def examples(self, done: int, total: int) -> None:
        """So many test examples have been evaluated."""


class Interrupted(Exception):
    """A signal asked the run to stop; it was saved first."""

    def __init__(self, signal_number: int, step: int, path: Path):
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step:,}")
        self.signal_number, self.step, self.path = signal_number, step, path


def train(config: TrainConfig, path: Path, *, reporter: Reporter | None = None) -> RunFolder:
    """Train a new run in a new folder.

    Args:
        config: what to train; checked before anything is written.
        path: the folder to make.
        reporter: what to tell about progress.

    Returns:
        The run folder, with checkpoints, metrics and `results.json`.

    Raises:
        InputError: a value is not usable, or the folder exists or cannot be written.
        Interrupted: SIGINT or SIGTERM came; the run is saved and can be resumed.
    """
    parts = build(config)
    run = RunFolder.create(path, parts.config, parts.dataset.record())
    with run.locked():
        _train(run, parts, reporter or Reporter())
    return run


def resume(path: Path, *, reporter: Reporter | None = None) -> RunFolder:
    """Go on with a run from its last checkpoint, to the same bits as if it had never stopped.

    Args:
        path: the run folder.
        reporter: what to tell about progress.

    Raises:
        InputError: there is no run, it is in use, or its data have changed.
        Interrupted: SIGINT or SIGTERM came; the run is saved and can be resumed.
    """
    run = RunFolder.open(path)
    reporter = reporter or Reporter()
    with run.locked():
        parts = build(run.config())
        _require_same_data(run, parts)
        _say_other_versions(run, reporter)
        _train(run, parts, reporter)
    return run


def _train(run: RunFolder, parts: Parts, reporter: Reporter) -> None:
    config = parts.config
    with run.checkpoints() as checkpoints:
        saved = _saved(parts, checkpoints)
        first = int(saved.state.step)
        checkpoints.require_room(saved, copies=3)  # the best, the last, and the one being written
        run.rewind_metrics(first)
        reporter.start(config, first)
        with _tensorboard(run, first) as board, _signals() as caught:
            _loop(run, parts, checkpoints, saved, board, caught, reporter)
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


def _loop(
    run: RunFolder,
    parts: Parts,
    checkpoints: Checkpoints,
    saved: Saved,
    board: Any,
    caught: list[int],
    reporter: Reporter,
) -> None:
    config = parts.config
    assert config.eval_every_steps is not None
    validate = None
    if "valid" in parts.dataset.splits and int(saved.state.step) < config.total_steps:
        validate = make_validation(parts.objective, parts.dataset, saved.state.key)
    feed = InMemory(parts.step, parts.dataset, batch_size=parts.batch_size)
    for stage in stages(
        saved.state,
        feed,
        total_steps=config.total_steps,
        eval_every_steps=config.eval_every_steps,
        gathered=saved.metrics,
        on_progress=reporter.progress,
        should_stop=lambda: bool(caught),
    ):
        step = int(stage.state.step)
        if not stage.is_evaluation:
            checkpoints.save(step, Saved(stage.state, stage.metrics), loss=None)
            raise Interrupted(caught[0], step, run.path)
        record = record_of(stage, validate)
        # The line before the checkpoint: a run killed in between drops the line and writes it again.
        run.append_metrics({**record, "steps_per_s": stage.steps_per_s, "time": time.time()})
        nothing = jax.tree.map(np.zeros_like, jax.device_get(stage.metrics))
        loss = record["valid"]["loss"] if validate else None
        checkpoints.save(step, Saved(stage.state, nothing), loss=loss)
        for split in record.keys() & {"train", "valid"}:
            for name, value in record[split].items():
                board.add_scalar(f"{name}/{split}", value, step)
        reporter.evaluation(record)
        if caught and step < config.total_steps:
            raise Interrupted(caught[0], step, run.path)


def load_model(run: RunFolder, which: str = "best") -> tuple[Parts, Model, int]:
    """The parts of a run, its trained model, and the step that the model is of.

    Args:
        run: an existing run.
        which: "best" (on the validation split) or "last".

    Raises:
        InputError: there is no checkpoint, it is damaged, or the data have changed.
    """
    parts = build(run.config())
    _require_same_data(run, parts)
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


def _require_same_data(run: RunFolder, parts: Parts) -> None:
    then, now = run.read("data.json"), parts.dataset.record()
    differing = [name for name in SAME_DATA if then[name] != now[name]]
    if differing:
        name = differing[-1]
        raise InputError(
            f"data: {parts.config.data} is not what {run.path} was trained on: {name} was "
            f"{then[name]} and is {now[name]}"
        )


def _say_other_versions(run: RunFolder, reporter: Reporter) -> None:
    then, now = run.read("environment.json")["versions"], environment()["versions"]
    changed = [
        f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]
    ]
    if changed:
        reporter.say(f"versions changed since the start, so bits may too: {', '.join(changed)}")


@contextlib.contextmanager
def _tensorboard(run: RunFolder, first_step: int) -> Iterator[Any]:
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step + 1)
    try:
        yield board
    finally:
        board.close()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Catch SIGINT and SIGTERM while inside; a second one of either acts as it always does."""
    caught: list[int] = []
    before = {}

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not in the main thread: leave the signals alone
            before[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
