"""What the numbers are: checks of raw arrays, and the compact form in which they are kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxvae.data.fields import missing_note, observed_values, other_fields
from jaxvae.data.raw import Raw, blame
from jaxvae.types import InputError

Splits = Mapping[str, Mapping[str, np.ndarray]]

_LARGEST_COUNT = 2**24  # above it float32, in which models compute, skips integers


@dataclass(frozen=True)
class Contents:
    """Judged arrays: `x` in its compact dtype, what else examples bring, what the values are."""

    splits: Splits
    event_shape: tuple[int, ...]
    support: str
    scale: float
    num_classes: int | None
    num_categories: int | None = None
    notes: tuple[str, ...] = ()


def judge(raw: Raw) -> Contents:
    """Check raw arrays and decide, over all splits at once, what their values are.

    What the source says, if it does. Otherwise bits where every value is 0 or 1 (or, as 8-bit
    images keep them, 0 or 255); grey levels where the dtype is uint8; counts where it is another
    integer; reals or the unit interval where it is a float, by its range. Where a mask is 0 the
    value is left out of this and stored as 0.

    Raises:
        InputError: an array is empty, of the wrong shape or dtype, or holds values of no support.
    """
    event_shape = _event_shape(raw)
    fields = other_fields(raw)
    support, scale, xs = _compact(raw, observed_values(raw, fields))
    return Contents(
        {split: {"x": x, **fields[split]} for split, x in xs.items()},
        event_shape,
        support,
        scale,
        _num_classes(raw, {split: one["label"] for split, one in fields.items() if "label" in one}),
        raw.num_categories,
        (*raw.notes, *missing_note(fields)),
    )


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


def _num_classes(raw: Raw, labels: Mapping[str, np.ndarray]) -> int | None:
    if not labels:
        return None
    return raw.num_classes or 1 + max(int(label.max()) for label in labels.values())


def _compact(raw: Raw, xs: dict[str, np.ndarray]) -> tuple[str, float, dict[str, np.ndarray]]:
    """The support's name, the scale, and every `x` in its compact dtype."""
    families = {split: _family(raw, split) for split in xs}
    if raw.kind == "category":
        return "category", 1.0, dict(xs)
    if raw.kind == "count":
        return _compact_counts(raw, xs)
    if all(_only(x, 0, 1) for x in xs.values()):
        return "boolean", 1.0, {split: x.astype(np.uint8) for split, x in xs.items()}
    if len(set(families.values())) > 1:
        found = ", ".join(f"{split} {x.dtype}" for split, x in xs.items())
        raise InputError(f"{raw.where}: expected one kind of number in all splits, got {found}")
    match next(iter(families.values())):
        case "grey":
            return _compact_grey(raw, xs)
        case "count":
            return _compact_counts(raw, xs)
        case _:
            return _compact_reals(raw, xs)


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


def _compact_grey(raw: Raw, xs: Mapping[str, np.ndarray]):
    scale = raw.full_scale or 255.0
    if all(_only(x, 0, int(scale)) for x in xs.values()):
        return "boolean", 1.0, {split: (x > 0).astype(np.uint8) for split, x in xs.items()}
    return "unit_interval", scale, dict(xs)


def _compact_counts(raw: Raw, xs: Mapping[str, np.ndarray]):
    for split, x in xs.items():
        if x.min() < 0:
            raise InputError(
                f"{blame(raw, split)}: expected counts from 0 up in an integer array, "
                f"got {x.min()}; convert to float32 if these are real values"
            )
        if x.max() > _LARGEST_COUNT:
            raise InputError(
                f"{blame(raw, split)}: expected counts up to {_LARGEST_COUNT:,}, which float32 "
                f"holds exactly, got {x.max():,}; convert to float32 if these are real values"
            )
    small = all(x.max() <= np.iinfo(np.uint16).max for x in xs.values())
    dtype = np.uint16 if small else np.int32
    return "nonnegative_integer", 1.0, {split: x.astype(dtype) for split, x in xs.items()}


def _compact_reals(raw: Raw, xs: Mapping[str, np.ndarray]):
    for split, x in xs.items():
        _require_finite(raw, split, x)
    unit = all(x.min() >= 0 and x.max() <= 1 for x in xs.values())
    support = "unit_interval" if unit else "real"
    return support, 1.0, {split: x.astype(np.float32) for split, x in xs.items()}


def _require_finite(raw: Raw, split: str, x: np.ndarray) -> None:
    finite = np.abs(x) <= np.finfo(np.float32).max
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(
            f"{blame(raw, split)}: expected finite float32 values, got {(~finite).sum():,} that "
            f"are not, the first ({x[first]}) at index {first}; drop or impute them, "
            "or add an array 'mask' to the .npz, 1 where a value was observed"
        )


def _only(x: np.ndarray, low: int, high: int) -> bool:
    return bool(((x == low) | (x == high)).all())
