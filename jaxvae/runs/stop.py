"""What stops a run before its end: signals, and the minutes that it was given."""

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
"""The exit status of a command whose minutes were up: `EX_TEMPFAIL` of sysexits, "try again later"."""

MARGIN_S = 1.5
"""Seconds kept to leave in good order."""

MINUTES = 0
"""Stands for the minutes where else the number of a signal stands."""


class Interrupted(Exception):
    """A run was asked to stop; it was saved first.

    Args:
        reason: the number of a signal, or `MINUTES`.
        step: where it stands.
        path: its folder.
        to_do: what is left of it, where that is not training.
    """

    def __init__(self, reason: int, step: int, path: Path, to_do: str = ""):
        by = "its minutes" if reason == MINUTES else signal.Signals(reason).name
        super().__init__(f"stopped by {by} at step {step:,}{to_do and f', {to_do}'}")
        self.step, self.path = step, path
        self.status = TIME_IS_UP if reason == MINUTES else 128 + reason
        """With what the command exits."""


class Deadline:
    """Looks at the clock, and says when to leave so as to have left in time.

    From one look to the next it may take as long as it ever has, compiling included; so that much
    is kept, beside a margin.

    Args:
        max_minutes: from now on; no limit if None.

    Raises:
        InputError: not a positive number.
    """

    def __init__(self, max_minutes: float | None):
        require_minutes(max_minutes)
        self._end = time.monotonic() + (math.inf if max_minutes is None else 60 * max_minutes)
        self._looked: float | None = None
        self._longest = 0.0

    def is_near(self) -> bool:
        """Whether it is time to save and leave; to be asked often."""
        now = time.monotonic()
        self._longest = max(self._longest, 0.0 if self._looked is None else now - self._looked)
        self._looked = now
        return now + self._longest + MARGIN_S > self._end


def require_minutes(max_minutes: float | None) -> None:
    """Refuse what is not a time.

    Raises:
        InputError: it is not a positive number.
    """
    if max_minutes is not None:
        require_number("max_minutes", max_minutes, above=0, or_else=" (leave it out for no limit)")


class Stop:
    """What signals and the clock ask for; with several processes, when all have heard of it.

    Args:
        caught: the signals that this process got, from `signals`.
        deadline: of this process; the first one that is near counts for all.
    """

    def __init__(self, caught: list[int], deadline: Deadline):
        self._caught, self._deadline = caught, deadline
        self.agreed: list[int] = caught if hosts.count() == 1 else []

    def asked(self) -> bool:
        """Whether this process wants to stop."""
        if self._deadline.is_near() and not self._caught:
            self._caught.append(MINUTES)
        return bool(self._caught)

    def agree(self, count: int, stop: bool) -> tuple[int, bool]:
        """The number of steps that the first process wants, and whether any process stops."""
        if hosts.count() == 1:
            return count, stop
        said = [json.loads(text) for text in hosts.gather(json.dumps([count, *self._caught[:1]]))]
        self.agreed += [number for _, *reasons in said for number in reasons]
        return said[0][0], bool(self.agreed)


def stages_until(
    stop: Stop, state: TrainState, feed: Feed, *, gathered: Metrics, total_steps: int, **on: Any
) -> Iterator[Stage]:
    """The stages of a run until it is asked to stop, which may be before its first step."""
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
