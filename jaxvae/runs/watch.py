"""Services of the training loop of one or several runs: progress reports, checks of the data, TensorBoard."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxvae.runs.config import Parts, TrainConfig
from jaxvae.runs.folder import RunFolder, environment
from jaxvae.types import InputError

SAME_DATA = ("sha256", "sizes", "support", "num_categories", "dequantize", "binarize")


class Reporter:
    """A receiver of a run's progress; this one is silent, and the command line has its own."""

    def start(self, config: TrainConfig, first_step: int) -> None:
        """Report that training starts, or resumes, at `first_step`."""

    def progress(self, step: int, steps_per_s: float) -> None:
        """Report the end of a dispatch."""

    def evaluation(self, record: dict[str, Any]) -> None:
        """Report a line of metrics that was written."""

    def say(self, line: str) -> None:
        """Report a message."""

    def examples(self, done: int, total: int) -> None:
        """Report the number of test examples evaluated so far, and the total."""


def require_same_data(run: RunFolder, parts: Parts) -> None:
    """Refuse data that differ from those that the run was trained on.

    Raises:
        InputError: they differ.
    """
    then, now = run.read("data.json"), parts.dataset.record()
    differing = [name for name in SAME_DATA if then[name] != now[name]]
    if differing:
        name = differing[-1]
        raise InputError(
            f"data: {parts.config.data} is not what {run.path} was trained on: {name} was "
            f"{then[name]} and is {now[name]}"
        )


def say_other_versions(run: RunFolder, reporter: Reporter) -> None:
    """Report packages whose version differs from the one at the start of the run."""
    then, now = run.read("environment.json")["versions"], environment()["versions"]
    changed = [
        f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]
    ]
    if changed:
        reporter.say(f"versions changed since the start, so bits may too: {', '.join(changed)}")


@contextlib.contextmanager
def tensorboard(run: RunFolder, first_step: int) -> Iterator[Any]:
    """Open a TensorBoard writer for a run that starts at, or is resumed from, `first_step`."""
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step + 1)
    try:
        yield board
    finally:
        board.close()


def draw(board: Any, record: dict[str, Any]) -> None:
    """Write the numbers of a line of metrics to TensorBoard."""
    for split in record.keys() & {"train", "valid"}:
        for name, value in record[split].items():
            board.add_scalar(f"{name}/{split}", value, record["step"])
