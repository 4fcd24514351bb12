"""The folder of many runs: a run folder each, and what is common to them."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvae.runs.config import Parts
from jaxvae.runs.folder import RunFolder, appearing

FILE = "many.json"
"""What tells a folder of many runs from that of one: their names and, at the end, their numbers."""


class ManyFolder:
    """The files of many runs: a run folder each, what is common to them, and `many.json`.

    `checkpoints/` holds the last state of all of them together, which they go on from; each run's own
    folder has its best and its last one.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.common = RunFolder(Path(path))
        self.path = self.common.path

    @classmethod
    def create(cls, path: Path, parts: Mapping[str, Parts]) -> "ManyFolder":
        """Make a new folder, which holds all its runs from the moment that it appears.

        Raises:
            InputError: it exists, or cannot be made.
        """
        with appearing(path) as half:
            for name, one in parts.items():
                RunFolder.create(half / name, one.config, one.dataset.record())
            cls(half).write(runs=list(parts), failed={})
        return cls(path)

    def runs(self) -> dict[str, RunFolder]:
        """The folder of each run, by its name."""
        return {name: RunFolder.open(self.path / name) for name in self.read()["runs"]}

    def read(self) -> dict[str, Any]:
        """What `many.json` holds."""
        return self.common.read(FILE)

    def write(self, **values: Any) -> None:
        """Write `many.json`."""
        self.common.write(FILE, values)

    @contextlib.contextmanager
    def locked(self) -> Iterator[dict[str, RunFolder]]:
        """Hold the folder and those of its runs.

        Raises:
            InputError: another process holds one of them.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(self.common.locked())
            runs = self.runs()
            for run in runs.values():
                held.enter_context(run.locked())
            yield runs


def is_many(path: Path) -> bool:
    """Whether a folder is one of many runs."""
    return (Path(path) / FILE).is_file()


def first_run(path: Path) -> RunFolder:
    """The run of this folder, or the first one of a folder of many.

    Raises:
        InputError: there is none.
    """
    return next(iter(ManyFolder(path).runs().values())) if is_many(path) else RunFolder.open(path)
