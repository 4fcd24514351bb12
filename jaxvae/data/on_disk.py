"""Rows that stay on disk: those of an .npy file, and those of a whole split."""

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int

from jaxvae.data.raw import one_line
from jaxvae.data.scan import evenly
from jaxvae.types import InputError

FINGERPRINT_ROWS = 1000

Reader = Callable[[Int[np.ndarray, "n"]], dict[str, np.ndarray]]
"""A function from row numbers to the fields of these rows, by name."""


class NpyFile:
    """An array in an .npy file, whose rows are read on access.

    It uses `pread`, not a memory map: if the file is truncated meanwhile, `pread` gives an error, while a map
    would kill the process; and pages that were read do not count as memory of the process.

    Args:
        path: the file; it stays open, so that a file that replaces it is not mixed with it.

    Raises:
        InputError: the file is missing, truncated or damaged, or its array is not in C order.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            self._file = os.open(path, os.O_RDONLY)
        except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
            raise InputError(
                f"{path}: cannot be read as .npy ({one_line(error)}); it is missing, cut short or "
                "damaged, or holds a pickle, save or fetch it again"
            ) from error
        weakref.finalize(self, os.close, self._file)
        if not isinstance(found, np.memmap):
            raise InputError(f"{path}: expected an .npy file, got an archive of them; unpack it")
        if not found.flags.c_contiguous:
            raise InputError(
                f"{path}: expected rows that lie one after the other, got Fortran's order; save "
                "numpy.ascontiguousarray of it"
            )
        self.shape, self.dtype, self.ndim = found.shape, found.dtype, found.ndim
        self._offset = found.offset
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray | np.generic:
        """Read one row, a slice of rows, or rows [n] by their numbers."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            return self._array(self._bytes(start, max(0, stop - start)))
        numbers = np.asarray(rows)
        if numbers.ndim == 0:
            return self._array(self._bytes(int(numbers), 1))[0]
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for at in np.argsort(numbers):  # in disk order
            found[at] = self._array(self._bytes(int(numbers[at]), 1))[0]
        return found

    def _bytes(self, row: int, count: int) -> bytes:
        wanted, start = count * self._row_bytes, self._offset + row * self._row_bytes
        parts: list[bytes] = []
        while wanted:
            try:  # one call returns at most 2 GB
                part = os.pread(self._file, wanted, start)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
            if not part:
                raise InputError(
                    f"{self.path}: row {row + count - 1:,} is gone: the file was cut short while it was "
                    "in use; save or fetch it again, and go on by --resume"
                )
            parts.append(part)
            wanted, start = wanted - len(part), start + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _array(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])


class Bounds(NamedTuple):
    """A lower and an upper limit of values."""

    low: float | np.number
    high: float | np.number


class Column:
    """One field of a split on disk: its shape, dtype and bounds are known, its values are read on access."""

    def __init__(
        self, split: "OnDisk", name: str, row: np.ndarray | np.generic, bounds: Bounds | None
    ):
        self._split, self._name, self._bounds = split, name, bounds
        self.shape, self.dtype, self.ndim = (split.size, *row.shape), row.dtype, 1 + row.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray | np.generic:
        """Read one row, a slice of rows, or rows [n] by their numbers."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        numbers = np.asarray(rows)
        found = self._split.read(np.atleast_1d(numbers))[self._name]
        return found if numbers.ndim else found[0]

    def __iter__(self) -> NoReturn:
        self.__array__()

    def min(self) -> Any:
        """Return a lower limit of the values."""
        return self._known().low

    def max(self) -> Any:
        """Return an upper limit of the values."""
        return self._known().high

    def _known(self) -> Bounds:
        if self._bounds is None:
            self.__array__()
        return self._bounds

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            f"stream: {self._name} of the training rows of {self._split.where} stays on disk, and all of it "
            "is needed in memory here; load the data without stream"
        )


class OnDisk(Mapping[str, Any]):
    """A split whose rows stay on disk and are read by `read(rows)`.

    Args:
        where: the name of the source in error messages.
        size: N, the number of rows.
        read: maps row numbers [n] of 0, .., N - 1 to their `x` [n, *event] and other fields; thread-safe.
        bounds: the bounds of `x` and, if there is one, `label`.
        files: the files that hold the rows.
    """

    def __init__(
        self,
        where: str,
        size: int,
        read: Reader,
        bounds: Mapping[str, Bounds],
        files: tuple[Path, ...],
    ):
        self.where, self.size, self.read = where, size, read
        first = read(np.zeros(1, np.int64))
        self._columns = {
            name: Column(self, name, rows[0], bounds.get(name)) for name, rows in first.items()
        }
        self._bytes = [file.stat().st_size for file in files]

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes, dtypes, the sizes of the files, and 1,000 evenly spaced rows."""
        digest = hashlib.sha256(str(self._bytes).encode())
        rows = self.read(evenly(self.size, FINGERPRINT_ROWS))
        for name, array in sorted(rows.items()):
            digest.update(f"{name} {array.dtype.str} {self[name].shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class AllBut:
    """A map from row numbers after holding out some rows to row numbers of the source, with O(held) memory.

    Args:
        size: number of rows of the source.
        held: the row numbers that are held out, sorted.

    >>> AllBut(6, np.array([0, 3]))(np.arange(4)).tolist()
    [1, 2, 4, 5]
    """

    def __init__(self, size: int, held: Int[np.ndarray, "h"]):
        self.size = size - len(held)
        self._left_before = held - np.arange(len(held))

    def __call__(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Return the row numbers in the source of these remaining rows."""
        return rows + np.searchsorted(self._left_before, rows, side="right")
