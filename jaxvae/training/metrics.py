"""Means over examples that merge exactly: sums and a count, kept on the device."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae.batching import Examples
from jaxvae.types import InputError, Terms


@jax.tree_util.register_pytree_with_keys_class
class Metrics(Mapping[str, Any]):
    """Per-example means as a mapping, stored as sums and one count so that they merge.

    `metrics["loss"]` is the mean over all the examples seen; `a.merge(b)` is the metrics of both.
    Merging weighs by examples, so a ragged last batch is right.

    >>> a = Metrics({"loss": jnp.asarray(6.0)}, jnp.asarray(2.0))
    >>> b = Metrics({"loss": jnp.asarray(0.0)}, jnp.asarray(1.0))
    >>> float(a.merge(b)["loss"])
    2.0
    """

    def __init__(self, sums: dict[str, Array], count: Float[Array, "*runs"]):
        self.sums, self.count = sums, count

    @classmethod
    def of(
        cls, values: Mapping[str, Float[Array, "B"]], mask: Float[Array, "B"] | None
    ) -> "Metrics":
        """Return the metrics of one batch, from per-example values and example weights (`mask`)."""
        (size,) = next(iter(values.values())).shape
        weighed = values if mask is None else {name: v * mask for name, v in values.items()}
        sums = {name: jnp.sum(value) for name, value in weighed.items()}
        return cls(sums, total_weight(size, mask))

    def merge(self, other: "Metrics") -> "Metrics":
        """Return the metrics of the examples of both."""
        return jax.tree.map(jnp.add, self, other)

    def __getitem__(self, name: str) -> Array:
        return self.sums[name] / self.count

    def __iter__(self) -> Iterator[str]:
        return iter(self.sums)

    def __len__(self) -> int:
        return len(self.sums)

    def __repr__(self) -> str:
        return f"Metrics({dict(self)}, count={self.count})"

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], None]:
        """Return the children with their names, for `jax.tree_util`."""
        names = (jax.tree_util.GetAttrKey("sums"), jax.tree_util.GetAttrKey("count"))
        return list(zip(names, (self.sums, self.count), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any, Any]) -> "Metrics":
        """Invert `tree_flatten_with_keys`."""
        new = object.__new__(cls)  # children may be anything, such as shapes
        new.sums, new.count = children
        return new


def batch_metrics(
    terms: Terms | Float[Array, "B"], examples: Examples, **others: Float[Array, "B"]
) -> Metrics:
    """Return the metrics of a batch: `loss = -objective` and the other terms of its examples.

    This is the one minus sign between an objective, which rises, and a loss, which falls.

    Args:
        terms: `Terms` of [B], or the objective alone, nats.
        examples: the batch, whose weights count.
        others: further numbers of each example, by name.

    Raises:
        InputError: an entry of the terms is not one number per example.
    """
    values = terms._asdict() if isinstance(terms, Terms) else {"objective": terms}
    for name, value in values.items():
        if jnp.shape(value) != examples.x.shape[:1]:
            raise InputError(
                f"objective: expected Terms of scalars or one scalar for one example, got {name} "
                f"of shape {jnp.shape(value)[1:]}; sum over the event axes"
            )
    loss = -values.pop("objective")
    return Metrics.of({"loss": loss, **values, **others}, examples.weight)


def total_weight(size: int, weight: Float[Array, "B"] | None) -> Float[Array, ""]:
    """Return the sum of the weights of a batch; each example has weight 1 if `weight` is None."""
    return jnp.asarray(size, jnp.float32) if weight is None else jnp.sum(weight)
