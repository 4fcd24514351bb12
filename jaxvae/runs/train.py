"""From a configuration to a trained, evaluated run folder; and from a folder back to its model."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxvae import evaluation, objectives
from jaxvae.runs.config import Parts, TrainConfig, build
from jaxvae.runs.folder import RunFolder, environment
from jaxvae.runs.models import can_differentiate_latents, has_closed_kl, has_closed_mean
from jaxvae.semi_supervised import Classifying
from jaxvae.training import Metrics, TrainState, init, stages
from jaxvae.training.checkpoints import Checkpoints
from jaxvae.training.loop import make_validation, no_metrics, observe_batch, record_of
from jaxvae.types import InputError, Model, Objective

SAME_DATA = ("sha256", "sizes", "support", "num_categories", "dequantize", "binarize")
ELBO_SAMPLES = 100
MOMENT_SAMPLES = 100
EVALUATION_ROWS = 5_000  # decoder rows in one dispatch, which bounds the memory


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
    for stage in stages(
        saved.state,
        parts.step,
        parts.dataset,
        batch_size=parts.batch_size,
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


def evaluate(
    parts: Parts,
    model: Model,
    *,
    split: str,
    num_samples: int,
    chunk_size: int = 100,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The numbers of a model on one split: ELBO, distortion, rate, importance-weighted estimate.

    All on the same draws of the data, each with its standard error over examples, in nats.

    Raises:
        InputError: the data have no such split.
    """
    xs = observed(parts, split)
    *_, key = parts.config.keys()
    # One sample an example would leave more noise in the ELBO than the gain above it on a small set.
    elbo_samples = min(num_samples, ELBO_SAMPLES)
    terms: Any = evaluation.terms(
        key,
        model,
        xs,
        objective=_elbo(parts, elbo_samples),
        batch_size=max(1, EVALUATION_ROWS // elbo_samples),
    )
    likelihood = evaluation.log_likelihood(
        key,
        model,
        xs,
        num_samples=num_samples,
        chunk_size=chunk_size,
        on_progress=(lambda done: on_progress(done, len(xs["x"]))) if on_progress else None,
    )
    units = evaluation.active_units(model, xs, num_samples=moment_samples(parts))
    gain = evaluation.mean_and_error(likelihood.estimate - terms.bound)
    return {
        "split": split,
        "examples": len(xs["x"]),
        "binarize": parts.config.binarize,
        "elbo_num_samples": elbo_samples,
        "elbo": evaluation.mean_and_error(terms.bound),
        "distortion": evaluation.mean_and_error(terms.distortion),
        "rate": evaluation.mean_and_error(terms.rate),
        "log_likelihood": likelihood.mean(),
        "log_likelihood_num_samples": num_samples,
        "log_likelihood_minus_elbo": gain,
        "ess": float(np.mean(likelihood.ess)),
        "active_units": units.count,
        "latent_dim": len(units.variance),
        **_more(model, xs),
    }


def _more(model: Any, xs: dict[str, Array]) -> dict[str, Any]:
    """What models of some kinds know besides: the exact evidence, the classes."""
    more: dict[str, Any] = {}
    if hasattr(model, "log_evidence"):
        evidence = np.asarray(jax.jit(jax.vmap(model.log_evidence))(xs["x"]))
        more["exact_log_likelihood"] = evaluation.mean_and_error(evidence)
    if isinstance(model, Classifying) and "label" in xs:
        found = evaluation.classification(model, xs["x"], np.asarray(xs["label"]))
        more["accuracy"] = found.accuracy, found.standard_error
        more["confusion"] = found.confusion.tolist()
    return more


def moment_samples(parts: Parts) -> int | None:
    """How many draws estimate the posterior mean; None where it is known in closed form."""
    return None if has_closed_mean(parts.model, parts.dataset) else MOMENT_SAMPLES


def _elbo(parts: Parts, num_samples: int) -> Objective:
    """The ELBO with the rate in closed form where there is one, exact sums over discrete latents."""
    kl = "analytic" if has_closed_kl(parts.model, parts.dataset) else "monte_carlo"
    path = can_differentiate_latents(parts.model, parts.dataset)
    gradient = "pathwise" if path else "score"  # no estimator changes the value
    return partial(objectives.elbo, num_samples=num_samples, kl=kl, gradient=gradient)


def observed(parts: Parts, split: str) -> dict[str, Array]:
    """A split as the model sees it, with what else its rows have; the same draws at every call.

    Raises:
        InputError: the data have no such split.
    """
    if split not in parts.dataset.splits:
        raise InputError(
            f"split: {parts.dataset.name} has {', '.join(parts.dataset.splits)}, got {split!r}"
        )
    *_, data_key, _ = parts.config.keys()
    return observe_batch(data_key, parts.dataset, split)


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
    return Saved(state, no_metrics(parts.step, state, parts.dataset, parts.batch_size))


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
