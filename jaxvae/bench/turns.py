"""Timing: how long some steps take, how many fill a turn, and turns of several programs in rounds."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def seconds_of(run: Callable[[int], object], steps: int) -> float:
    """How long so many steps take."""
    begin = time.perf_counter()
    run(steps)
    return time.perf_counter() - begin


def calibrate(run: Callable[[int], object], seconds: float) -> int:
    """How many steps take about so long; what the first call compiles or loads is left out."""
    return steps_within(seconds, partial(seconds_of, run))


def steps_within(seconds: float, timed: Callable[[int], float]) -> int:
    """The same for steps that are timed elsewhere: `timed(steps)` takes them and says how long they took."""
    timed(1)
    steps = 1
    while (taken := timed(steps)) < 0.5 * seconds:
        # At most eightfold a time: a dispatch costs something by itself.
        steps = max(steps + 1, int(steps * min(8, seconds / taken)))
    return max(1, round(steps * seconds / taken))


def in_turn(
    runs: Sequence[Callable[[int], object]], rounds: int, seconds_a_round: float
) -> list[list[float]]:
    """Seconds a step of each, in each round: all have a turn before any has the next."""
    counts = [calibrate(run, seconds_a_round) for run in runs]
    taken = [
        [seconds_of(run, steps) / steps for run, steps in zip(runs, counts, strict=True)]
        for _ in range(rounds)
    ]
    return [list(times) for times in zip(*taken, strict=True)]
