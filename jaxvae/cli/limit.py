"""`jaxvae train --max-minutes`: whatever it is doing, the command has ended before they are up."""

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
"""Seconds before the end at which nobody waits any longer."""


def process_begun() -> float:
    """When this process was started, of `time.monotonic`; now, where the system does not say."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic()
    return time.monotonic() - max(0.0, age)


@contextlib.contextmanager
def in_time(command: Any, begun: float) -> Iterator[Any]:
    """Inside, the process ends when its minutes are up; the command to run then has those that are left.

    Most runs leave in good order before. But nothing can be asked of a program while it compiles, or of a
    page while it is drawn; there the process just ends, as if it had been killed, which a run outlives.

    Args:
        command: as parsed.
        begun: when the process was started, of `time.monotonic`.

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
    """End the process, whatever its other threads are at."""
    line = "its minutes were up before the run began; give it more"
    if path.exists():
        line = (
            "stopped by its minutes, and may need more of them; what was saved is intact; "
            f"go on with `jaxvae train --resume {path}`"
        )
    if hosts.is_first():
        print(line, file=sys.stderr, flush=True)
    hosts.leave("its minutes were up", TIME_IS_UP)
    sys.stdout.flush()  # what a file was to get
    os._exit(TIME_IS_UP)
