"""Which examples train, which validate and which test: fixed, stated, and free of the seed."""

from collections.abc import Mapping

import numpy as np

from jaxvae.data.raw import Raw
from jaxvae.types import InputError

Arrays = Mapping[str, np.ndarray]

_SEED = 1797


def divide(
    raw: Raw, splits: Mapping[str, Arrays], valid_size: int | None
) -> tuple[dict[str, Arrays], str]:
    """Make train, valid and test of what the source has, and say how in a phrase.

    A source without splits gives a tenth each to valid and test. Rows keep the source's order, and
    a smaller `valid_size` holds out a subset of what a larger one does.

    Raises:
        InputError: `valid_size` contradicts the source's own split or would leave a split empty.
    """
    parts = dict(splits)
    said = "its own split"
    if "all" in parts:
        everything = parts.pop("all")
        held_out = _tenth(raw, "all", everything) if raw.held_out is None else raw.held_out
        parts["train"], parts["test"] = _hold_out(everything, held_out)
        default, said = held_out, "split by a fixed permutation"
    elif "valid" in parts:
        _require_own_size(raw, len(parts["valid"]["x"]), valid_size)
        return _ordered(parts), _sizes(parts, said)
    else:
        default = None
    size = _valid_size(raw, parts["train"], valid_size, default)
    if size:
        parts["train"], parts["valid"] = _hold_out(parts["train"], size)
        if said == "its own split":
            said += ", valid held out of train by a fixed permutation"
    return _ordered(parts), _sizes(parts, said)


def permutation(count: int) -> np.ndarray:
    """The fixed permutation of `count` rows.

    It sorts the generator's raw words, since NumPy keeps those the same in every release, and
    does not promise it for `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(_SEED).random_raw(count), kind="stable")


def _hold_out(arrays: Arrays, size: int) -> tuple[Arrays, Arrays]:
    order = permutation(len(arrays["x"]))
    kept, held = np.sort(order[size:]), np.sort(order[:size])
    return _rows(arrays, kept), _rows(arrays, held)


def _rows(arrays: Arrays, rows: np.ndarray) -> Arrays:
    return {field: array[rows] for field, array in arrays.items()}


def _valid_size(raw: Raw, train: Arrays, valid_size: int | None, default: int | None) -> int:
    if valid_size is None:
        return _tenth(raw, "train", train) if default is None else default
    if valid_size >= len(train["x"]):
        raise InputError(
            f"valid_size: empty split, expected less than the {len(train['x']):,} training "
            f"examples of {raw.where}, got {valid_size:,}"
        )
    return valid_size


def _tenth(raw: Raw, split: str, arrays: Arrays) -> int:
    count = len(arrays["x"])
    if count < 10:
        remedy = "pass valid_size" if split == "train" else "give x_train and x_test in an .npz"
        raise InputError(
            f"{raw.where}: empty split, expected at least 10 examples to hold a tenth out, "
            f"got {count}; {remedy}"
        )
    return count // 10


def _require_own_size(raw: Raw, own: int, valid_size: int | None) -> None:
    if valid_size not in (None, own):
        raise InputError(
            f"valid_size: {raw.where} has a validation split of its own, of {own:,} examples, "
            f"got {valid_size:,}; leave valid_size out"
        )


def _ordered(parts: Mapping[str, Arrays]) -> dict[str, Arrays]:
    return {split: parts[split] for split in ("train", "valid", "test") if split in parts}


def _sizes(parts: Mapping[str, Arrays], said: str) -> str:
    sizes = [f"{len(arrays['x']):,} {split}" for split, arrays in _ordered(parts).items()]
    return f"{said}: {', '.join(sizes)}"
