"""A disk cache of decoded arrays, so that a data set is decoded only once per machine."""

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxvae.data.arrays import read_file
from jaxvae.types import InputError

_FORM = 1  # version of the cached content; raise it when decoding changes


def cache_folder() -> Path:
    """Return `$JAXVAE_CACHE`, else `$XDG_CACHE_HOME/jaxvae`, else `~/.cache/jaxvae`."""
    if own := os.environ.get("JAXVAE_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "jaxvae"


def state_of(files: Iterable[Path]) -> str:
    """Return a short digest of the path, size and modification time of all files."""
    digest = hashlib.sha256(str(_FORM).encode())
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns};".encode())
    return digest.hexdigest()[:16]


def cached(name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Return the arrays of `make()`, cached in an .npz called `name`.

    A cached file that cannot be read is written again; a folder that cannot be written only causes a warning.
    """
    path = cache_folder() / f"{name}.npz"
    if path.is_file():
        # A damaged file is replaced below.
        with contextlib.suppress(InputError):
            return read_file(path)
    arrays = make()
    _keep(path, arrays)
    return arrays


def _keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            np.savez(file, **arrays)  # type: ignore[arg-type]
        part.replace(path)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        warnings.warn(
            f"cannot keep decoded arrays in {path.parent} ({error.strerror}); they will be decoded "
            "again next time; set JAXVAE_CACHE to a folder that can be written",
            stacklevel=2,
        )
