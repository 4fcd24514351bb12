"""`load`: read a data set, check its values, binarise it if that happens once, and split it."""

import operator
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import SupportsIndex

import numpy as np
from numpyro.distributions import constraints

from jaxvae.data import binarize as bits
from jaxvae.data.alignments import ALIGNMENTS, SEQUENCE_IDENTITY, read_alignment
from jaxvae.data.arrays import npy_files, open_arrays, read_arrays
from jaxvae.data.contents import Contents, judge
from jaxvae.data.counts import without_empty
from jaxvae.data.dataset import SUPPORTS, Dataset, categories
from jaxvae.data.embedded import read_digits
from jaxvae.data.idx import read_idx_folder
from jaxvae.data.named import open_named, read_named
from jaxvae.data.on_disk import OnDisk
from jaxvae.data.raw import Raw
from jaxvae.data.shapes import read_shapes
from jaxvae.data.splits import divide
from jaxvae.data.streaming import Source
from jaxvae.types import InputError, PRNGKey

_EMBEDDED: dict[str | Path, Callable[[], Raw]] = {"digits": read_digits, "shapes": read_shapes}


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    binarize: str = "none",
    key: PRNGKey | None = None,
    dequantize: bool = False,
    valid_size: SupportsIndex | None = None,
    sequence_identity: float | None = SEQUENCE_IDENTITY,
    drop_empty: bool = False,
    cache: bool = True,
    stream: bool = False,
) -> Dataset:
    """Load a data set by name or path.

    Args:
        name_or_path: "digits" (from scikit-learn), "shapes" (rendered pictures with known factors), the
            path of an .npy file [N, *event], of an .npz file (`x` and optionally `y`, `mask`, `weight`,
            `factors`; or `x_train`, `x_test` and optionally `x_valid`, `y_train`, `mask_train`, ..; or
            `counts` and optionally `batch`), of a folder of .npy files with such names, of an alignment
            (.a2m, .afa, .fa, .fasta), of a folder of MNIST's four IDX files, or else a TFDS name such
            as "mnist".
        data_dir: the folder of TFDS's data; for a TFDS name only.
        binarize: "none"; "dynamic": bits redrawn at every use; "static": drawn once from `key`;
            "threshold": 1 above half of full scale.
        key: one typed key, for `binarize="static"` only.
        dequantize: convert grey levels 0, 1, .., scale to (level + u) / (scale + 1), u uniform in the
            unit interval and drawn anew at every use, for densities on the open unit interval. The
            density of x is then in nats per unit of that scale; adding D log(scale + 1) to its NLL
            gives an upper bound on the NLL of the levels.
        valid_size: number of training examples to hold out for validation; 0: none; None: the source's
            own validation split, or else a tenth. For an alignment it is an upper limit.
        sequence_identity: sequences of an alignment that agree in this share of their columns or
            more share one sequence's weight, `weight[i] = 1 / #{j: identity(i, j) >= it}`, and
            stay in the same split, as do chains of them; 1.0 or None: no weights, rows
            split at random.
        drop_empty: leave out of counts [N, D] the columns without any count, then the rows without any.
        cache: keep decoded TFDS images in `$JAXVAE_CACHE` or the user's cache folder; not of a stream.
        stream: leave the rows of train on disk, for `jaxvae.training.make_feed`: for an .npy file, a
            folder of them, or a TFDS name. The other splits are read into memory; a split that is held
            out gets a tenth, and at most 10,000 rows. Arrays are checked in one pass; of TFDS records,
            1,000 evenly spaced ones are checked first, and each one when it is read.

    Returns:
        The splits, and the support of one value. Integer arrays other than uint8 are counts; uint8
            arrays are grey levels; arrays of zeros and ones are bits; `counts` are counts. A `mask`, of
            the shape of x, is 1 where a value was observed; elsewhere x may hold anything, NaN
            included. Residues of an alignment are classes, the gap is class 0, X is missing.

    Raises:
        InputError: the data or an option cannot be used; the message says what to do.

    >>> import jaxvae.data
    >>> jaxvae.data.load("digits")  # doctest: +NORMALIZE_WHITESPACE
    Dataset('digits': train 1,297, valid 250, test 250; event (8, 8), unit_interval,
            binarize='none')
    """
    bits.require_options(binarize, key)
    valid_size = _whole(valid_size)
    if stream:
        _require_streamed(binarize, drop_empty=drop_empty)
        raw = _opened(name_or_path, data_dir, sequence_identity)
        source = Source(raw)
        contents = source.contents
    else:
        source = None
        raw = _read(name_or_path, data_dir, sequence_identity, cache=cache)
        contents = judge(raw)
    bits.require_grey(raw.where, contents.support, binarize)
    if dequantize:
        _require_levels(raw.where, contents, binarize)
    if drop_empty:
        contents = without_empty(raw.where, contents)
    splits, scale = contents.splits, contents.scale
    # Before the split, so that a row's bits do not depend on which rows are held out.
    if binarize == "static":
        splits, scale = bits.draw_static(key, contents), 1.0  # type: ignore[arg-type]
    elif binarize == "threshold":
        splits, scale = bits.threshold(contents), 1.0
    if source:
        splits, said = source.divide(valid_size, threshold=binarize == "threshold")
    else:
        splits, said = divide(raw, splits, valid_size)
    return Dataset(
        name=raw.name,
        source="; ".join((raw.origin, *contents.notes, said)),
        splits=_frozen(splits),
        event_shape=contents.event_shape,
        support=_support(contents, binarize, dequantize=dequantize),
        binarize=binarize,
        scale=scale,
        num_classes=contents.num_classes,
        num_categories=contents.num_categories,
        dequantize=dequantize,
    )


def _require_streamed(binarize: str, *, drop_empty: bool) -> None:
    wrong = "drop_empty=True" if drop_empty else "binarize='static'"
    if drop_empty or binarize == "static":
        raise InputError(
            f"stream: {wrong} needs all training rows in memory; leave one of them out"
        )


def _support(contents: Contents, binarize: str, *, dequantize: bool) -> constraints.Constraint:
    if contents.num_categories is not None:
        return categories(contents.num_categories)
    name = contents.support if binarize == "none" else "boolean"
    return SUPPORTS["open_unit_interval" if dequantize else name]


def _require_levels(where: str, contents: Contents, binarize: str) -> None:
    if binarize != "none":
        raise InputError(
            f"dequantize: expected grey levels, got bits by binarize={binarize!r}; choose one of them"
        )
    dtypes = {arrays["x"].dtype for arrays in contents.splits.values()}
    if contents.support != "unit_interval" or dtypes != {np.dtype(np.uint8)}:
        stored = ", ".join(sorted(map(str, dtypes)))
        raise InputError(
            f"dequantize: expected grey levels in uint8, and {where} is {contents.support} in "
            f"{stored}; leave it out"
        )


def _read(
    name_or_path: str | Path,
    data_dir: str | Path | None,
    sequence_identity: float | None,
    *,
    cache: bool,
) -> Raw:
    path = _path(name_or_path, data_dir, sequence_identity)
    if path is None:
        return read_named(str(name_or_path), data_dir, cache=cache)
    if _is_alignment(name_or_path, path):
        return read_alignment(path, sequence_identity)
    embedded = _EMBEDDED.get(name_or_path)
    return embedded() if embedded else _read_path(path)


def _opened(
    name_or_path: str | Path, data_dir: str | Path | None, sequence_identity: float | None
) -> Raw:
    """Open a data set with its rows left on disk, without reading them."""
    path = _path(name_or_path, data_dir, sequence_identity)
    if path is None:
        return open_named(str(name_or_path), data_dir)
    if name_or_path in _EMBEDDED:
        raise InputError(
            f"stream: has no effect for {name_or_path!r}, which is small; leave it out"
        )
    return open_arrays(path)


def _path(
    name_or_path: str | Path, data_dir: str | Path | None, sequence_identity: float | None
) -> Path | None:
    """Return the path of the data; None if the name is a TFDS name."""
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise InputError(f"name_or_path: expected a name or a path, got {name_or_path!r}")
    path = Path(name_or_path).expanduser()
    if sequence_identity != SEQUENCE_IDENTITY and not _is_alignment(name_or_path, path):
        raise InputError(
            f"sequence_identity: has no effect for {str(name_or_path)!r}, which is no alignment "
            f"({', '.join(ALIGNMENTS)}); leave it out"
        )
    is_file = name_or_path in _EMBEDDED or path.suffix in (".npy", ".npz", *ALIGNMENTS)
    if not is_file and not path.exists():
        return None
    if data_dir is not None:
        raise InputError(
            f"data_dir: has no effect for {str(name_or_path)!r}, which is not read by TFDS; "
            "leave it out"
        )
    return path


def _is_alignment(name_or_path: str | Path, path: Path) -> bool:
    return name_or_path not in _EMBEDDED and path.suffix in ALIGNMENTS and not path.is_dir()


def _read_path(path: Path) -> Raw:
    if path.is_dir():
        return read_arrays(path) if npy_files(path) else read_idx_folder(path)
    if path.suffix in (".npy", ".npz"):
        return read_arrays(path)
    raise InputError(
        f"{path}: expected an .npy or .npz file, an alignment ({', '.join(ALIGNMENTS)}) or a folder "
        f"of IDX files, got a file {path.suffix or 'without ending'}; save the arrays with numpy.savez"
    )


def _whole(valid_size: SupportsIndex | None) -> int | None:
    if valid_size is None:
        return None
    try:
        size = operator.index(valid_size)
    except TypeError:
        size = -1
    if size < 0 or isinstance(valid_size, bool):
        raise InputError(
            f"valid_size: expected None or a number of examples from 0 up, got {valid_size!r}"
        )
    return size


def _frozen(splits) -> MappingProxyType:
    """Return the splits with read-only arrays, so that the fingerprint stays correct."""
    frozen = {}
    for split, arrays in splits.items():
        if isinstance(arrays, OnDisk):
            frozen[split] = arrays
            continue
        views = {field: np.asarray(array).view() for field, array in arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        frozen[split] = MappingProxyType(views)
    return MappingProxyType(frozen)
