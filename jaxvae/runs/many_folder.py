"""The folder of several runs: a run folder for each, and their common files."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvae.runs.config import Parts
from jaxvae.runs.folder import RunFolder, appearing

FILE = "many.json"
"""The file that only a folder of several runs has: names of the runs and, at the end, their results."""


class ManyFolder:
    """The files of several runs: a run folder for each, common checkpoints, and `many.json`.

    `checkpoints/` holds the last state of all runs together, from which they are resumed; each run's own
    folder has its best and its last checkpoint.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.common = RunFolder(Path(path))
        self.path = self.common.path

    @classmethod
    def create(cls, path: Path, parts: Mapping[str, Parts]) -> "ManyFolder":
        """Make a new folder atomically: as soon as it exists, it contains all its runs.

        Raises:
            InputError: it exists, or cannot be made.
        """
        with appearing(path) as half:
            for name, one in parts.items():
                RunFolder.create(half / name, one.config, one.dataset.record())
            cls(half).write(runs=list(parts), failed={})
        return cls(path)

    def runs(self) -> dict[str, RunFolder]:
        """Open the folder of each run, by name."""
        return {name: RunFolder.open(self.path / name) for name in self.read()["runs"]}

    def read(self) -> dict[str, Any]:
        """Read `many.json`."""
        return self.common.read(FILE)

    def write(self, **values: Any) -> None:
        """Write `many.json`."""
        self.common.write(FILE, values)

    @contextlib.contextmanager
    def locked(self) -> Iterator[dict[str, RunFolder]]:
        """Lock the folder and the folders of its runs.

        Raises:
            InputError: another process has locked one of them.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(self.common.locked())
            runs = self.runs()
            for run in runs.values():
                held.enter_context(run.locked())
            yield runs


def is_many(path: Path) -> bool:
    """Return whether a folder is one of several runs."""
    return (Path(path) / FILE).is_file()


def first_run(path: Path) -> RunFolder:
    """Return the run of this folder, or the first run of a folder of several.

    Raises:
        InputError: there is none.
    """
    return next(iter(ManyFolder(path).runs().values())) if is_many(path) else RunFolder.open(path)
