"""Until when a call may go on; whoever begins something that takes long asks first."""

import math
import time
from collections.abc import Callable


class Deadline:
    """A point in time, or a word that comes earlier.

    Args:
        seconds: from now on, or from `begun`; for ever if not given.
        begun: when it began, by the clock.
        clock: seconds.

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
        """Seconds."""
        return -math.inf if self._stopped else self._end - self._clock()

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long ends in time."""
        return self.left() > seconds

    def stop(self) -> None:
        """Nothing more is allowed."""
        self._stopped = True
