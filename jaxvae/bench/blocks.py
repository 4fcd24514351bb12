"""Steps in blocks of a size known to the compiler.

For a loop whose number of steps is an argument, XLA on a GPU asks the device after every step whether
it was the last, and waits for the answer.
"""

from collections.abc import Callable

import jax

from jaxvae.bench.turns import Run

LONGEST = 64
"""The largest number of steps in a dispatch."""

FLOP, OTHER_FLOP = {"cpu": 2e10}, 2e13
"""The largest flop of a dispatch, by platform: some tenths of a second."""


def block_of(flop: int) -> int:
    """Choose the number of steps in a dispatch: a power of two, smaller if a step has many flop.

    Args:
        flop: the flop of a step.
    """
    most = FLOP.get(jax.default_backend(), OTHER_FLOP) / max(flop, 1)
    return 1 << (int(max(1, min(LONGEST, most))).bit_length() - 1)


def in_blocks(block: int, dispatch: Callable[[], object]) -> Run:
    """Return a `Run` that dispatches whole blocks one after the other, and waits for the last one.

    Args:
        block: the number of steps in a dispatch.
        dispatch: starts one dispatch, and returns its output.
    """

    def run(steps: int) -> int:
        blocks, last = -(-steps // block), None
        for _ in range(blocks):
            last = dispatch()
        jax.block_until_ready(last)
        return blocks * block

    return run
