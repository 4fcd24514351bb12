"""The library's own feed and loop, as `jaxvae train` runs them: what a step costs with all that stands around it.

Rows of grey levels are gathered in the order of an epoch and binarised anew, and metrics are merged.
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
    """A loop that has taken its first block of steps."""

    run: Run
    compile_s: float
    """Until that was taken: tracing, compiling and placing the rows, seconds."""


@cache
def grey_rows(rows: int) -> Dataset:
    """Random grey levels of MNIST's shape, of which every use draws bits anew."""
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
    """Steps of a feed as training deals them out: no dispatch is longer than the feed allows, none is waited for but the last.

    Args:
        feed: of one model, or of several.
        state: of the first step; it is copied, since a feed uses the buffers that it is given.
    """

    def __init__(self, feed: Feed, state: TrainState):
        self.feed, self.state = feed, jax.tree.map(jnp.copy, state)
        self.metrics, self.step = feed.no_metrics(state), int(state.step)

    def run(self, steps: int) -> int:
        """So many steps more, rounded up to whole blocks."""
        begin, block = self.step, self.feed.block_steps
        end = begin + -(-steps // block) * block
        while self.step < end:
            count = min(end - self.step, self.feed.longest(self.step))
            self.state, self.metrics = self.feed.run(self.state, self.metrics, self.step, count)
            self.step += count
        jax.block_until_ready((self.state, self.metrics))
        return end - begin


def prepare_loop(step: Step, state: TrainState, batch_size: int, rows: int) -> Loop:
    """The loop over rows in memory, compiled.

    Args:
        step: the same that is timed bare.
        state: before the first step.
        batch_size: examples a step.
        rows: how many the data set has.
    """
    data, block = grey_rows(rows), block_steps()
    return first_block(
        lambda: InMemory(step, data, batch_size=batch_size, block_steps=block), state
    )


def block_steps() -> int:
    """The steps in a block of a run, where evaluations lie far enough apart."""
    return choose_block_steps(0, LONGEST)


def first_block(feed: Callable[[], Feed], state: TrainState) -> Loop:
    """Make the feed and take a block of steps."""
    begin = time.perf_counter()
    driver = Driver(feed(), state)
    driver.run(1)
    return Loop(driver.run, time.perf_counter() - begin)
