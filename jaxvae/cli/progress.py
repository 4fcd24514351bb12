"""Progress of a run on the terminal: a bar if stderr is a terminal, and plain lines."""

import sys
from typing import Any

from tqdm import tqdm

from jaxvae.runs.config import TrainConfig
from jaxvae.runs.train import Reporter


class Terminal(Reporter):
    """A progress bar on stderr with nats, steps/s and time left, and one line per evaluation on stdout."""

    def __init__(self):
        self.bar: tqdm | None = None
        self.nats = ""
        self.total_steps = 0
        self.steps_per_s = 0.0

    def start(self, config: TrainConfig, first_step: int) -> None:
        """Open the bar."""
        self.total_steps = config.total_steps
        if first_step == config.total_steps:
            self.say("training has ended already")
            return
        if first_step:
            self.say(f"going on from step {first_step:,} of {config.total_steps:,}")
        self.bar = tqdm(
            total=config.total_steps,
            initial=first_step,
            unit="step",
            desc="compiling",
            disable=None,
            dynamic_ncols=True,
        )

    def progress(self, step: int, steps_per_s: float) -> None:
        """Move the bar, without fetching anything from the device."""
        if self.bar is not None:
            self.bar.set_description(f"training {self.nats}", refresh=False)
            self.bar.update(step - self.bar.n)
        self.steps_per_s = steps_per_s

    def evaluation(self, record: dict[str, Any]) -> None:
        """Print a line, and show the nats in the bar too."""
        loss = {split: record[split]["loss"] for split in ("train", "valid") if split in record}
        self.nats = " ".join(f"{split} {nats:.2f}" for split, nats in loss.items()) + " nats"
        left = (self.total_steps - record["step"]) / self.steps_per_s
        self.say(
            f"step {record['step']:>7,}/{self.total_steps:,}   loss: {self.nats}   "
            f"{self.steps_per_s:,.0f} steps/s   {left:,.0f} s left"
        )
        if record["step"] == self.total_steps:
            self.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def examples(self, done: int, total: int) -> None:
        """Move the bar of an evaluation."""
        if self.bar is None:
            self.bar = tqdm(
                total=total, unit="example", desc="evaluating", disable=None, dynamic_ncols=True
            )
        self.bar.update(done - self.bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
