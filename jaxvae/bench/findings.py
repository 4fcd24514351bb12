"""What a call has found so far: read while more is found, and on the disk whole at any time."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from jaxvae.types import InputError


class Findings:
    """A record that grows; one thread adds to it and another may read it.

    Args:
        first: what it begins with.
        path: the file that `write` writes, if any.
    """

    def __init__(self, first: dict[str, Any], path: Path | None = None):
        self._record, self.path = {**first, "left_out": []}, path
        self._lock = threading.Lock()
        self.waiting: list[str] = []
        """What is under way and what comes after it, by name."""

    def put(self, **parts: Any) -> None:
        """Parts by name; mappings that are there already take up what is new in them."""
        with self._lock:
            for name, part in parts.items():
                held = self._record.get(name)
                if isinstance(held, dict) and isinstance(part, dict):
                    part = {**held, **part}
                self._record[name] = part

    def leave_out(self, line: str) -> None:
        """Say what is not there, and why."""
        with self._lock:
            self._record["left_out"] = [*self._record["left_out"], line]

    def record(self) -> dict[str, Any]:
        """All of it, as it stands."""
        with self._lock:
            return dict(self._record)

    def write(self) -> None:
        """Write the file, whole or not at all.

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
