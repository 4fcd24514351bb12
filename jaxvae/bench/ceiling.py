"""What one large matrix product reaches on this device: the flop a second that no step exceeds by much."""

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvae.bench.alone import compile_alone
from jaxvae.bench.products import Product, flop_of, products_of
from jaxvae.bench.turns import Run
from jaxvae.networks import Precision, linear, with_precision
from jaxvae.rows import rows

SIZES, OTHER_SIZE = {"cpu": 2048}, 8192
"""Rows and columns: enough to keep the whole device busy, by platform."""


class Ceiling(NamedTuple):
    """A compiled product of two square matrices."""

    run: Run
    size: int
    dtype: str
    """Of the operands; sums are float32."""
    flop: int

    def record(self) -> dict[str, Any]:
        """What was timed."""
        return {"size": self.size, "dtype": self.dtype, "flop": self.flop}


def prepare_ceiling(precision: Precision, size: int | None = None) -> Ceiling:
    """Compile the product of two square matrices, computed as a layer of this precision does.

    Args:
        precision: see `jaxvae.networks.with_precision`.
        size: rows and columns; those of the platform if not given.
    """
    size = size or SIZES.get(jax.default_backend(), OTHER_SIZE)
    products = square_product(precision, size)
    (product,) = products
    run = compile_alone(products, jax.random.key(5))
    return Ceiling(run, size, str(product.left[1]), flop_of(products))


def square_product(precision: Precision, size: int) -> Counter[Product]:
    """One product of [size, size] by [size, size], traced and not run; 2 size^3 flop.

    >>> flop_of(square_product("bfloat16", 3))
    54
    """
    layer = with_precision(linear(1, 1, rngs=nnx.Rngs(0)), precision)
    matrix = jax.ShapeDtypeStruct((size, size), jnp.float32)
    return products_of(partial(rows, precision=layer.precision), matrix, matrix)
