"""What every reader hands on: arrays as they were found, not yet judged, binarised or split."""

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
        where: the file, folder or name that messages blame.
        origin: where the arrays came from, for humans.
        splits: `{"all": ...}` where the source has no split, else some of train, valid and test;
            each maps to `x` [N, *event] and maybe `label` [N], `mask` [N, *event], `weight` [N],
            `factors` [N, F].
        full_scale: the stored value that means 1, where the source declares one.
        held_out: examples in each of valid and test when the source is one array; None: a tenth.
        num_classes: declared number of classes, where the source declares one.
        kind: "count" or "category" where the source says so; None: judged by dtype and values.
        num_categories: C, for kind "category".
        groups: [N], one number for rows too alike to be parted, of a source without splits.
        notes: what else a user should know of the arrays, for `Dataset.source`.
    """

    name: str
    where: str
    origin: str
    splits: Mapping[str, Arrays]
    full_scale: float | None = None
    held_out: int | None = None
    num_classes: int | None = None
    kind: str | None = None
    num_categories: int | None = None
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def one_line(error: BaseException) -> str:
    """An exception's message on one line of bounded length, to stand within another message."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 300 else f"{line[:297]}..."


def blame(raw: Raw, split: str) -> str:
    """What a message about a split's arrays begins with."""
    return raw.where if split == "all" else f"{raw.where}, {split}"
