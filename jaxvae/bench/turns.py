"""Timing: how long some steps take, how many fill a turn, and turns of several programs in rounds."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from jaxvae.bench.deadline import Deadline

Run: TypeAlias = Callable[[int], int]
"""Takes at least so many steps, waits until they are done, and returns how many it took."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def timed(run: Run, steps: int) -> tuple[float, int]:
    """Seconds, and the steps that were really taken in them."""
    begin = time.perf_counter()
    taken = run(steps)
    return time.perf_counter() - begin, taken


def seconds_a_step(run: Run, steps: int) -> float:
    """How long a step takes, of so many."""
    seconds, taken = timed(run, steps)
    return seconds / taken


def calibrate(run: Run, seconds: float) -> int:
    """How many steps take about so long; what the first call compiles or loads is left out."""
    return steps_within(seconds, partial(timed, run))


def steps_within(seconds: float, timed: Callable[[int], tuple[float, int]]) -> int:
    """The same for steps that are timed elsewhere: `timed(steps)` takes them, and says what `timed` here does."""
    timed(1)
    spent, taken = timed(1)
    while spent < 0.5 * seconds:
        # At most eightfold a time: a dispatch costs something by itself.
        spent, taken = timed(max(taken + 1, int(taken * min(8, seconds / spent))))
    return max(1, round(taken * seconds / spent))


def in_turn(
    runs: Sequence[Run], rounds: int, seconds_a_round: float, deadline: Deadline | None = None
) -> list[list[float]]:
    """Seconds a step of each, in each round: all have a turn before any has the next.

    Args:
        runs: what takes turns.
        rounds: how many at most; a round that the deadline does not allow is not begun, but the first.
        seconds_a_round: about how long a turn takes.
        deadline: when to end.
    """
    counts = [calibrate(run, seconds_a_round) for run in runs]
    taken: list[list[float]] = []
    begin, last = time.perf_counter(), 0.0
    while len(taken) < rounds and (not taken or deadline is None or deadline.allows(last)):
        taken.append([seconds_a_step(run, n) for run, n in zip(runs, counts, strict=True)])
        last, begin = time.perf_counter() - begin, time.perf_counter()
    return [list(times) for times in zip(*taken, strict=True)]
