"""Processes that a call starts and that end with it, together with all that they started themselves."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

RUNNING: dict[int, "subprocess.Popen[Any]"] = {}
"""By the number of the process."""


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """A process while inside; afterwards it is gone.

    Args:
        command: its command line.
        **options: of `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    RUNNING[process.pid] = process
    try:
        yield process
    finally:
        end(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # of what it was never told
                if pipe is not None:
                    pipe.close()


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill it and its own children."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    RUNNING.pop(process.pid, None)


def end_all() -> None:
    """End what is still running, where nobody is left to do so in order."""
    for process in list(RUNNING.values()):
        end(process)
