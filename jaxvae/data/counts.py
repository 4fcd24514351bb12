"""Removal of empty rows and columns from tables of counts."""

import dataclasses

import numpy as np

from jaxvae.data.contents import Contents
from jaxvae.types import InputError


def without_empty(where: str, contents: Contents) -> Contents:
    """Remove from counts [N, D] the columns that are zero in all splits, then the rows that are zero.

    Raises:
        InputError: the data are not a table of counts, or a split would become empty.
    """
    if contents.support != "nonnegative_integer" or len(contents.event_shape) != 1:
        raise InputError(
            f"drop_empty: expected counts [N, D], and {where} is {contents.support} of event shape "
            f"{contents.event_shape}; leave it out"
        )
    tables = contents.splits.values()
    kept = np.any([arrays["x"].any(axis=0) for arrays in tables], axis=0)
    splits, dropped = {}, 0
    for split, arrays in contents.splits.items():
        rows = arrays["x"].any(axis=1)
        if not rows.any():
            raise InputError(f"drop_empty: empty split, {where} has no count at all in {split}")
        splits[split] = {
            field: array[rows][:, kept] if field in ("x", "mask") else array[rows]
            for field, array in arrays.items()
        }
        dropped += int((~rows).sum())
    columns = int((~kept).sum())
    return dataclasses.replace(
        contents,
        splits=splits,
        event_shape=(int(kept.sum()),),
        notes=(*contents.notes, f"{columns:,} empty columns and {dropped:,} empty rows dropped"),
    )
