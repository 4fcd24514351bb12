"""The time of one `jaxvae train` with an empty compilation cache."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvae.bench.children import child
from jaxvae.bench.deadline import Deadline


class DidNotEnd(Exception):
    """An error: the run exceeded the time limit, or failed; the message is one line."""


def start_up(options: Sequence[str] = (), *, deadline: Deadline | None = None) -> dict[str, Any]:
    """Time a training run on the digits in a separate process, with an empty compilation cache.

    Args:
        options: further options of `jaxvae train`.
        deadline: the time limit.

    Returns:
        `command`; `seconds` from its start to its end, including the report; and `first_record_s`, the
        seconds until its first line of metrics.

    Raises:
        DidNotEnd: it failed, or exceeded the time limit.
    """
    deadline = deadline or Deadline()
    with (
        tempfile.TemporaryDirectory(prefix="jaxvae-bench-") as folder,
        contextlib.ExitStack() as held,
    ):
        errors = held.enter_context(tempfile.TemporaryFile())
        environment = os.environ | {
            "JAXVAE_COMPILATION_CACHE": str(Path(folder) / "xla"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process holds the memory of a GPU
        }
        words = ["train", *options]
        command = [sys.executable, "-m", "jaxvae", *words, "--runs-dir", folder, "--name", "start"]
        begin = time.perf_counter()
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors}
        process = held.enter_context(child(command, env=environment, **silent))
        metrics, first = Path(folder) / "start" / "metrics.jsonl", None
        while process.poll() is None:
            if not deadline.allows(0):
                raise DidNotEnd("the time was up before it ended")
            if first is None and metrics.exists() and metrics.stat().st_size:
                first = time.perf_counter() - begin
            time.sleep(0.02)
        if process.returncode or first is None:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise DidNotEnd(said[-1] if said else f"it ended with status {process.returncode}")
        seconds = time.perf_counter() - begin
    return {
        "command": " ".join(["jaxvae", *words]),
        "seconds": seconds,
        "first_record_s": first,
    }
