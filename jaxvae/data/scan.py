"""One pass over an array in blocks of rows, in memory or on disk."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

BLOCK_BYTES = 2**24


class Seen(NamedTuple):
    """What a pass over the values that were observed found."""

    low: Any
    high: Any
    only_bits: bool
    """Every value is 0 or 1."""
    only_ends: bool
    """Every value is 0 or the full scale that was asked about."""
    not_finite: int
    """How many values float32 does not hold."""
    first: tuple[tuple[int, ...], Any] | None
    """Where the first of these lies, and what it is."""


def blocks(array: Any, *more: Any) -> Iterator[tuple[np.ndarray, ...]]:
    """The rows of arrays of one length, so many at a time that a block of the first has 16 MB."""
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, len(array), rows):
        yield tuple(one[start : start + rows] for one in (array, *more))


def extremes(array: Any) -> tuple[Any, Any]:
    """The smallest and the largest value; NaN where there is one."""
    lows, highs = zip(*((block.min(), block.max()) for (block,) in blocks(array)), strict=True)
    return np.min(lows), np.max(highs)


def zeros(array: Any) -> int:
    """How many values are 0."""
    return sum(int((block == 0).sum()) for (block,) in blocks(array))


def is_bits(array: Any) -> bool:
    """Whether every value is 0 or 1."""
    return all(_only(block, 1) for (block,) in blocks(array))


def look(x: Any, mask: Any | None, full_scale: float) -> Seen:
    """What the values of x [N, *event] are; where a mask is 0 they count as 0."""
    only_bits = only_ends = True
    lows, highs, not_finite, first, start = [], [], 0, None, 0
    for block in blocks(x) if mask is None else blocks(x, mask):
        values = shown(*block)
        lows.append(values.min())
        highs.append(values.max())
        only_bits = only_bits and _only(values, 1)
        if values.dtype == np.uint8:
            only_ends = only_ends and _only(values, full_scale)
        if values.dtype.kind == "f":
            wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
            if first is None and wrong.any():
                at = tuple(int(i) for i in np.argwhere(wrong)[0])
                first = (start + at[0], *at[1:]), values[at]
            not_finite += int(wrong.sum())
        start += len(values)
    return Seen(np.min(lows), np.max(highs), only_bits, only_ends, not_finite, first)


def shown(x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Values with zeros where its mask is 0, whatever was stored there, NaN included."""
    return x if mask is None else np.where(mask == 1, x, np.zeros((), x.dtype))


def _only(values: np.ndarray, high: float) -> bool:
    return bool(((values == 0) | (values == high)).all())


def evenly(size: int, most: int) -> np.ndarray:
    """At most so many of `size` rows, evenly spaced.

    >>> evenly(10, 4).tolist()
    [0, 2, 5, 7]
    """
    count = min(size, most)
    return np.arange(count) * size // count
