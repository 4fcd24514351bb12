"""Data sets whose training rows stay on disk: the check of their values, their splits, and reading of rows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxvae.data.contents import Contents, look_at
from jaxvae.data.on_disk import AllBut, Bounds, OnDisk
from jaxvae.data.raw import Raw, blame
from jaxvae.data.records import Records
from jaxvae.data.scan import evenly
from jaxvae.data.splits import held_out, stated
from jaxvae.types import InputError

JUDGED_RECORDS = 1000
MOST_HELD_OUT = 10_000


class Source:
    """A source on disk, with the kind of its values.

    Arrays are checked in one pass over their files. For records, a full pass would have to decode all of them,
    so evenly spaced ones are checked first, and every record is checked against the result when it is read.

    Args:
        raw: a source with `NpyFile`s or `Records` in place of arrays.

    Raises:
        InputError: as `look_at`.
    """

    def __init__(self, raw: Raw):
        self._raw = raw
        self._sizes = {split: _size(rows) for split, rows in raw.splits.items()}
        self._of_records = any(isinstance(rows, Records) for rows in raw.splits.values())
        judged = None if self._of_records else look_at(raw)
        some = {
            split: self._stored(split, evenly(n, JUDGED_RECORDS))
            for split, n in self._sizes.items()
        }
        judged = judged or look_at(dataclasses.replace(raw, splits=some))
        self._form = judged.form
        note = f"judged by {JUDGED_RECORDS:,} records of each split"
        self.contents = Contents(
            {split: self._form.keep(rows) for split, rows in some.items()},
            judged.event_shape,
            judged.form.support,
            judged.form.scale,
            judged.num_classes,
            raw.num_categories,
            (*judged.notes, note) if self._of_records else judged.notes,
        )
        """The contents, with only some rows of each split."""

    def divide(
        self, valid_size: int | None, *, threshold: bool
    ) -> tuple[dict[str, Mapping[str, Any]], str]:
        """Return train on disk, valid and test in memory, and a phrase that describes how they were split.

        Raises:
            InputError: as `jaxvae.data.splits.divide`.
        """
        of_train = "all" if "all" in self._sizes else "train"
        held, said = held_out(self._raw, self._sizes, valid_size, most=MOST_HELD_OUT)
        left = AllBut(
            self._sizes[of_train], np.sort(np.concatenate([np.zeros(0, int), *held.values()]))
        )
        splits: dict[str, Mapping[str, Any]] = {
            "train": self._on_disk(of_train, left, threshold=threshold)
        }
        for split in ("valid", "test"):
            if split in held:
                splits[split] = self._read(of_train, threshold, held[split])
            elif split in self._sizes:
                splits[split] = self._read(split, threshold, np.arange(self._sizes[split]))
        sizes = {split: len(rows["x"]) for split, rows in splits.items()}
        return splits, f"{stated(sizes, said)}; train stays on disk"

    def _on_disk(self, split: str, left: AllBut, *, threshold: bool) -> OnDisk:
        rows: Any = self._raw.splits[split]
        paths = [file.path for file in rows.values()] if isinstance(rows, Mapping) else rows.files
        bounds = {"x": Bounds(*((0, 1) if threshold else self._bounds()))}
        if self.contents.num_classes is not None:
            bounds["label"] = Bounds(0, self.contents.num_classes - 1)

        def read(numbers: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
            return self._read(split, threshold, left(numbers))

        return OnDisk(self._raw.where, left.size, read, bounds, tuple(paths))

    def _bounds(self) -> tuple[float | np.number, float | np.number]:
        if self._of_records and self._form.support == "unit_interval":
            return 0, self._form.scale
        return self._form.bounds

    def _read(
        self, split: str, threshold: bool, rows: Int[np.ndarray, "n"]
    ) -> dict[str, np.ndarray]:
        stored = self._stored(split, rows)
        if not self._form.holds(stored):
            raise InputError(
                f"{blame(self._raw, split)}: expected {self._form.support} values, as in the rows looked "
                f"at first, got others among {len(rows):,} rows; load the data without stream to judge all"
            )
        kept = self._form.keep(stored)
        if threshold:
            kept["x"] = (kept["x"] > self._form.scale / 2).astype(np.uint8)
        return kept

    def _stored(self, split: str, rows: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
        source: Any = self._raw.splits[split]
        if isinstance(source, Records):
            return source.read(rows)
        return {name: file[rows] for name, file in source.items()}


def _size(rows: Any) -> int:
    return len(rows) if isinstance(rows, Records) else len(rows["x"])
