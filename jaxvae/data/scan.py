"""Passes over an array in blocks of rows, in memory or on disk."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

BLOCK_BYTES = 2**24


class Seen(NamedTuple):
    """The result of a pass over the observed values."""

    low: Any
    high: Any
    only_bits: bool
    """Every value is 0 or 1."""
    only_ends: bool
    """Every value is 0 or `full_scale`; only tested for uint8."""
    not_finite: int
    """The number of values that float32 cannot represent as finite numbers."""
    first: tuple[tuple[int, ...], Any] | None
    """The index and the value of the first of these."""


def blocks(array: Any, *more: Any) -> Iterator[tuple[np.ndarray, ...]]:
    """Iterate over arrays of the same length in blocks of rows; a block of the first array has about 16 MB."""
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, len(array), rows):
        yield tuple(one[start : start + rows] for one in (array, *more))


def extremes(array: Any) -> tuple[Any, Any]:
    """Return the smallest and the largest value; NaN if there is a NaN."""
    lows, highs = zip(*((block.min(), block.max()) for (block,) in blocks(array)), strict=True)
    return np.min(lows), np.max(highs)


def zeros(array: Any) -> int:
    """Return the number of values that are 0."""
    return sum(int((block == 0).sum()) for (block,) in blocks(array))


def is_bits(array: Any) -> bool:
    """Return whether every value is 0 or 1."""
    return all(_only(block, 1) for (block,) in blocks(array))


def look(x: Any, mask: Any | None, full_scale: float) -> Seen:
    """Scan the values of x [N, *event]; where a mask is 0 they count as 0."""
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
    """Return the values with zeros where the mask is 0, whatever was stored there, NaN included."""
    return x if mask is None else np.where(mask == 1, x, np.zeros((), x.dtype))


def _only(values: np.ndarray, high: float) -> bool:
    return bool(((values == 0) | (values == high)).all())


def evenly(size: int, most: int) -> np.ndarray:
    """Return the numbers of at most `most` evenly spaced rows of `size` rows.

    >>> evenly(10, 4).tolist()
    [0, 2, 5, 7]
    """
    count = min(size, most)
    return np.arange(count) * size // count
