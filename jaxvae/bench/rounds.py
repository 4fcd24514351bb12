"""Rounds in which every workload has its turn, since the speed of a machine drifts."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxvae.bench.alone import compile_alone
from jaxvae.bench.products import flop_of
from jaxvae.bench.workloads import WORKLOADS, Job
from jaxvae.types import InputError, require_positive


def measure(
    names: Sequence[str],
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    batch_size: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Time workloads in turn, each beside its own products alone.

    `efficiency = seconds(products of a step, alone) / seconds(step)`, both in the same round.

    Args:
        names: of `WORKLOADS`.
        rows: [N, 28, 28], from `draw_rows`.
        rounds: how often each has its turn.
        seconds_a_round: about how long a turn takes.
        batch_size: examples a step; each workload's own if not given.
        say: called with a line about what goes on.

    Returns:
        Name -> `about`, `batch_size`, `compile_s`, `memory_bytes` (beside inputs and outputs), `flop_a_step`, and
        the median, least and largest over rounds of `steps_per_s`, `examples_per_s`, `flop_per_s`
        and `efficiency`.

    Raises:
        InputError: a number is out of its range, or a name is not known.
    """
    names = list(dict.fromkeys(names))
    require_known(names)
    require_usable(rounds, seconds_a_round)
    if batch_size is not None:
        require_batch_size(batch_size, len(rows))
    turns = {}
    for name in names:
        say(f"{name}: compiling")
        workload = WORKLOADS[name]
        turns[name] = Turn(
            workload.prepare(batch_size or workload.batch_size, rows), seconds_a_round
        )
    for i in range(rounds):
        for name, turn in turns.items():
            steps_per_s = turn.take()
            say(f"round {i + 1}/{rounds}: {name} {steps_per_s:.4g} steps/s")
    return {name: {"about": WORKLOADS[name].about, **turns[name].record()} for name in names}


class Turn:
    """A compiled workload and its products alone, with what was timed so far.

    Args:
        job: the workload.
        seconds: about how long a turn takes.
    """

    def __init__(self, job: Job, seconds: float):
        self.job, self.alone = job, compile_alone(job.products, jax.random.key(4))
        self.steps, self.alone_steps = (
            calibrate(run, seconds / 2) for run in (job.run, self.alone)
        )
        self.step_s: list[float] = []
        self.alone_s: list[float] = []

    def take(self) -> float:
        """Time it once; return the steps a second."""
        self.step_s.append(seconds_of(self.job.run, self.steps) / self.steps)
        self.alone_s.append(seconds_of(self.alone, self.alone_steps) / self.alone_steps)
        return 1 / self.step_s[-1]

    def record(self) -> dict[str, Any]:
        """What was found."""
        size, flop = self.job.batch_size, flop_of(self.job.products)
        pairs = zip(self.alone_s, self.step_s, strict=True)
        return {
            "batch_size": size,
            "compile_s": self.job.compile_s,
            "memory_bytes": self.job.memory_bytes,
            "flop_a_step": flop,
            "steps_a_round": self.steps,
            "steps_per_s": spread([1 / seconds for seconds in self.step_s]),
            "examples_per_s": spread([size / seconds for seconds in self.step_s]),
            "flop_per_s": spread([flop / seconds for seconds in self.step_s]),
            "efficiency": spread([alone / step for alone, step in pairs]),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def seconds_of(run: Callable[[int], None], steps: int) -> float:
    """How long so many steps take."""
    begin = time.perf_counter()
    run(steps)
    return time.perf_counter() - begin


def calibrate(run: Callable[[int], None], seconds: float) -> int:
    """How many steps take about so long; what the first call compiles or loads is left out."""
    run(1)
    steps = 1
    while (taken := seconds_of(run, steps)) < 0.5 * seconds:
        # At most eightfold a time: a dispatch costs something by itself.
        steps = max(steps + 1, int(steps * min(8, seconds / taken)))
    return max(1, round(steps * seconds / taken))


def require_usable(rounds: int, seconds_a_round: float) -> None:
    """Raise where there is nothing to time.

    Raises:
        InputError: rounds below 1, or a time that is not positive and finite.
    """
    require_positive(rounds=rounds)
    if not 0 < seconds_a_round < float("inf"):
        raise InputError(
            f"seconds_a_round: expected a number of seconds above 0, got {seconds_a_round!r}"
        )


def require_batch_size(batch_size: int, num_rows: int) -> None:
    """Raise where a batch cannot be drawn from the rows.

    Raises:
        InputError: below 1, or more than there are rows.
    """
    require_positive(batch_size=batch_size)
    if batch_size > num_rows:
        raise InputError(
            f"batch_size: expected at most {num_rows:,}, the number of rows, got {batch_size:,}"
        )


def require_known(names: Sequence[str]) -> None:
    """Raise where there is no such workload, or none is named.

    Raises:
        InputError: see above.
    """
    known = ", ".join(WORKLOADS)
    if not names:
        raise InputError(f"workloads: expected at least one of {known}, got none")
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"workloads: expected some of {known}, got {name!r}")
