"""Timing: seconds per step, calibration of the steps per turn, and turns of several programs in rounds."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from jaxvae.bench.deadline import Deadline

Run: TypeAlias = Callable[[int], int]
"""A function that runs at least the given number of steps, waits for them, and returns the number it ran."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def timed(run: Run, steps: int) -> tuple[float, int]:
    """Return the seconds of a run, and the number of steps that it ran."""
    begin = time.perf_counter()
    taken = run(steps)
    return time.perf_counter() - begin, taken


def seconds_a_step(run: Run, steps: int) -> float:
    """Return the mean seconds per step over a run of `steps` steps."""
    seconds, taken = timed(run, steps)
    return seconds / taken


def calibrate(run: Run, seconds: float) -> int:
    """Find the number of steps that take about `seconds`; the first call, which may compile, does not count."""
    return steps_within(seconds, partial(timed, run))


def steps_within(seconds: float, timed: Callable[[int], tuple[float, int]]) -> int:
    """Do as `calibrate` for steps timed elsewhere; `timed(steps)` returns the seconds and the number of steps."""
    timed(1)
    spent, taken = timed(1)
    while spent < 0.5 * seconds:
        # By a factor of at most 8: a dispatch has a cost of its own.
        spent, taken = timed(max(taken + 1, int(taken * min(8, seconds / spent))))
    return max(1, round(taken * seconds / spent))


def in_turn(
    runs: Sequence[Run], rounds: int, seconds_a_round: float, deadline: Deadline | None = None
) -> list[list[float]]:
    """Time several programs in rounds, each once per round, and return the seconds per step of each.

    Args:
        runs: the programs.
        rounds: the largest number of rounds; a round that the deadline does not allow is not started, except
            the first.
        seconds_a_round: approximate length of a turn.
        deadline: the time limit; none if None.
    """
    counts = [calibrate(run, seconds_a_round) for run in runs]
    taken: list[list[float]] = []
    begin, last = time.perf_counter(), 0.0
    while len(taken) < rounds and (not taken or deadline is None or deadline.allows(last)):
        taken.append([seconds_a_step(run, n) for run, n in zip(runs, counts, strict=True)])
        last, begin = time.perf_counter() - begin, time.perf_counter()
    return [list(times) for times in zip(*taken, strict=True)]
