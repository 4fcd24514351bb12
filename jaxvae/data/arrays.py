"""Arrays in .npy and .npz files; pickles are never loaded."""

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.data.on_disk import NpyFile
from jaxvae.data.raw import SPLITS, Arrays, Raw, one_line
from jaxvae.types import InputError

_BROKEN = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    OverflowError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_GRAMMAR = (
    "'x' with maybe 'y', 'mask', 'weight', 'factors', "
    "or 'x_train', 'x_test' and maybe 'x_valid', 'y_train', .."
)
_OTHERS = {"y": "label", "mask": "mask", "weight": "weight", "factors": "factors"}
_FIELDS = {"x": "x", **_OTHERS}
_OF_COUNTS = {"counts": "x", "batch": "label", **_OTHERS}


def read_arrays(path: Path) -> Raw:
    """Read one array [N, *event] from an .npy file; from an .npz its `counts`, or its arrays by `splits_of`.

    A folder of .npy files is read like an .npz with arrays of these names.

    Raises:
        InputError: the file is broken, holds pickled objects, or has arrays with other names.
    """
    if path.is_dir():
        return _raw({file.stem: read_file(file)["x"] for file in npy_files(path)}, path)
    return _raw(read_file(path), path)


def open_arrays(path: Path) -> Raw:
    """Open an .npy file, or a folder of them, as `NpyFile`s, without reading any rows.

    Raises:
        InputError: as `read_arrays`; or the path is an .npz, whose arrays cannot be read row by row.
    """
    if path.is_dir() and (files := npy_files(path)):
        return _raw({file.stem: NpyFile(file) for file in files}, path)
    if path.suffix != ".npy":
        raise InputError(
            f"stream: expected an .npy file, a folder of them or a TFDS name, got {path}; save each array "
            "of it as NAME.npy in one folder, named as in an .npz"
        )
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    return _raw({"x": NpyFile(path)}, path)


def npy_files(folder: Path) -> list[Path]:
    """Return the .npy files of a folder, sorted."""
    return sorted(folder.glob("*.npy"))


def _raw(found: Mapping[str, Any], path: Path) -> Raw:
    if "counts" in found:
        return _counts(found, path)
    splits = splits_of(found, str(path))
    return Raw(name=path.stem, where=str(path), origin=str(path), splits=splits)


def _counts(found: Arrays, path: Path) -> Raw:
    """Return counts [N, *event] with optional `batch` or `y` as label; a note lists the unused arrays."""
    used = [name for name in _OF_COUNTS if name in found]
    if clashing := [name for name in found if name in SPLITS or name.partition("_")[0] == "x"]:
        raise InputError(
            f"{path}: expected 'counts' or {_GRAMMAR}, got 'counts' and {clashing[0]!r}; "
            "keep one of them"
        )
    if "batch" in used and "y" in used:
        raise InputError(f"{path}: both 'batch' and 'y' are there; keep one of them as the label")
    others = [name for name in found if name not in used]
    return Raw(
        name=path.stem,
        where=str(path),
        origin=str(path),
        splits={"all": {_OF_COUNTS[name]: found[name] for name in used}},
        kind="count",
        notes=(f"not used: {', '.join(others)}",) if others else (),
    )


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an .npz by its name, or the array of an .npy as `x`.

    Raises:
        InputError: there is no such file, it is broken, or it holds pickled objects.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            _require_magic(file.read(4), path)
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            return {"x": found} if isinstance(found, np.ndarray) else dict(found.items())
    except InputError:
        raise
    except _BROKEN as error:
        if "allow_pickle" in str(error):
            raise _pickled(path) from error
        raise InputError(
            f"{path}: cannot be read as .npy or .npz ({one_line(error)}); "
            "it is cut short or damaged, save or fetch it again"
        ) from error


def _require_magic(head: bytes, path: Path) -> None:
    if head.startswith(b"\x80"):
        raise _pickled(path)
    if not b"\x93NUMPY".startswith(head) and not head.startswith(b"PK"):
        raise InputError(
            f"{path}: expected an .npy or .npz file, got one that starts with {head.hex(' ')}; "
            "save the array with numpy.save"
        )


def _pickled(path: Path) -> InputError:
    return InputError(
        f"{path}: holds Python objects (a pickle), which are never loaded; save an array of numbers"
    )


def splits_of(arrays: Arrays, where: str) -> dict[str, dict[str, Any]]:
    """Sort arrays into splits by their names.

    `x` with optional `y`, `mask`, `weight` and `factors` is a source without splits; otherwise `x_train` or
    `train`, `x_valid` or `valid`, `x_test` or `test`, each with optional `y_train`, `mask_train`, ..

    Raises:
        InputError: a name is unknown, doubled, or missing.
    """
    splits: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        split, field = _place(name, where)
        if field in splits.setdefault(split, {}):
            raise InputError(f"{where}: both {split!r} and 'x_{split}' are there; keep one of them")
        splits[split][field] = array
    _require_whole(splits, where)
    return splits


def _place(name: str, where: str) -> tuple[str, str]:
    field, _, split = name.partition("_")
    if name in SPLITS:
        return name, "x"
    if field in _FIELDS and (split in SPLITS or name == field):
        return split or "all", _FIELDS[field]
    raise InputError(f"{where}: expected arrays named {_GRAMMAR}, got {name!r}; rename it")


def _require_whole(splits: Mapping[str, Arrays], where: str) -> None:
    if "all" in splits and len(splits) > 1:
        raise InputError(f"{where}: expected {_GRAMMAR}, got both forms; keep one of them")
    needed = ("all",) if "all" in splits else ("train", "test")
    for split in (*needed, *splits):
        if "x" not in splits.get(split, {}):
            missing = "x" if split == "all" else f"x_{split}"
            raise InputError(f"{where}: no array {missing!r}; expected {_GRAMMAR}")
