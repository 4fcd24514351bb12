"""`Dataset`: compact arrays on the host, and the pure function that converts an example to a model input."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpyro.distributions import constraints

from jaxvae.checks import require_key
from jaxvae.data.on_disk import OnDisk
from jaxvae.data.raw import Arrays
from jaxvae.data.scan import evenly
from jaxvae.data.uniform import uniform
from jaxvae.types import AnyArray, InputError, PRNGKey

BINARIZE: Mapping[str, str] = {
    "none": "no bits are drawn",
    "dynamic": "bits are redrawn from the grey levels at every use",
    "static": "bits were drawn once, when the data were loaded",
    "threshold": "a bit is 1 where the value is above half of full scale",
}
"""The ways to binarise grey levels, each with its meaning."""

SUPPORTS: Mapping[str, constraints.Constraint] = {
    "boolean": constraints.boolean,
    "open_unit_interval": constraints.open_interval(0.0, 1.0),
    "unit_interval": constraints.unit_interval,
    "real": constraints.real,
    "nonnegative_integer": constraints.nonnegative_integer,
}
"""The supports that a dataset can have, by name, except `categories(C)`, whose name is "category"."""

DEQUANTIZE_LEVELS = 2**15
"""The number of points in the cell of a grey level from which `dequantize` draws."""


def categories(num_categories: int) -> constraints.Constraint:
    """Return the support of class numbers 0, 1, .., C - 1."""
    return constraints.integer_interval(0, num_categories - 1)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """The splits of one data set, on the host, in a compact dtype.

    Args:
        name: short name.
        source: one line for humans: where the data came from and how they were split.
        splits: some of train, valid and test, each (except a train that stays `OnDisk`) a mapping to `x`
            [N, *event] and optionally `label` [N] int32, `mask` [N, *event] uint8, 1 where a value was
            observed (the others are stored as 0), `weight` [N] float32, the weight of an example, and
            `factors` [N, F] int32, the factors that generated the example, which no model sees.
        event_shape: shape of one example.
        support: the support of one value, as `observe` returns it.
        binarize: "none", "dynamic", "static" or "threshold".
        scale: the stored value that means 1; `observe` divides by it.
        num_classes: number of classes of the labels, or None without labels.
        num_categories: C if a value is one of the class numbers 0, 1, .., C - 1, else None.
        dequantize: whether `observe` spreads each grey level over its cell.
    """

    name: str
    source: str
    splits: Mapping[str, Arrays]
    event_shape: tuple[int, ...]
    support: constraints.Constraint
    binarize: str = "none"
    scale: float = 1.0
    num_classes: int | None = None
    num_categories: int | None = None
    dequantize: bool = False

    def observe(
        self, key: PRNGKey | None, x_stored: Shaped[AnyArray, "*event"]
    ) -> Float[Array, "*event"]:
        """Convert one stored example to a model input: pure, so `vmap` it inside a jitted step.

        `x = x_stored / scale`; with `binarize="dynamic"` a draw of Bernoulli(x); with `dequantize`
        `x = (x_stored + u) / (scale + 1)`, u uniform in the unit interval.

        Args:
            key: one typed key; used by `binarize="dynamic"` and `dequantize`, may be None otherwise.
            x_stored: one example [*event] in the stored dtype.

        Returns:
            float32 [*event].

        Raises:
            InputError: `x_stored` is not one example, or a key is needed but missing.

        >>> import jax, jaxvae.data
        >>> digits = jaxvae.data.load("digits", binarize="dynamic")
        >>> digits.observe(jax.random.key(0), digits.splits["train"]["x"][0]).shape
        (8, 8)
        """
        if x_stored.shape != self.event_shape:
            raise InputError(
                f"x_stored: expected one example of shape {self.event_shape}, "
                f"got shape {x_stored.shape}; batch with jax.vmap"
            )
        x = jnp.asarray(x_stored, jnp.float32)
        if self.binarize != "dynamic" and not self.dequantize:
            return x / self.scale
        require_key(key)  # type: ignore[arg-type]
        if self.dequantize:
            return spread(key, x) / (self.scale + 1)  # type: ignore[arg-type]
        return bernoulli(key, x / self.scale)  # type: ignore[arg-type]

    def as_categories(self, num_categories: int | None = None) -> "Dataset":
        """Return the data set with its stored numbers as class numbers 0, .., C - 1, for a categorical likelihood.

        Args:
            num_categories: C; if None, 2 for bits, and for grey levels one more than `scale` (256 for 8 bits).

        Returns:
            A data set that shares the arrays, with support `categories(C)` and scale 1.

        Raises:
            InputError: the stored values are not whole numbers below C.

        >>> import jaxvae.data
        >>> jaxvae.data.load("digits").as_categories().num_categories
        17
        """
        arrays = [split["x"] for split in self.splits.values()]
        if self.binarize == "dynamic" or self.dequantize or arrays[0].dtype.kind not in "iu":
            found = "bits drawn at every use" if self.binarize == "dynamic" else arrays[0].dtype
            raise InputError(
                f"as_categories: expected stored whole numbers, and {self.name!r} has "
                f"{'dequantised levels' if self.dequantize else found}; load integer data "
                'with binarize="none" and dequantize=False'
            )
        if num_categories is None:
            num_categories = self._own_categories()
        highest = max(int(x.max()) for x in arrays)
        if type(num_categories) is not int or num_categories <= highest:
            raise InputError(
                f"num_categories: expected an integer above {highest}, the largest stored value of "
                f"{self.name!r}, got {num_categories!r}"
            )
        return dataclasses.replace(
            self,
            support=categories(num_categories),
            binarize="none",
            scale=1.0,
            num_categories=num_categories,
        )

    def _own_categories(self) -> int | None:
        if self.support_name == "boolean":
            return 2
        if self.support_name == "unit_interval":
            return int(self.scale) + 1
        return self.num_categories

    @property
    def support_name(self) -> str:
        """The name of the support: "category" or a key of `SUPPORTS`."""
        return support_name(self.support)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the stored arrays, their names, shapes and dtypes; see `OnDisk` for those on disk."""
        digest = hashlib.sha256()
        for split, arrays in sorted(self.splits.items()):
            if isinstance(arrays, OnDisk):
                digest.update(f"{split} {arrays.fingerprint};".encode())
                continue
            for field, array in sorted(arrays.items()):
                digest.update(f"{split} {field} {array.dtype.str} {array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def sampled(self, most: int) -> "Dataset":
        """Return a data set whose train is in memory; if it is on disk, at most `most` evenly spaced rows are read."""
        train = self.splits["train"]
        if not isinstance(train, OnDisk):
            return self
        splits = {**self.splits, "train": train.read(evenly(train.size, most))}
        return dataclasses.replace(self, splits=splits)

    def record(self) -> dict[str, Any]:
        """Return the record that a run keeps of its data, ready for JSON; `sha256` changes with the data."""
        return {
            "name": self.name,
            "source": self.source,
            "sizes": {split: len(arrays["x"]) for split, arrays in self.splits.items()},
            "event_shape": list(self.event_shape),
            "support": self.support_name,
            "binarize": self.binarize,
            "binarize_meaning": BINARIZE[self.binarize],
            "scale": self.scale,
            "num_classes": self.num_classes,
            "num_categories": self.num_categories,
            "dequantize": self.dequantize,
            "sha256": self.fingerprint,
        }

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(a['x']):,}" for split, a in self.splits.items())
        how = "dequantize=True" if self.dequantize else f"binarize={self.binarize!r}"
        return (
            f"Dataset({self.name!r}: {sizes}; event {self.event_shape}, {self.support_name}, {how})"
        )


def observed(arrays: Arrays) -> Any:
    """Return the observed stored values of a split: all of `x` [N, *event], or a vector if there is a mask.

    For a split on disk it returns the column `x`, whose smallest and largest values are known.
    """
    if isinstance(arrays, OnDisk):
        return arrays["x"]
    return arrays["x"][arrays["mask"] == 1] if "mask" in arrays else arrays["x"]


def bernoulli(key: PRNGKey, x: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Draw bits with probabilities x by `uniform(key) < x`, so x = 0 always gives 0 and x = 1 always gives 1."""
    bits = (uniform(key, x.shape) < x).astype(jnp.float32)
    # Drawn once: XLA would fuse the draw into each use of it, K times in an IWAE.
    return jax.lax.optimization_barrier(bits)


def spread(key: PRNGKey, x: Float[AnyArray, "*event"]) -> Float[Array, "*event"]:
    """Replace whole numbers x below 256 by uniform draws from their cells (x, x + 1).

    `x + (k + 1/2) / 2^15`, k uniform in 0, 1, .., 2^15 - 1: exact in float32, so no draw is
    rounded onto the edge of its cell, where a density on the open unit interval is not defined.

    Source: Theis, van den Oord and Bethge (2016), "A note on the evaluation of generative models".
    """
    k = jax.random.bits(key, x.shape, jnp.uint16) >> jnp.uint16(1)
    return jnp.asarray(x) + (k.astype(jnp.float32) + 0.5) / DEQUANTIZE_LEVELS


def support_name(support: constraints.Constraint) -> str:
    """Return the name of a support, or its repr if data cannot have it."""
    if isinstance(support, type(categories(2))):
        return "category"
    for name, known in SUPPORTS.items():
        if isinstance(support, type(known)):
            return name
    return repr(support)
