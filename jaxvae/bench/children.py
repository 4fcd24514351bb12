"""Child processes that end with the call that started them, together with their own children."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

RUNNING: dict[int, "subprocess.Popen[Any]"] = {}
"""The running child processes, by process id."""


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Start a process, which is killed at the end of the context.

    Args:
        command: the command line.
        **options: options of `subprocess.Popen`.

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
            with contextlib.suppress(OSError):  # input that it never read
                if pipe is not None:
                    pipe.close()


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and its own children."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    RUNNING.pop(process.pid, None)


def end_all() -> None:
    """Kill all child processes that are still running, for an exit without normal cleanup."""
    for process in list(RUNNING.values()):
        end(process)
