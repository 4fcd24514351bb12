"""Steps in blocks of a number that the compiler knows.

A loop whose number of steps is an argument makes XLA on a GPU ask the device at every step whether
it is the last, and wait for the answer.
"""

from collections.abc import Callable

import jax

from jaxvae.bench.turns import Run

LONGEST = 64
"""Steps of a dispatch, where it is not held up for long by them."""

FLOP, OTHER_FLOP = {"cpu": 2e10}, 2e13
"""Of a dispatch, by platform: some tenths of a second."""


def block_of(flop: int) -> int:
    """How many steps a dispatch takes: a power of two, fewer where a step has many flop.

    Args:
        flop: of a step.
    """
    most = FLOP.get(jax.default_backend(), OTHER_FLOP) / max(flop, 1)
    return 1 << (int(max(1, min(LONGEST, most))).bit_length() - 1)


def in_blocks(block: int, dispatch: Callable[[], object]) -> Run:
    """Whole blocks, dispatched one behind the other; the last one is waited for.

    Args:
        block: steps of a dispatch.
        dispatch: begins one, and returns what comes out of it.
    """

    def run(steps: int) -> int:
        blocks, last = -(-steps // block), None
        for _ in range(blocks):
            last = dispatch()
        jax.block_until_ready(last)
        return blocks * block

    return run
