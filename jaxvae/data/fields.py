"""The optional fields of examples besides x: labels, masks of observed values, weights, factors."""

from typing import Any

import numpy as np

from jaxvae.data.raw import Raw, blame
from jaxvae.data.scan import extremes, is_bits, zeros
from jaxvae.types import InputError

DTYPES = {"label": np.int32, "mask": np.uint8, "weight": np.float32, "factors": np.int32}
"""The optional fields of examples besides x, with their stored dtypes."""

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def require_fields(raw: Raw) -> None:
    """Check the `label`, `mask`, `weight` and `factors` of every split.

    Raises:
        InputError: the shape of a field does not match `x`, or its values are not usable.
    """
    checks = {"label": _label, "mask": _mask, "weight": _weight, "factors": _factors}
    for split, arrays in raw.splits.items():
        for name, check in checks.items():
            if name in arrays:
                check(raw, split)
    counts = {s: a["factors"].shape[1] for s, a in raw.splits.items() if "factors" in a}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{raw.where} factors: expected as many in all splits, got {found}")


def missing_note(raw: Raw) -> tuple[str, ...]:
    """Return a phrase with the number of missing values; an empty tuple without masks."""
    masks = [arrays["mask"] for arrays in raw.splits.values() if "mask" in arrays]
    missing, values = sum(map(zeros, masks)), sum(int(np.prod(mask.shape)) for mask in masks)
    return (f"{missing:,} of {values:,} values missing",) if masks else ()


def _label(raw: Raw, split: str) -> None:
    label, count = raw.splits[split]["label"], len(raw.splits[split]["x"])
    whose = f"{blame(raw, split)} labels"
    if label.shape != (count,):
        raise InputError(
            f"{whose}: expected one label for each of {count:,} examples, got shape {label.shape}"
        )
    if label.dtype.kind not in "iu":
        raise InputError(
            f"{whose}: expected integers, got {label.dtype}; convert them to class numbers 0, 1, .."
        )
    low, high = extremes(label)
    if low < 0 or high > np.iinfo(np.int32).max:
        raise InputError(
            f"{whose}: expected class numbers from 0 up, got {low} to {high}; "
            "leave unlabelled examples in a split of their own"
        )


def _mask(raw: Raw, split: str) -> None:
    mask, x = raw.splits[split]["mask"], raw.splits[split]["x"]
    whose = f"{blame(raw, split)} mask"
    if mask.shape != x.shape:
        raise InputError(
            f"{whose}: expected one number for each value of x, shape {x.shape}, "
            f"got shape {mask.shape}"
        )
    if mask.dtype.kind not in "biuf" or not is_bits(mask):
        raise InputError(
            f"{whose}: expected 1 where a value was observed and 0 where not, got {_span(mask)}; "
            "compare with numpy, as in mask = ~numpy.isnan(x)"
        )
    if not extremes(mask)[1]:
        raise InputError(
            f"{whose}: expected some observed values, got zeros only; 1 means observed"
        )


def _weight(raw: Raw, split: str) -> None:
    weight, count = raw.splits[split]["weight"], len(raw.splits[split]["x"])
    whose = f"{blame(raw, split)} weight"
    if weight.shape != (count,):
        raise InputError(
            f"{whose}: expected one weight for each of {count:,} examples, got shape {weight.shape}"
        )
    if weight.dtype.kind not in "iuf":
        raise InputError(f"{whose}: expected positive numbers, got {weight.dtype}")
    low, high = map(float, extremes(weight))
    if not (low >= _SMALLEST and high <= _LARGEST):
        raise InputError(
            f"{whose}: expected positive finite numbers, got {_span(weight)}; "
            "drop the examples that should not count"
        )


def _factors(raw: Raw, split: str) -> None:
    factors, count = raw.splits[split]["factors"], len(raw.splits[split]["x"])
    whose = f"{blame(raw, split)} factors"
    if factors.ndim != 2 or len(factors) != count or 0 in factors.shape:
        raise InputError(
            f"{whose}: expected [N, F], one row for each of {count:,} examples and one column or "
            f"more, got shape {factors.shape}"
        )
    if factors.dtype.kind not in "iu":
        raise InputError(
            f"{whose}: expected integers, got {factors.dtype}; number the values of each factor "
            "0, 1, .."
        )
    low, high = extremes(factors)
    if low < 0 or high > np.iinfo(np.int32).max:
        raise InputError(f"{whose}: expected numbers of values from 0 up, got {low} to {high}")


def _span(values: Any) -> str:
    if values.dtype.kind not in "biuf":
        return str(values.dtype)
    low, high = extremes(values)
    return f"{values.dtype} from {low} to {high}"
