"""Checks of raw arrays: the kind of their values, and the compact form in which they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxvae.data.fields import DTYPES, missing_note, require_fields
from jaxvae.data.raw import Raw, blame
from jaxvae.data.scan import Seen, extremes, look, shown
from jaxvae.types import InputError

Splits = Mapping[str, Mapping[str, np.ndarray]]

_LARGEST_COUNT = 2**24  # above it float32, in which models compute, skips integers


@dataclass(frozen=True)
class Form:
    """The kind of the values, and how rows are stored.

    Args:
        support: the name of the support.
        scale: the stored value that means 1.
        dtype: the dtype in which x is stored.
        high: for bits, the value by which the source stores a 1: 1 or full scale.
        bounds: the smallest and the largest stored value.
    """

    support: str
    scale: float
    dtype: np.dtype
    high: float
    bounds: tuple[float | np.number, float | np.number]

    def keep(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Convert rows from the form of the source to the stored form."""
        x = shown(arrays["x"], arrays.get("mask"))
        x = (
            (x > 0).astype(np.uint8)
            if self.support == "boolean"
            else x.astype(self.dtype, copy=False)
        )
        others = {
            name: arrays[name].astype(d, copy=False) for name, d in DTYPES.items() if name in arrays
        }
        return {"x": x, **others}

    def holds(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Return whether rows in the form of the source have values of this kind."""
        x = shown(arrays["x"], arrays.get("mask"))
        if self.support == "boolean":
            return bool(((x == 0) | (x == self.high)).all())
        if self.dtype.kind != "f":
            return True
        low, high = x.min(), x.max()
        unit = self.support == "unit_interval"
        return (
            bool(low >= 0 and high <= 1) if unit else bool(np.isfinite(low) and np.isfinite(high))
        )


@dataclass(frozen=True)
class Judged:
    """The result of checking a source's arrays: one form for all splits."""

    event_shape: tuple[int, ...]
    form: Form
    num_classes: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """Checked arrays: `x` in its compact dtype, the other fields of examples, and the kind of the values."""

    splits: Splits
    event_shape: tuple[int, ...]
    support: str
    scale: float
    num_classes: int | None
    num_categories: int | None = None
    notes: tuple[str, ...] = ()


def judge(raw: Raw) -> Contents:
    """Check raw arrays, see `look_at`, and convert them to compact form.

    Raises:
        InputError: an array is empty, has the wrong shape or dtype, or holds values outside every support.
    """
    judged = look_at(raw)
    return Contents(
        {split: judged.form.keep(arrays) for split, arrays in raw.splits.items()},
        judged.event_shape,
        judged.form.support,
        judged.form.scale,
        judged.num_classes,
        raw.num_categories,
        judged.notes,
    )


def look_at(raw: Raw) -> Judged:
    """Check arrays in blocks of rows and decide, over all splits at once, the kind of their values.

    It is the kind that the source declares, if any. Otherwise: bits if every value is 0 or 1 (or, as in
    8-bit images, 0 or 255); grey levels if the dtype is uint8; counts if it is another integer; for
    floats, the unit interval or reals, by their range. Where a mask is 0 the value is ignored and stored
    as 0.

    Raises:
        InputError: an array is empty, has the wrong shape or dtype, or holds values outside every support.
    """
    event_shape = _event_shape(raw)
    require_fields(raw)
    return Judged(event_shape, _form(raw), _num_classes(raw), (*raw.notes, *missing_note(raw)))


def _event_shape(raw: Raw) -> tuple[int, ...]:
    shapes = {split: arrays["x"].shape for split, arrays in raw.splits.items()}
    for split, shape in shapes.items():
        if len(shape) < 2:
            raise InputError(
                f"{blame(raw, split)}: expected [N, *event] with two axes or more, "
                f"got shape {shape}; reshape single numbers to [N, 1]"
            )
        if 0 in shape:
            raise InputError(
                f"{blame(raw, split)}: empty split, expected at least one example and one value "
                f"in each, got shape {shape}"
            )
    if len({shape[1:] for shape in shapes.values()}) > 1:
        found = ", ".join(f"{split} {shape[1:]}" for split, shape in shapes.items())
        raise InputError(f"{raw.where}: expected one event shape in all splits, got {found}")
    return next(iter(shapes.values()))[1:]


def _num_classes(raw: Raw) -> int | None:
    labels = [arrays["label"] for arrays in raw.splits.values() if "label" in arrays]
    if not labels:
        return None
    return raw.num_classes or 1 + max(int(extremes(label)[1]) for label in labels)


def _form(raw: Raw) -> Form:
    """Decide the kind of the values of all splits, and the compact dtype of every `x`."""
    families = {split: _family(raw, split) for split in raw.splits}
    dtype = np.dtype(next(iter(raw.splits.values()))["x"].dtype)
    if raw.kind == "category":
        return Form("category", 1.0, dtype, 1.0, (0, (raw.num_categories or 1) - 1))
    full = raw.full_scale or 255.0
    seen = {s: look(arrays["x"], arrays.get("mask"), full) for s, arrays in raw.splits.items()}
    if raw.kind != "count":
        if all(one.only_bits for one in seen.values()):
            return Form("boolean", 1.0, np.dtype(np.uint8), 1.0, (0, 1))
        if len(set(families.values())) > 1:
            found = ", ".join(f"{split} {a['x'].dtype}" for split, a in raw.splits.items())
            raise InputError(f"{raw.where}: expected one kind of number in all splits, got {found}")
    bounds = min(one.low for one in seen.values()), max(one.high for one in seen.values())
    match families[next(iter(families))] if raw.kind is None else raw.kind:
        case "grey":
            if all(one.only_ends for one in seen.values()):
                return Form("boolean", 1.0, np.dtype(np.uint8), full, (0, 1))
            return Form("unit_interval", full, dtype, full, bounds)
        case "count":
            return _counts(raw, seen, bounds)
        case _:
            return _reals(raw, seen, bounds)


def _family(raw: Raw, split: str) -> str:
    dtype = raw.splits[split]["x"].dtype
    if raw.kind == "count" and dtype.kind not in "iu":
        raise InputError(
            f"{blame(raw, split)}: expected counts in an integer array, got dtype {dtype}; "
            "convert whole numbers with astype('int32'), or name real values 'x'"
        )
    if dtype == np.uint8:
        return "grey"
    if dtype.kind in "biuf":
        return {"b": "bit", "i": "count", "u": "count", "f": "real"}[dtype.kind]
    raise InputError(
        f"{blame(raw, split)}: expected bool, integer or float numbers, got dtype {dtype}"
    )


def _counts(raw: Raw, seen: Mapping[str, Seen], bounds: tuple[Any, Any]) -> Form:
    for split, one in seen.items():
        if one.low < 0:
            raise InputError(
                f"{blame(raw, split)}: expected counts from 0 up in an integer array, "
                f"got {one.low}; convert to float32 if these are real values"
            )
        if one.high > _LARGEST_COUNT:
            raise InputError(
                f"{blame(raw, split)}: expected counts up to {_LARGEST_COUNT:,}, which float32 "
                f"holds exactly, got {one.high:,}; convert to float32 if these are real values"
            )
    small = bounds[1] <= np.iinfo(np.uint16).max
    dtype = np.dtype(np.uint16 if small else np.int32)
    return Form("nonnegative_integer", 1.0, dtype, 1.0, bounds)


def _reals(raw: Raw, seen: Mapping[str, Seen], bounds: tuple[Any, Any]) -> Form:
    for split, one in seen.items():
        if one.first is not None:
            at, value = one.first
            raise InputError(
                f"{blame(raw, split)}: expected finite float32 values, got {one.not_finite:,} that "
                f"are not, the first ({value}) at index {at}; drop or impute them, "
                "or add an array 'mask' to the .npz, 1 where a value was observed"
            )
    unit = bounds[0] >= 0 and bounds[1] <= 1
    support = "unit_interval" if unit else "real"
    return Form(support, 1.0, np.dtype(np.float32), 1.0, bounds)
