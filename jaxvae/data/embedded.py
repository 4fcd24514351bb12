"""Data that come with an installed package: scikit-learn's digits."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxvae.data.raw import Raw


def read_digits() -> Raw:
    """Return 1,797 handwritten digits of 8x8 pixels with levels 0..16, and their classes.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.
    """
    x, label = np.split(_table(), [64], axis=1)
    arrays = {"x": x.reshape(-1, 8, 8).astype(np.uint8), "label": label[:, 0].astype(np.int32)}
    return Raw(
        name="digits",
        where="digits",
        origin="scikit-learn load_digits",
        splits={"all": arrays},
        full_scale=16.0,
        held_out=250,
        num_classes=10,
    )


def _table() -> np.ndarray:
    """Read one row for each image, [1797, 65]: the pixels, then the class.

    If scikit-learn's data file is at its usual path, it is read directly: importing scikit-learn takes longer
    than everything else here, and would delay the start of every run.
    """
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets/data/digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.float32)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])  # type: ignore[attr-defined]
