"""The flop per second of one large matrix product on this device, an approximate upper limit for every step."""

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
"""Numbers of rows and columns, by platform: large enough to keep the whole device busy."""


class Ceiling(NamedTuple):
    """A compiled product of two square matrices."""

    run: Run
    size: int
    dtype: str
    """The dtype of the operands; sums are float32."""
    flop: int

    def record(self) -> dict[str, Any]:
        """Return the size, dtype and flop of the product."""
        return {"size": self.size, "dtype": self.dtype, "flop": self.flop}


def prepare_ceiling(precision: Precision, size: int | None = None) -> Ceiling:
    """Compile the product of two square matrices, computed as by a layer of this precision.

    Args:
        precision: see `jaxvae.networks.with_precision`.
        size: rows and columns; by default that of the platform.
    """
    size = size or SIZES.get(jax.default_backend(), OTHER_SIZE)
    products = square_product(precision, size)
    (product,) = products
    run = compile_alone(products, jax.random.key(5))
    return Ceiling(run, size, str(product.left[1]), flop_of(products))


def square_product(precision: Precision, size: int) -> Counter[Product]:
    """Return one product of [size, size] by [size, size], 2 size^3 flop, by tracing it without running it.

    >>> flop_of(square_product("bfloat16", 3))
    54
    """
    layer = with_precision(linear(1, 1, rngs=nnx.Rngs(0)), precision)
    matrix = jax.ShapeDtypeStruct((size, size), jnp.float32)
    return products_of(partial(rows, precision=layer.precision), matrix, matrix)
