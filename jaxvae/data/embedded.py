"""The data that come with an installed package: scikit-learn's digits."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxvae.data.raw import Raw


def read_digits() -> Raw:
    """1,797 hand-written digits of 8x8 pixels with levels 0..16, and their classes.

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
    """A row for each image, [1797, 65]: the pixels, then the class.

    From the file itself where it lies as it does now: to import scikit-learn takes longer than
    all the rest of reading, and every run that starts would wait for it.
    """
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets/data/digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.float32)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])  # type: ignore[attr-defined]
