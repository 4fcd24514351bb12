"""`Raw`, the result of every reader: arrays as found, not yet checked, binarised or split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

SPLITS = ("train", "valid", "test")


Arrays: TypeAlias = Mapping[str, Any]
"""The fields of one split by name: NumPy arrays, or rows that stay on disk, with their shape and dtype."""


@dataclass(frozen=True)
class Raw:
    """Arrays as a source stores them.

    Args:
        name: short name of the data.
        where: the file, folder or name to state in error messages.
        origin: the source of the arrays, in words for humans.
        splits: `{"all": ...}` if the source has no splits, else some of train, valid and test;
            each maps to `x` [N, *event] and optionally `label` [N], `mask` [N, *event], `weight` [N],
            `factors` [N, F].
        full_scale: the stored value that means 1, if the source declares one.
        held_out: examples in each of valid and test when the source has no splits; None: a tenth.
        num_classes: the number of classes, if the source declares one.
        kind: "count" or "category" if the source declares it; None: decided by dtype and values.
        num_categories: C, for kind "category".
        groups: [N], a group number for each row, for a source without splits; rows of one group are so
            similar that they must stay in the same split.
        notes: further remarks on the arrays for the user, for `Dataset.source`.
    """

    name: str
    where: str
    origin: str
    splits: Mapping[str, Any]
    full_scale: float | None = None
    held_out: int | None = None
    num_classes: int | None = None
    kind: str | None = None
    num_categories: int | None = None
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line of at most 300 characters, for use within another message."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 300 else f"{line[:297]}..."


def blame(raw: Raw, split: str) -> str:
    """Return the name of a split's arrays at the start of an error message."""
    return raw.where if split == "all" else f"{raw.where}, {split}"
