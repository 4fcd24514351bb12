"""`load`: read, judge, binarise, split."""

import operator
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jaxvae.data import binarize as bits
from jaxvae.data.arrays import read_arrays
from jaxvae.data.contents import judge
from jaxvae.data.dataset import SUPPORTS, Dataset
from jaxvae.data.embedded import read_digits
from jaxvae.data.idx import read_idx_folder
from jaxvae.data.named import read_named
from jaxvae.data.raw import Raw
from jaxvae.data.splits import divide
from jaxvae.types import InputError, PRNGKey


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    binarize: str = "none",
    key: PRNGKey | None = None,
    valid_size: int | None = None,
    cache: bool = True,
) -> Dataset:
    """Load a data set by name or path.

    Args:
        name_or_path: "digits" (scikit-learn's, embedded), the path of an .npy file [N, *event], of
            an .npz file (`x` and maybe `y`; or `x_train`, `x_test` and maybe `x_valid`, `y_train`,
            ..), of a folder of MNIST's four IDX files, or else a TFDS name such as "mnist".
        data_dir: where TFDS keeps its data; for a TFDS name only.
        binarize: "none"; "dynamic": bits redrawn at every use; "static": drawn once from `key`;
            "threshold": 1 above half of full scale.
        key: one typed key, for `binarize="static"` only.
        valid_size: examples of train to hold out for validation; 0: none; None: the source's own
            validation split, or else a tenth.
        cache: keep decoded TFDS images in `$JAXVAE_CACHE` or the user's cache folder.

    Returns:
        The splits, and what one value is. Integer arrays other than uint8 are counts; uint8 arrays
        are grey levels; arrays of zeros and ones are bits.

    Raises:
        InputError: the data or an option cannot be used; the message says what to do.

    >>> import jaxvae.data
    >>> jaxvae.data.load("digits")  # doctest: +NORMALIZE_WHITESPACE
    Dataset('digits': train 1,297, valid 250, test 250; event (8, 8), unit_interval,
            binarize='none')
    """
    bits.require_options(binarize, key)
    valid_size = _whole(valid_size)
    raw = _read(name_or_path, data_dir, cache=cache)
    contents = judge(raw)
    bits.require_grey(raw.where, contents.support, binarize)
    splits, scale = contents.splits, contents.scale
    # Before the split, so that a row's bits do not depend on what is held out.
    if binarize == "static":
        splits, scale = bits.draw_static(key, contents), 1.0  # type: ignore[arg-type]
    elif binarize == "threshold":
        splits, scale = bits.threshold(contents), 1.0
    splits, said = divide(raw, splits, valid_size)
    return Dataset(
        name=raw.name,
        source=f"{raw.origin}; {said}",
        splits=_frozen(splits),
        event_shape=contents.event_shape,
        support=SUPPORTS[contents.support if binarize == "none" else "boolean"],
        binarize=binarize,
        scale=scale,
        num_classes=contents.num_classes,
    )


def _read(name_or_path: str | Path, data_dir: str | Path | None, *, cache: bool) -> Raw:
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise InputError(f"name_or_path: expected a name or a path, got {name_or_path!r}")
    path = Path(name_or_path).expanduser()
    embedded = name_or_path == "digits"
    if not embedded and not path.exists() and path.suffix not in (".npy", ".npz"):
        return read_named(str(name_or_path), data_dir, cache=cache)
    if data_dir is not None:
        raise InputError(
            f"data_dir: has no effect for {str(name_or_path)!r}, which is not read by TFDS; "
            "leave it out"
        )
    return read_digits() if embedded else _read_path(path)


def _read_path(path: Path) -> Raw:
    if path.is_dir():
        return read_idx_folder(path)
    if path.suffix in (".npy", ".npz"):
        return read_arrays(path)
    raise InputError(
        f"{path}: expected an .npy or .npz file or a folder of IDX files, got a file "
        f"{path.suffix or 'without ending'}; save the arrays with numpy.savez"
    )


def _whole(valid_size: int | None) -> int | None:
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
    """Arrays that cannot be written, so that the fingerprint stays true."""
    frozen = {}
    for split, arrays in splits.items():
        views = {field: np.asarray(array).view() for field, array in arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        frozen[split] = MappingProxyType(views)
    return MappingProxyType(frozen)
