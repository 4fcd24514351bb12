"""Data sets by their TensorFlow Datasets name, read without TensorFlow."""

import contextlib
import difflib
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.data.arrays import splits_of
from jaxvae.data.cache import cached, state_of
from jaxvae.data.raw import Raw, one_line
from jaxvae.data.records import Records, blaming, label_of
from jaxvae.types import InputError

_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:\d+\.\d+\.\d+)?")
_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}
_CHUNK = 1000
_NOISE = ("OpenCV is not installed", "Variant folder")


def read_named(name: str, data_dir: str | Path | None, *, cache: bool) -> Raw:
    """Read an image set that TFDS has prepared on this machine, as arrays.

    Args:
        name: `name`, `name/config` or `name:version`.
        data_dir: the folder of TFDS's data; None: its default folder.
        cache: whether to cache the decoded arrays, and to use cached ones.

    Returns:
        The splits named train, validation (or valid) and test; others are left out.

    Raises:
        InputError: TFDS does not know the name, the data are not prepared, or they are not images.
    """
    with _quiet():
        builder = _checked(name, data_dir)
        return _raw(name, builder, splits_of(_arrays(builder, cache=cache), f"TFDS {name}"))


def open_named(name: str, data_dir: str | Path | None) -> Raw:
    """Open an image set as `read_named` does, but with splits as `Records`, which are decoded on access.

    Raises:
        InputError: as `read_named`.
    """
    with _quiet():
        builder = _checked(name, data_dir)
        return _raw(name, builder, {_SPLITS[s]: Records(builder, s) for s in _wanted(builder)})


def _raw(name: str, builder: Any, splits: Any) -> Raw:
    return Raw(
        name=builder.info.full_name.rsplit("/", 1)[0],
        where=name,
        origin=f"TFDS {builder.info.full_name} in {builder.data_dir}",
        splits={"all": splits["train"]} if set(splits) == {"train"} else splits,
        num_classes=getattr(label_of(builder), "num_classes", None),
    )


def _checked(name: str, data_dir: str | Path | None) -> Any:
    builder = _builder(name, data_dir)
    _require_prepared(builder, name, data_dir)
    _require_images(builder, name)
    return builder


def _builder(name: str, data_dir: str | Path | None) -> Any:
    import tensorflow_datasets as tfds

    if not _NAME.fullmatch(name):
        raise _unknown(name)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise _unknown(name) from error
    except Exception as error:  # TFDS asserts on versions and raises ValueError on configs
        raise InputError(f"name_or_path: {name!r}: {one_line(error)}") from error


def _unknown(name: str) -> InputError:
    import tensorflow_datasets as tfds

    known = ["digits", "shapes", *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return InputError(
        f"name_or_path: no such file, folder or TFDS name: {name!r}; expected 'digits', 'shapes', "
        f"the path of an .npy or .npz file or of a folder of IDX files, or a TFDS name{hint}"
    )


def _require_prepared(builder: Any, name: str, data_dir: str | Path | None) -> None:
    prepared, form = builder.is_prepared(), builder.info.file_format.value
    if prepared and form == "array_record":
        return
    state = f"is prepared as {form}" if prepared else "is not prepared"
    folder = "another_folder" if prepared else data_dir and Path(data_dir).absolute()
    where = f', data_dir="{folder}"' if folder else ""
    code = (
        "import tensorflow_datasets as tfds; "
        f'tfds.builder("{name}"{where}, file_format="array_record").download_and_prepare()'
    )
    raise InputError(
        f"TFDS {name} {state} in {builder.data_dir}, expected array_record files; prepare it once: "
        f"pip install tensorflow && python -c {shlex.quote(code)}"
    )


def _require_images(builder: Any, name: str) -> None:
    features = builder.info.features
    if "image" not in features:
        raise InputError(
            f"TFDS {name}: expected a feature 'image', got {', '.join(features)}; "
            "save what you need of it as an .npz file"
        )
    shape, dtype = features["image"].shape, np.dtype(features["image"].np_dtype)
    if None in shape or dtype not in (np.uint8, np.float32):
        raise InputError(
            f"TFDS {name}: expected images of one size in uint8 or float32, got shape {shape} "
            f"in {dtype}; resize them and save an .npz file"
        )
    if "train" not in builder.info.splits:
        found = ", ".join(builder.info.splits)
        raise InputError(f"TFDS {name}: expected a split 'train', got {found}")


def _arrays(builder: Any, *, cache: bool) -> Mapping[str, np.ndarray]:
    if not cache:
        return _decode(builder)
    files = [file for split in _wanted(builder) for file in builder.info.splits[split].filepaths]
    with blaming(builder):
        state = state_of(Path(file) for file in files)
    label = re.sub(r"[^\w.]+", "-", builder.info.full_name)
    return cached(f"{label}-{state}", lambda: _decode(builder))


def _wanted(builder: Any) -> list[str]:
    return [split for split in builder.info.splits if split in _SPLITS]


def _decode(builder: Any) -> dict[str, np.ndarray]:
    """Decode every split to arrays, with the names that an .npz file would have."""
    arrays = {}
    wanted = _wanted(builder)
    for split in wanted:
        ending = "" if wanted == ["train"] else f"_{_SPLITS[split]}"
        for field, array in _decode_split(builder, split).items():
            arrays[field + ending] = array
    return arrays


def _decode_split(builder: Any, split: str) -> dict[str, np.ndarray]:
    from tqdm import tqdm

    records, parts = Records(builder, split), []
    title = f"decoding {builder.info.name} {split}"
    with tqdm(total=len(records), desc=title, unit="image", disable=None, leave=False) as progress:
        for start in range(0, len(records), _CHUNK):
            parts.append(records.read(np.arange(start, min(start + _CHUNK, len(records)))))
            progress.update(len(parts[-1]["x"]))
    names = {"x": "x", "label": "y"}
    return {names[name]: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress two warnings of TFDS that a user can do nothing about."""
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NOISE)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
