"""The growing record of a benchmark: thread-safe, and written to disk atomically."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from jaxvae.types import InputError


class Findings:
    """A growing record; one thread adds to it while another may read it.

    Args:
        first: the initial content.
        path: the file for `write`, if any.
    """

    def __init__(self, first: dict[str, Any], path: Path | None = None):
        self._record, self.path = {**first, "left_out": []}, path
        self._lock = threading.Lock()
        self.waiting: list[str] = []
        """The names of the current part and of those after it."""

    def put(self, **parts: Any) -> None:
        """Add parts by name; a mapping is merged into an existing mapping."""
        with self._lock:
            for name, part in parts.items():
                held = self._record.get(name)
                if isinstance(held, dict) and isinstance(part, dict):
                    part = {**held, **part}
                self._record[name] = part

    def leave_out(self, line: str) -> None:
        """Add a line that says what was left out, and why."""
        with self._lock:
            self._record["left_out"] = [*self._record["left_out"], line]

    def record(self) -> dict[str, Any]:
        """Return a copy of the record so far."""
        with self._lock:
            return dict(self._record)

    def write(self) -> None:
        """Write the file atomically.

        Raises:
            InputError: it cannot be written.
        """
        if self.path is None:
            return
        half = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            half.write_text(json.dumps(self.record(), indent=2) + "\n")
            os.replace(half, self.path)
        except OSError as error:
            raise InputError(f"out: cannot write to {self.path}: {error.strerror}") from None
        finally:
            half.unlink(missing_ok=True)
