"""`Deadline`, the time limit of a call, to be checked before every long operation."""

import math
import time
from collections.abc import Callable


class Deadline:
    """A time limit, which `stop` can end early.

    Args:
        seconds: the limit, from now on or from `begun`; no limit if not given.
        begun: the start of the limit, a time of the clock.
        clock: returns the time in seconds.

    >>> deadline = Deadline(10.0, clock=lambda: 100.0)
    >>> deadline.left(), deadline.allows(9.0), deadline.allows(11.0)
    (10.0, True, False)
    >>> deadline.stop()
    >>> deadline.allows(0.0)
    False
    """

    def __init__(
        self,
        seconds: float = math.inf,
        *,
        begun: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock, self._stopped = clock, False
        self._end = (clock() if begun is None else begun) + seconds

    def left(self) -> float:
        """Return the seconds left; minus infinity after `stop`."""
        return -math.inf if self._stopped else self._end - self._clock()

    def allows(self, seconds: float) -> bool:
        """Return whether more than this many seconds are left."""
        return self.left() > seconds

    def stop(self) -> None:
        """End the limit now: nothing more is allowed."""
        self._stopped = True
