"""Joint training of the runs of one folder: one loop, with checkpoints of each run and of all together."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.parallel import first_devices
from jaxvae.runs.config import Parts
from jaxvae.runs.evaluate import evaluate
from jaxvae.runs.folder import RunFolder
from jaxvae.runs.many_folder import ManyFolder
from jaxvae.runs.method import by_gradients
from jaxvae.runs.spread import SPLIT, spread
from jaxvae.runs.stop import MINUTES, Deadline, Interrupted, Stop, signals, stages_until
from jaxvae.runs.train import EVALUATION, Saved, restore_model
from jaxvae.runs.watch import Reporter, draw, tensorboard
from jaxvae.training import choose_block_steps, init
from jaxvae.training.checkpoints import Checkpoints
from jaxvae.training.loop import Stage
from jaxvae.training.many import (
    STACKED,
    ManyInMemory,
    deal_out,
    make_validations,
    run_mesh,
    stack,
    take,
)
from jaxvae.types import InputError

Record = dict[str, Any]
Validate = Callable[..., dict[str, Any]]


class Together:
    """Joint training of the runs of a folder.

    Args:
        many: their folder, which is locked.
        runs: the run folder of each, by name.
        parts: the parts of each, by name.
        reporter: receives the progress of all runs.
        devices: the largest number of devices to use; all devices if None.
        deadline: the time limit of training and evaluation.
    """

    def __init__(
        self,
        many: ManyFolder,
        runs: dict[str, RunFolder],
        parts: dict[str, Parts],
        reporter: Reporter,
        devices: int | None,
        deadline: Deadline,
    ):
        self.many, self.runs, self.parts, self.reporter = many, runs, parts, reporter
        self.deadline = deadline
        self.first = next(iter(parts.values()))
        self.config = self.first.config
        self.devices = first_devices(jax.device_count() if devices is None else devices)
        self.mesh = run_mesh(len(parts), self.devices)
        self.failed: dict[str, int] = {}
        """For each failed run, the step at which its loss was found not to be finite."""
        self.best: dict[str, float] = {}
        self.own = own_values(list(parts.values()))

    def train(self) -> None:
        """Train to the end, evaluate each run, and write the spread of the results."""
        with contextlib.ExitStack() as held:
            together = held.enter_context(self.many.common.checkpoints())
            folders = {
                name: held.enter_context(run.checkpoints()) for name, run in self.runs.items()
            }
            self._loop(together, folders)
            results = self._evaluated(folders)
        self.many.write(runs=list(self.runs), failed=self.failed, **spread(self.parts, results))

    def _step(self, own: dict[str, Any]) -> Any:
        return method_of(self.first, own).step

    def _objective(self, own: dict[str, Any]) -> Any:
        return method_of(self.first, own).objective

    def _saved(self, feed: ManyInMemory, together: Checkpoints) -> Saved:
        states = []
        for one in self.parts.values():
            _, run_key, *_ = one.config.keys()
            states.append(init(run_key, one.model, one.optimizer))
        state = stack(states)
        saved, last = Saved(state, feed.no_metrics(state)), together.last()
        saved = saved if last is None else together.restore(last, saved)
        return deal_out(saved, Saved(STACKED, 0), self.mesh)  # type: ignore[arg-type]

    def _rewind(self, first: int) -> None:
        failed = self.many.read()["failed"]
        self.failed = {name: step for name, step in failed.items() if step <= first}
        for name, run in self.runs.items():
            run.rewind_metrics(first)
            losses = [record["valid"]["loss"] for record in run.metrics() if "valid" in record]
            self.best[name] = min(losses, default=float("inf"))

    def _say_devices(self) -> None:
        used, there = 1 if self.mesh is None else self.mesh.size, len(self.devices)
        if there > 1:
            why = "" if used == there else f", the most that divide {len(self.runs)} runs"
            self.reporter.say(f"{len(self.runs)} runs on {used} of {there} devices{why}")

    def _loop(self, together: Checkpoints, folders: dict[str, Checkpoints]) -> None:
        total, every = self.config.total_steps, self.config.eval_every_steps
        assert every is not None
        feed = ManyInMemory(
            self._step,
            self.own,
            self.first.dataset,
            batch_size=self.first.batch_size,
            num_runs=len(self.runs),
            block_steps=choose_block_steps(together.last() or 0, every, total),
            mesh=self.mesh,
        )
        saved = self._saved(feed, together)
        first = int(saved.state.step)
        # Each run's best and last checkpoint and the one being written; and two of all runs together.
        together.require_room(saved, copies=5)
        self._rewind(first)
        self._say_devices()
        validate = None
        if "valid" in self.first.dataset.splits and first < total:
            validate = make_validations(
                self._objective, self.own, self.first.dataset, mesh=self.mesh
            )
        with contextlib.ExitStack() as held:
            boards = {n: held.enter_context(tensorboard(r, first)) for n, r in self.runs.items()}
            stop = Stop(held.enter_context(signals()), self.deadline)
            self.reporter.start(self.config, first)
            steps = stages_until(
                stop,
                saved.state,
                feed,
                gathered=saved.metrics,
                total_steps=total,
                eval_every_steps=every,
                on_progress=self.reporter.progress,
            )
            del saved  # the loop has a copy; this frees the memory
            for stage in steps:
                stopping = bool(stop.agreed) and int(stage.state.step) < total
                self._at(stage, validate, together, folders, boards, stopping=stopping)
                if stopping:
                    raise Interrupted(stop.agreed[0], int(stage.state.step), self.many.path)

    def _at(
        self,
        stage: Stage,
        validate: Validate | None,
        together: Checkpoints,
        folders: dict[str, Checkpoints],
        boards: dict[str, Any],
        *,
        stopping: bool,
    ) -> None:
        """Write metrics and checkpoints of the runs at a stage.

        As with one run, metrics are written before checkpoints, and each run's checkpoint before the common
        one, from which runs are resumed: after a kill, whatever is ahead of the common checkpoint is dropped
        or written again, with the same bits.
        """
        step, standing, records = int(stage.state.step), Saved(stage.state, stage.metrics), {}
        if stage.is_evaluation:
            records = self._records(stage, validate)
            standing = standing._replace(metrics=jax.tree.map(jnp.zeros_like, stage.metrics))
            for name, record in records.items():
                timed = {"steps_per_s": stage.steps_per_s, "time": time.time()}
                self.runs[name].append_metrics({**record, **timed})
                draw(boards[name], record)
        # Arrays that are split over devices are gathered on the first one, in the form to save.
        standing = jax.device_put(standing, jax.devices()[0])
        for i, name in enumerate(self.runs):
            if name in self.failed:
                continue
            loss = records[name]["valid"]["loss"] if validate and records else None
            keep = stopping or step == self.config.total_steps
            if loss is not None and loss < self.best[name]:
                self.best[name], keep = loss, True
            if keep:
                folders[name].save(step, Saved(*take(*standing, i)), loss=loss)
        # The latest counts as the best, so only that one is kept.
        together.save(step, standing, loss=-step)
        if records:
            self.reporter.evaluation(_mean(list(records.values())))

    def _records(self, stage: Stage, validate: Validate | None) -> dict[str, Record]:
        """Return the record of each run at an evaluation, except for failed runs.

        Raises:
            InputError: no run has a finite loss.
        """
        step = int(stage.state.step)
        means: dict[str, Any] = {"train": dict(stage.metrics)}
        if validate:
            means["valid"] = validate(stage.state)
        means = jax.tree.map(np.asarray, means)
        each = {
            name: {"step": step, **jax.tree.map(lambda value, i=i: float(value[i]), means)}
            for i, name in enumerate(self.runs)
        }
        for name, record in each.items():
            loss = record["train"]["loss"]
            if name not in self.failed and not np.isfinite(loss):
                self.failed[name] = step
                self.many.write(runs=list(self.runs), failed=self.failed)
                self.reporter.say(
                    f"{name}: the loss is {loss} by step {step}; the other runs go on"
                )
        if len(self.failed) == len(self.runs):
            raise InputError(
                f"loss: expected finite nats, got none by step {step} in any of the runs; "
                "lower the learning rate, or look at the data and the objective"
            )
        return {name: record for name, record in each.items() if name not in self.failed}

    def _evaluated(self, folders: dict[str, Checkpoints]) -> dict[str, Any]:
        """Evaluate each run on the test split and write the results to its folder; None for a failed run."""
        results: dict[str, Any] = {}
        going = [name for name in self.runs if name not in self.failed]

        def examples(done: int, total: int) -> None:
            done, total = done + len(results) * total, len(going) * total
            self.reporter.examples(done, total)
            if done < total and self.deadline.is_near():
                raise Interrupted(MINUTES, self.config.total_steps, self.many.path, EVALUATION)

        for name in going:
            one, step = self.parts[name], folders[name].best()
            if (done := self._done(name, step)) is not None:
                results[name] = done
                continue
            found = evaluate(
                one,
                restore_model(one, folders[name], "best"),
                split=SPLIT,
                num_samples=self.config.test_num_samples,
                on_progress=examples,
            )
            results[name] = {"checkpoint": "best", "step": step, **found}
            self.runs[name].write("results.json", results[name])
        return {name: results.get(name) for name in self.runs}

    def _done(self, name: str, step: int | None) -> dict[str, Any] | None:
        """Return the results of a run if an earlier, stopped call has already written them, else None."""
        if not (self.runs[name].path / "results.json").exists():
            return None
        found = self.runs[name].read("results.json")
        wanted = step, self.config.test_num_samples
        return found if (found["step"], found["log_likelihood_num_samples"]) == wanted else None


def own_values(parts: Sequence[Parts]) -> dict[str, Any]:
    """Return the values that differ between runs besides their states, with a leading axis of runs."""
    own: dict[str, Any] = {}
    for name in ("learning_rate", "beta"):
        values = [getattr(one.config, name) for one in parts]
        if len(set(values)) > 1:
            own[name] = jnp.asarray(values, jnp.float32)
    if parts[0].labelled is not None:
        rows = [one.labelled for one in parts]
        own["labelled"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    return own


def method_of(parts: Parts, own: dict[str, Any]) -> Any:
    """Return the method of a run with these values of its own, which may be traced."""
    if not own:
        return parts
    values = dict(own)
    labelled = values.pop("labelled", None)
    return by_gradients(dataclasses.replace(parts.config, **values), parts.dataset, labelled)


def _mean(records: Sequence[Record]) -> Record:
    """Return a record with the means over runs, which are at the same step."""
    means = jax.tree.map(lambda *values: float(np.mean(values)), *records)
    return {**means, "step": records[0]["step"]}
