"""The library's own feed and loop, as `jaxvae train` runs them: a step with all the work around it.

That work is to gather rows of grey levels in the order of an epoch, binarise them, and merge metrics.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.bench.blocks import LONGEST
from jaxvae.bench.turns import Run
from jaxvae.data import Dataset
from jaxvae.data.dataset import SUPPORTS
from jaxvae.training.blocks import choose_block_steps
from jaxvae.training.feeds import Feed, InMemory
from jaxvae.training.step import Step, TrainState

SHAPE = (28, 28)


class Loop(NamedTuple):
    """A training loop that has run its first block of steps."""

    run: Run
    compile_s: float
    """Seconds until the end of that block: tracing, compiling and placing the rows."""


@cache
def grey_rows(rows: int) -> Dataset:
    """Return random grey levels of MNIST's shape, binarised anew at every use."""
    x = np.random.default_rng(1).integers(0, 256, (rows, *SHAPE), np.uint8)
    return Dataset(
        name="grey",
        source="uniform random grey levels",
        splits={"train": {"x": x}},
        event_shape=SHAPE,
        support=SUPPORTS["boolean"],
        binarize="dynamic",
        scale=255.0,
    )


class Driver:
    """Steps of a feed, divided into dispatches as in training; only the last dispatch is waited for.

    Args:
        feed: a feed of one model, or of several.
        state: the initial state; it is copied, since the feed donates its buffers.
    """

    def __init__(self, feed: Feed, state: TrainState):
        self.feed, self.state = feed, jax.tree.map(jnp.copy, state)
        self.metrics, self.step = feed.no_metrics(state), int(state.step)

    def run(self, steps: int) -> int:
        """Run this many more steps, rounded up to whole blocks, and return their number."""
        begin, block = self.step, self.feed.block_steps
        end = begin + -(-steps // block) * block
        while self.step < end:
            count = min(end - self.step, self.feed.longest(self.step))
            self.state, self.metrics = self.feed.run(self.state, self.metrics, self.step, count)
            self.step += count
        jax.block_until_ready((self.state, self.metrics))
        return end - begin


def prepare_loop(step: Step, state: TrainState, batch_size: int, rows: int) -> Loop:
    """Compile the loop over rows in memory.

    Args:
        step: the same step that is timed alone.
        state: the initial state.
        batch_size: examples per step.
        rows: number of rows of the data set.
    """
    data, block = grey_rows(rows), block_steps()
    return first_block(
        lambda: InMemory(step, data, batch_size=batch_size, block_steps=block), state
    )


def block_steps() -> int:
    """Return the number of steps in a block of a run, if evaluations are far enough apart."""
    return choose_block_steps(0, LONGEST)


def first_block(feed: Callable[[], Feed], state: TrainState) -> Loop:
    """Make the feed and run one block of steps."""
    begin = time.perf_counter()
    driver = Driver(feed(), state)
    driver.run(1)
    return Loop(driver.run, time.perf_counter() - begin)
