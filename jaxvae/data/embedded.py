"""The data that come with an installed package: scikit-learn's digits."""

import numpy as np

from jaxvae.data.raw import Raw


def read_digits() -> Raw:
    """1,797 hand-written digits of 8x8 pixels with levels 0..16, and their classes.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = {"x": digits.images.astype(np.uint8), "label": digits.target.astype(np.int32)}  # type: ignore[attr-defined]
    return Raw(
        name="digits",
        where="digits",
        origin="scikit-learn load_digits",
        splits={"all": arrays},
        full_scale=16.0,
        held_out=250,
        num_classes=10,
    )
