"""Stopping a run before its end: signals and a time limit."""

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from jaxvae import hosts
from jaxvae.checks import require_number
from jaxvae.training import TrainState, stages
from jaxvae.training.feeds import Feed
from jaxvae.training.loop import Stage
from jaxvae.training.metrics import Metrics

TIME_IS_UP = 75
"""The exit status of a command that reached its time limit: `EX_TEMPFAIL` of sysexits, "try again later"."""

MARGIN_S = 1.5
"""Seconds reserved for saving and exiting."""

MINUTES = 0
"""The reason "time limit", used in place of a signal number."""


class Interrupted(Exception):
    """A run was asked to stop; it was saved first.

    Args:
        reason: the number of a signal, or `MINUTES`.
        step: the step of the run.
        path: the run folder.
        to_do: words on the work left, if that is not training.
    """

    def __init__(self, reason: int, step: int, path: Path, to_do: str = ""):
        by = "its minutes" if reason == MINUTES else signal.Signals(reason).name
        super().__init__(f"stopped by {by} at step {step:,}{to_do and f', {to_do}'}")
        self.step, self.path = step, path
        self.status = TIME_IS_UP if reason == MINUTES else 128 + reason
        """The exit status of the command."""


class Deadline:
    """A time limit that says early enough when to save and stop.

    It assumes that the time to the next check is at most the longest time between two checks so far,
    compiling included, and reserves that time plus a margin.

    Args:
        max_minutes: the limit, from now on; no limit if None.

    Raises:
        InputError: not a positive number.
    """

    def __init__(self, max_minutes: float | None):
        require_minutes(max_minutes)
        self._end = time.monotonic() + (math.inf if max_minutes is None else 60 * max_minutes)
        self._looked: float | None = None
        self._longest = 0.0

    def is_near(self) -> bool:
        """Return whether it is time to save and stop; call it often."""
        now = time.monotonic()
        self._longest = max(self._longest, 0.0 if self._looked is None else now - self._looked)
        self._looked = now
        return now + self._longest + MARGIN_S > self._end


def require_minutes(max_minutes: float | None) -> None:
    """Refuse a time limit that is not positive and finite.

    Raises:
        InputError: it is not a positive number.
    """
    if max_minutes is not None:
        require_number("max_minutes", max_minutes, above=0, or_else=" (leave it out for no limit)")


class Stop:
    """Requests to stop, by signals or the time limit; several processes stop when they have agreed.

    Args:
        caught: the signals that this process received, from `signals`.
        deadline: the time limit of this process; the earliest limit of all processes counts.
    """

    def __init__(self, caught: list[int], deadline: Deadline):
        self._caught, self._deadline = caught, deadline
        self.agreed: list[int] = caught if hosts.count() == 1 else []

    def asked(self) -> bool:
        """Return whether this process wants to stop."""
        if self._deadline.is_near() and not self._caught:
            self._caught.append(MINUTES)
        return bool(self._caught)

    def agree(self, count: int, stop: bool) -> tuple[int, bool]:
        """Return the number of steps that the first process proposes, and whether any process wants to stop."""
        if hosts.count() == 1:
            return count, stop
        said = [json.loads(text) for text in hosts.gather(json.dumps([count, *self._caught[:1]]))]
        self.agreed += [number for _, *reasons in said for number in reasons]
        return said[0][0], bool(self.agreed)


def stages_until(
    stop: Stop, state: TrainState, feed: Feed, *, gathered: Metrics, total_steps: int, **on: Any
) -> Iterator[Stage]:
    """Return the stages of a run until a stop is requested, which may be before its first step."""
    if int(state.step) < total_steps and stop.agree(0, stop.asked())[1]:
        return iter([Stage(state, gathered, 0.0, False)])
    return stages(
        state,
        feed,
        total_steps=total_steps,
        gathered=gathered,
        should_stop=stop.asked,
        agree=stop.agree,
        **on,
    )


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM within the context; a second signal of the same kind acts as usual."""
    caught: list[int] = []
    before = {}

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not in the main thread: handlers cannot be set
            before[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
