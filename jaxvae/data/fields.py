"""What examples bring besides x: labels, masks of what was observed, weights, factors."""

from collections.abc import Mapping

import numpy as np

from jaxvae.data.raw import Raw, blame
from jaxvae.types import InputError


def other_fields(raw: Raw) -> dict[str, dict[str, np.ndarray]]:
    """The checked `label` and `factors` (int32), `mask` (uint8) and `weight` (float32) of every split.

    Raises:
        InputError: one of them has another shape than its examples ask for, or unusable values.
    """
    checks = {"label": _label, "mask": _mask, "weight": _weight, "factors": _factors}
    fields = {
        split: {name: check(raw, split) for name, check in checks.items() if name in arrays}
        for split, arrays in raw.splits.items()
    }
    counts = {split: one["factors"].shape[1] for split, one in fields.items() if "factors" in one}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{raw.where} factors: expected as many in all splits, got {found}")
    return fields


def observed_values(
    raw: Raw, fields: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Every `x` with zeros where its mask is 0, whatever was stored there, NaN included."""
    xs = {}
    for split, arrays in raw.splits.items():
        x, mask = arrays["x"], fields[split].get("mask")
        xs[split] = x if mask is None else np.where(mask == 1, x, np.zeros((), x.dtype))
    return xs


def missing_note(fields: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[str, ...]:
    """How many values the masks leave out, in a phrase; nothing where there is no mask."""
    masks = [one["mask"] for one in fields.values() if "mask" in one]
    missing = sum(int((mask == 0).sum()) for mask in masks)
    return (f"{missing:,} of {sum(m.size for m in masks):,} values missing",) if masks else ()


def _label(raw: Raw, split: str) -> np.ndarray:
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
    if label.min() < 0 or label.max() > np.iinfo(np.int32).max:
        raise InputError(
            f"{whose}: expected class numbers from 0 up, got {label.min()} to {label.max()}; "
            "leave unlabelled examples in a split of their own"
        )
    return label.astype(np.int32)


def _mask(raw: Raw, split: str) -> np.ndarray:
    mask, x = raw.splits[split]["mask"], raw.splits[split]["x"]
    whose = f"{blame(raw, split)} mask"
    if mask.shape != x.shape:
        raise InputError(
            f"{whose}: expected one number for each value of x, shape {x.shape}, "
            f"got shape {mask.shape}"
        )
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise InputError(
            f"{whose}: expected 1 where a value was observed and 0 where not, got {_span(mask)}; "
            "compare with numpy, as in mask = ~numpy.isnan(x)"
        )
    if not mask.any():
        raise InputError(
            f"{whose}: expected some observed values, got zeros only; 1 means observed"
        )
    return mask.astype(np.uint8)


def _weight(raw: Raw, split: str) -> np.ndarray:
    weight, count = raw.splits[split]["weight"], len(raw.splits[split]["x"])
    whose = f"{blame(raw, split)} weight"
    if weight.shape != (count,):
        raise InputError(
            f"{whose}: expected one weight for each of {count:,} examples, got shape {weight.shape}"
        )
    if weight.dtype.kind not in "iuf":
        raise InputError(f"{whose}: expected positive numbers, got {weight.dtype}")
    narrow = weight.astype(np.float64)
    if not ((narrow >= np.finfo(np.float32).tiny) & (narrow <= np.finfo(np.float32).max)).all():
        raise InputError(
            f"{whose}: expected positive finite numbers, got {_span(weight)}; "
            "drop the examples that should not count"
        )
    return weight.astype(np.float32)


def _factors(raw: Raw, split: str) -> np.ndarray:
    factors, count = raw.splits[split]["factors"], len(raw.splits[split]["x"])
    whose = f"{blame(raw, split)} factors"
    if factors.ndim != 2 or len(factors) != count or not factors.size:
        raise InputError(
            f"{whose}: expected [N, F], one row for each of {count:,} examples and one column or "
            f"more, got shape {factors.shape}"
        )
    if factors.dtype.kind not in "iu":
        raise InputError(
            f"{whose}: expected integers, got {factors.dtype}; number the values of each factor "
            "0, 1, .."
        )
    if factors.min() < 0 or factors.max() > np.iinfo(np.int32).max:
        raise InputError(
            f"{whose}: expected numbers of values from 0 up, got {factors.min()} to {factors.max()}"
        )
    return factors.astype(np.int32)


def _span(values: np.ndarray) -> str:
    if values.dtype.kind not in "biuf":
        return str(values.dtype)
    return f"{values.dtype} from {values.min()} to {values.max()}"
