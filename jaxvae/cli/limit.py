"""`jaxvae train --max-minutes`: the process ends before the time limit, whatever it is doing."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvae import hosts
from jaxvae.cli.commands import Train
from jaxvae.runs.folder import default_name
from jaxvae.runs.stop import TIME_IS_UP, require_minutes

LAST_S = 1.0
"""Seconds before the time limit at which the process is ended."""


def process_begun() -> float:
    """Return the start of this process as a time of `time.monotonic`; now, if the system does not provide it."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic()
    return time.monotonic() - max(0.0, age)


@contextlib.contextmanager
def in_time(command: Any, begun: float) -> Iterator[Any]:
    """End the process at the time limit while inside; yield the command with the minutes that are left.

    Most runs stop by themselves before. But compilation, or drawing of a page, cannot be interrupted; then
    the process just ends, as if it had been killed, which does not damage the run folder.

    Args:
        command: the parsed command.
        begun: the start of the process, a time of `time.monotonic`.

    Raises:
        InputError: the minutes are not a positive number.
    """
    minutes = command.max_minutes if isinstance(command, Train) else None
    if minutes is None:
        yield command
        return
    require_minutes(minutes)
    if command.resume is None and command.name is None:
        command = dataclasses.replace(command, name=default_name(command.config))
    left_s = max(60 * minutes - (time.monotonic() - begun), 1e-3)
    timer = threading.Timer(left_s - LAST_S, _end, [_path(command)])
    timer.daemon = True
    timer.start()
    try:
        yield dataclasses.replace(command, max_minutes=left_s / 60)
    finally:
        timer.cancel()


def _path(command: Train) -> Path:
    return command.resume or command.runs_dir / (command.name or "")


def _end(path: Path) -> None:
    """End the process, whatever its other threads are doing."""
    line = "its minutes were up before the run began; give it more"
    if path.exists():
        line = (
            "stopped by its minutes, and may need more of them; what was saved is intact; "
            f"go on with `jaxvae train --resume {path}`"
        )
    if hosts.is_first():
        print(line, file=sys.stderr, flush=True)
    hosts.leave("its minutes were up", TIME_IS_UP)
    sys.stdout.flush()  # for output redirected to a file
    os._exit(TIME_IS_UP)
