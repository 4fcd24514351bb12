"""`Dataset`: compact arrays on the host, and the pure function that shows one to a model."""

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

from jaxvae.types import InputError, PRNGKey, require_key

BINARIZE: Mapping[str, str] = {
    "none": "no bits are drawn",
    "dynamic": "bits are redrawn from the grey levels at every use",
    "static": "bits were drawn once, when the data were loaded",
    "threshold": "a bit is 1 where the value is above half of full scale",
}
"""The ways to turn grey levels into bits, and what each means."""

SUPPORTS: Mapping[str, constraints.Constraint] = {
    "boolean": constraints.boolean,
    "unit_interval": constraints.unit_interval,
    "real": constraints.real,
    "nonnegative_integer": constraints.nonnegative_integer,
}
"""The supports a dataset can have, by name."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Splits of one data set, held on the host in the dtype that takes least room.

    Args:
        name: short name.
        source: one line for humans: where the data came from and how they were split.
        splits: some of train, valid and test; each maps to `x` [N, *event] and, where there are
            labels, `label` [N] int32.
        event_shape: shape of one example.
        support: where one value lies, as `observe` shows it to a model.
        binarize: "none", "dynamic", "static" or "threshold".
        scale: the stored value that means 1; `observe` divides by it.
        num_classes: number of classes, or None where there are no labels.
    """

    name: str
    source: str
    splits: Mapping[str, Mapping[str, np.ndarray]]
    event_shape: tuple[int, ...]
    support: constraints.Constraint
    binarize: str = "none"
    scale: float = 1.0
    num_classes: int | None = None

    def observe(
        self, key: PRNGKey | None, x_stored: Shaped[Array | np.ndarray, "*event"]
    ) -> Float[Array, "*event"]:
        """One stored example as a model sees it: pure, so `vmap` it inside a jitted step.

        `x = x_stored / scale`, and with `binarize="dynamic"` a draw of Bernoulli(x).

        Args:
            key: one typed key; used by `binarize="dynamic"` only, otherwise None will do.
            x_stored: one example [*event] in the stored dtype.

        Returns:
            float32 [*event].

        Raises:
            InputError: `x_stored` is not one example, or a key is needed and there is none.

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
        x = jnp.asarray(x_stored, jnp.float32) / self.scale
        if self.binarize != "dynamic":
            return x
        require_key(key)  # type: ignore[arg-type]
        return bernoulli(key, x)  # type: ignore[arg-type]

    @property
    def support_name(self) -> str:
        """The support in words: boolean, unit_interval, real or nonnegative_integer."""
        return support_name(self.support)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the stored arrays, their names, shapes and dtypes."""
        digest = hashlib.sha256()
        for split, arrays in sorted(self.splits.items()):
            for field, array in sorted(arrays.items()):
                digest.update(f"{split} {field} {array.dtype.str} {array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a run writes down of its data, ready for JSON; changed data change `sha256`."""
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
            "sha256": self.fingerprint,
        }

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(a['x']):,}" for split, a in self.splits.items())
        return (
            f"Dataset({self.name!r}: {sizes}; event {self.event_shape}, {self.support_name}, "
            f"binarize={self.binarize!r})"
        )


def bernoulli(key: PRNGKey, x: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Bits with probabilities x: `uniform(key) < x`, so 0 is never and 1 is always drawn."""
    return (jax.random.uniform(key, x.shape, jnp.float32) < x).astype(jnp.float32)


def support_name(support: constraints.Constraint) -> str:
    """The name of a support, or its repr where it is none of the four that data can have."""
    for name, known in SUPPORTS.items():
        if isinstance(support, type(known)):
            return name
    return repr(support)
