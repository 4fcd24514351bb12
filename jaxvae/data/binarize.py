"""Binarisation of grey levels when data are loaded; dynamic binarisation is in `Dataset.observe`."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from jaxvae.checks import require_choice, require_key
from jaxvae.data.contents import Contents
from jaxvae.data.dataset import BINARIZE, bernoulli
from jaxvae.types import InputError, PRNGKey

_CHUNK = 4096
_SPLIT_NUMBER = {"all": 0, "train": 0, "valid": 1, "test": 2}


def require_options(binarize: str, key: PRNGKey | None) -> None:
    """Refuse an unknown `binarize`, a missing key, or a key without effect.

    Raises:
        InputError: `binarize` or `key` is not usable.
    """
    require_choice("binarize", binarize, BINARIZE)
    if binarize == "static":
        require_key(key)  # type: ignore[arg-type]
    elif key is not None:
        remedy = "leave the key out"
        if binarize == "dynamic":
            remedy = "give each draw's key to Dataset.observe instead"
        raise InputError(f"key: has no effect with binarize={binarize!r}; {remedy}")


def require_grey(where: str, support: str, binarize: str) -> None:
    """Refuse to binarise data that are not grey levels.

    Raises:
        InputError: the data are bits already, counts, or reals.
    """
    if binarize == "none" or support == "unit_interval":
        return
    if support == "boolean":
        why = "the data are bits already, so it has no effect"
    else:
        why = f"expected values in [0, 1] or grey levels, and the data are {support}"
    raise InputError(f"binarize: {binarize!r} on {where}: {why}; use binarize='none'")


def draw_static(key: PRNGKey, contents: Contents) -> dict[str, dict[str, np.ndarray]]:
    """Draw each bit once, with a key folded from (key, split, row), so a row's bits do not depend on other rows."""
    return _with_bits(
        contents,
        {
            split: _draw_rows(jax.random.fold_in(key, _SPLIT_NUMBER[split]), x, contents.scale)
            for split, x in _pixels(contents).items()
        },
    )


def threshold(contents: Contents) -> dict[str, dict[str, np.ndarray]]:
    """Set a bit to 1 where the value is above half of full scale."""
    half = contents.scale / 2
    bits = {split: (x > half).astype(np.uint8) for split, x in _pixels(contents).items()}
    return _with_bits(contents, bits)


def _pixels(contents: Contents) -> dict[str, np.ndarray]:
    return {split: arrays["x"] for split, arrays in contents.splits.items()}


def _with_bits(contents: Contents, bits: Mapping[str, np.ndarray]):
    return {split: {**arrays, "x": bits[split]} for split, arrays in contents.splits.items()}


def _draw_rows(key: PRNGKey, x: np.ndarray, scale: float) -> np.ndarray:
    chunks = [
        np.asarray(_draw_chunk(key, np.arange(start, start + len(chunk)), chunk, scale))
        for start in range(0, len(x), _CHUNK)
        for chunk in [x[start : start + _CHUNK]]
    ]
    return np.concatenate(chunks)


@partial(jax.jit, static_argnums=3)
def _draw_chunk(
    key: PRNGKey, rows: Int[Array, "B"], x: Shaped[Array, "B *event"], scale: float
) -> UInt8[Array, "B *event"]:
    def one(row: Int[Array, ""], pixels: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return bernoulli(jax.random.fold_in(key, row), pixels)

    return jax.vmap(one)(rows, jnp.asarray(x, jnp.float32) / scale).astype(jnp.uint8)
