"""Division of examples into train, valid and test: fixed, stated, and independent of the run's seed."""

from collections.abc import Mapping

import numpy as np

from jaxvae.data.on_disk import AllBut
from jaxvae.data.raw import Raw
from jaxvae.types import InputError

Arrays = Mapping[str, np.ndarray]

_SEED = 1797
_GROUP = "group"  # a temporary field while rows are divided


def divide(
    raw: Raw, splits: Mapping[str, Arrays], valid_size: int | None
) -> tuple[dict[str, Arrays], str]:
    """Make train, valid and test from the splits of a source, and describe in a phrase how.

    A source without splits gives a tenth each to valid and test. Rows keep the source's order, and
    a smaller `valid_size` holds out a subset of the rows of a larger one. Rows of one group stay
    together: whole groups are held out, as many as fit in the size.

    Raises:
        InputError: `valid_size` contradicts the source's own split or would leave a split empty.
    """
    parts = dict(splits)
    said = "its own split"
    if "all" in parts:
        everything = parts.pop("all")
        said = "split by a fixed permutation"
        if raw.groups is not None:
            everything = {**everything, _GROUP: raw.groups}
            said += " of groups of similar rows"
        held_out = (
            _tenth(raw, "all", len(everything["x"])) if raw.held_out is None else raw.held_out
        )
        parts["train"], parts["test"] = _hold_out(raw, everything, held_out)
        default = held_out
    elif "valid" in parts:
        _require_own_size(raw, len(parts["valid"]["x"]), valid_size)
        return _ordered(parts), _sizes(parts, said)
    else:
        default = None
    size = _valid_size(raw, len(parts["train"]["x"]), valid_size, default)
    if size:
        parts["train"], parts["valid"] = _hold_out(raw, parts["train"], size)
        if said == "its own split":
            said += ", valid held out of train by a fixed permutation"
    return _ordered(parts), _sizes(parts, said)


def permutation(count: int) -> np.ndarray:
    """Return the fixed permutation of `count` rows.

    It sorts the generator's raw words, since NumPy guarantees that these are the same in every release, but
    does not guarantee it for `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(_SEED).random_raw(count), kind="stable")


def _hold_out(raw: Raw, arrays: Arrays, size: int) -> tuple[Arrays, Arrays]:
    count = len(arrays["x"])
    held = np.zeros(count, bool)
    if _GROUP in arrays:
        held[_whole_groups(raw, arrays[_GROUP], size)] = True
    else:
        held[permutation(count)[:size]] = True
    return _rows(arrays, ~held), _rows(arrays, held)


def _whole_groups(raw: Raw, groups: np.ndarray, size: int) -> np.ndarray:
    """Choose whole groups in a fixed order, each if it still fits, and return their rows; at most `size`."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    taken, room = np.zeros(len(sizes), bool), size
    for one in permutation(len(sizes)):
        if sizes[one] <= room:
            taken[one] = True
            room -= sizes[one]
    if not taken.any():
        raise InputError(
            f"{raw.where}: empty split, expected groups of similar rows that fit into {size:,} held-out "
            f"rows, got {len(sizes):,} of {sizes.min():,} rows or more; for an alignment raise "
            "sequence_identity, or pass None to split its rows at random"
        )
    return np.flatnonzero(taken[group])


def _rows(arrays: Arrays, rows: np.ndarray) -> Arrays:
    return {field: array[rows] for field, array in arrays.items()}


def _valid_size(raw: Raw, train: int, valid_size: int | None, default: int | None) -> int:
    if valid_size is None:
        return _tenth(raw, "train", train) if default is None else default
    if valid_size >= train:
        raise InputError(
            f"valid_size: empty split, expected less than the {train:,} training "
            f"examples of {raw.where}, got {valid_size:,}"
        )
    return valid_size


def _tenth(raw: Raw, split: str, count: int) -> int:
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
    return {
        split: {field: array for field, array in parts[split].items() if field != _GROUP}
        for split in ("train", "valid", "test")
        if split in parts
    }


def _sizes(parts: Mapping[str, Arrays], said: str) -> str:
    return stated({split: len(arrays["x"]) for split, arrays in _ordered(parts).items()}, said)


def stated(sizes: Mapping[str, int], said: str) -> str:
    """Return the phrase `said` about how the splits were made, followed by their sizes."""
    return f"{said}: {', '.join(f'{size:,} {split}' for split, size in sizes.items())}"


def held_out(
    raw: Raw, sizes: Mapping[str, int], valid_size: int | None, *, most: int
) -> tuple[dict[str, np.ndarray], str]:
    """Choose the rows that `divide` would hold out, for a source that stays on disk: sorted rows of "all" or train.

    Args:
        raw: the source.
        sizes: the number of rows of each of its splits.
        valid_size: as in `divide`.
        most: the largest default number of rows of validation and of test, used if a tenth is more.

    Returns:
        The rows that are held out for valid and test, and the phrase of `divide`.

    Raises:
        InputError: as `divide`.
    """
    rows: dict[str, np.ndarray] = {}
    said, default, left = "its own split", None, sizes.get("all", sizes.get("train", 0))
    if "all" in sizes:
        said = "split by a fixed permutation"
        default = min(_tenth(raw, "all", left), most)
        rows["test"] = np.sort(permutation(left)[:default])
        left -= default
    elif "valid" in sizes:
        _require_own_size(raw, sizes["valid"], valid_size)
        return {}, said
    elif valid_size is None:
        default = min(_tenth(raw, "train", left), most)
    if size := _valid_size(raw, left, valid_size, default):
        among = np.sort(permutation(left)[:size])
        rows["valid"] = AllBut(sizes["all"], rows["test"])(among) if "test" in rows else among
        if "all" not in sizes:
            said += ", valid held out of train by a fixed permutation"
    return rows, said
