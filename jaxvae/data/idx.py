"""IDX files, the format in which MNIST and related data sets were first published.

A file is two zero bytes, a byte for the dtype, a byte for the number of axes, each axis as a
big-endian uint32, and the values.

Source: LeCun, Cortes and Burges, The MNIST database, "file formats".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jaxvae.data.raw import Raw, one_line
from jaxvae.types import InputError

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx_folder(folder: Path) -> Raw:
    """Read a folder with the four files of MNIST's layout, plain or gzipped.

    Raises:
        InputError: a file is missing, damaged, or does not hold what its name says.
    """
    paths = {name: _find(folder, name) for names in _FILES.values() for name in names}
    missing = [f"{name}[.gz]" for name, path in paths.items() if path is None]
    if missing:
        raise InputError(
            f"{folder}: expected a folder of IDX files, missing {', '.join(missing)}; "
            "for arrays, give the path of an .npy or .npz file"
        )
    splits = {
        split: _read_pair(paths[images], paths[labels])  # type: ignore[arg-type]
        for split, (images, labels) in _FILES.items()
    }
    name, origin = folder.resolve().name, f"IDX files in {folder}"
    return Raw(name=name, where=str(folder), origin=origin, splits=splits)


def parse_idx(data: bytes, where: str) -> np.ndarray:
    """Parse the bytes of an IDX file.

    Args:
        data: the whole file, not compressed.
        where: the name of the file in error messages.

    Returns:
        The array, in the machine's byte order.

    Raises:
        InputError: the header is not an IDX header, or the number of bytes differs from what it states.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]), "two bytes")
    array([5, 7], dtype=uint8)
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        raise InputError(
            f"{where}: expected an IDX header (00 00 dtype axes), got {data[:4].hex(' ') or 'no'} "
            "bytes; it is another kind of file"
        )
    dtype, ndim = np.dtype(_DTYPES[data[2]]), data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise InputError(f"{where}: cut short within its header; fetch it again")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - start
    if got != expected:
        what = "cut short" if got < expected else "has trailing bytes"
        raise InputError(
            f"{where}: {what}, expected {expected:,} bytes for shape {shape}, got {got:,}; "
            "fetch it again"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read_pair(images: Path, labels: Path) -> dict[str, np.ndarray]:
    x = _read(images, ndim=3, what="images")
    label = _read(labels, ndim=1, what="labels")
    if len(x) != len(label):
        raise InputError(
            f"{labels}: expected one label for each of the {len(x):,} images of {images.name}, "
            f"got {len(label):,} labels"
        )
    return {"x": x, "label": label}


def _read(path: Path, *, ndim: int, what: str) -> np.ndarray:
    array = parse_idx(_bytes(path), str(path))
    if array.ndim != ndim or array.dtype != np.uint8:
        raise InputError(
            f"{path}: expected {what} (uint8 with {ndim} axes), got {array.dtype} with "
            f"{array.ndim} axes; the files may be swapped"
        )
    return array


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); it is cut short or damaged, "
            "fetch it again"
        ) from error
