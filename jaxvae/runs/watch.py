"""What stands around the loop of a run, of one or of many: who is told, what is checked."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxvae.runs.config import Parts, TrainConfig
from jaxvae.runs.folder import RunFolder, environment
from jaxvae.types import InputError

SAME_DATA = ("sha256", "sizes", "support", "num_categories", "dequantize", "binarize")


class Reporter:
    """What a run tells while it goes on; this one is silent. The command line has its own."""

    def start(self, config: TrainConfig, first_step: int) -> None:
        """Training begins, or goes on, at `first_step`."""

    def progress(self, step: int, steps_per_s: float) -> None:
        """A dispatch ended."""

    def evaluation(self, record: dict[str, Any]) -> None:
        """A line of metrics was written."""

    def say(self, line: str) -> None:
        """Something worth knowing happened."""

    def examples(self, done: int, total: int) -> None:
        """So many test examples have been evaluated."""


def require_same_data(run: RunFolder, parts: Parts) -> None:
    """Make sure that the data are those that the run was trained on.

    Raises:
        InputError: they are not.
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
    """Tell where a package is not of the version that the run began with."""
    then, now = run.read("environment.json")["versions"], environment()["versions"]
    changed = [
        f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]
    ]
    if changed:
        reporter.say(f"versions changed since the start, so bits may too: {', '.join(changed)}")


@contextlib.contextmanager
def tensorboard(run: RunFolder, first_step: int) -> Iterator[Any]:
    """TensorBoard's writer for a run that goes on from this step."""
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step + 1)
    try:
        yield board
    finally:
        board.close()


def draw(board: Any, record: dict[str, Any]) -> None:
    """The numbers of a line of metrics, for TensorBoard."""
    for split in record.keys() & {"train", "valid"}:
        for name, value in record[split].items():
            board.add_scalar(f"{name}/{split}", value, record["step"])
