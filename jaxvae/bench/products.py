"""The matrix products and convolutions of a traced program: their numbers, shapes and flop."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.lax import conv_general_dilated_p, dot_general_p

from jaxvae.networks.strided import convolve_p, correlate_p, transposed_p
from jaxvae.rows import rows_p

COUNTED = (dot_general_p, conv_general_dilated_p, rows_p, convolve_p, transposed_p, correlate_p)


class Product(NamedTuple):
    """One kind of matrix product or convolution, with everything that determines its time."""

    primitive: Primitive
    left: tuple[tuple[int, ...], Any]
    """Shape, and dtype in the multiplication."""
    right: tuple[tuple[int, ...], Any]
    output: tuple[tuple[int, ...], Any]
    params: tuple[tuple[str, Any], ...]

    @property
    def flop(self) -> int:
        """Multiplications and additions; a convolution counts padded borders as full."""
        left, right, output = self.left[0], self.right[0], self.output[0]
        strided = {  # the image of [N, h, w, O] and the kernel of [k, k, C, O]
            convolve_p: (output, right),
            transposed_p: (left, right),
            correlate_p: (right, output),
        }
        if self.primitive in strided:
            image, kernel = strided[self.primitive]
            return 2 * math.prod(image) * math.prod(kernel[:3])
        if self.primitive is rows_p:
            return 2 * left[-1] * math.prod(output)
        params = dict(self.params)
        if self.primitive is dot_general_p:
            (contracted, _), _ = params["dimension_numbers"]
            return 2 * math.prod(left[axis] for axis in contracted) * math.prod(output)
        _, in_axis, *window = params["dimension_numbers"].rhs_spec
        kernel = math.prod(right[axis] for axis in (in_axis, *window))
        # The zeros in a dilated input, as in transposed convolutions, cost nothing.
        return 2 * kernel * math.prod(output) // math.prod(params["lhs_dilation"])

    def apply(self, left: Array, right: Array) -> Array:
        """Compute the product."""
        if _rounds(self.primitive, dict(self.params)):  # the primitive casts back, at no cost
            left, right = left.astype(self.output[1]), right.astype(self.output[1])
        return self.primitive.bind(left, right, **dict(self.params))


def products_of(function: Callable[..., Any], *args: Any) -> Counter[Product]:
    """Count the products of one call, by tracing it without running it.

    The body of a loop of known length counts once per iteration; of the branches of a `cond`, the most
    expensive one counts. Products that the compiler merges or drops count as they were traced.

    Args:
        function: anything that JAX can trace.
        args: its arguments, or `jax.ShapeDtypeStruct`s of them.

    Returns:
        Product -> the number of times that it is computed.

    Raises:
        ValueError: a loop of unknown length contains a product.

    >>> import jax.numpy as jnp
    >>> flop_of(products_of(lambda x, w: x @ w, jnp.ones((2, 3)), jnp.ones((3, 4))))
    48
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def flop_of(products: Counter[Product]) -> int:
    """Return the multiplications and additions of all products."""
    return sum(times * product.flop for product, times in products.items())


def _count(jaxpr: Any) -> Counter[Product]:
    found: Counter[Product] = Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive in COUNTED:
            (left, right), (output,) = (
                (var.aval for var in eqn.invars),
                (v.aval for v in eqn.outvars),
            )
            params = tuple(sorted(eqn.params.items()))
            half = jnp.dtype(jnp.bfloat16) if _rounds(eqn.primitive, eqn.params) else None
            sides = (left.shape, half or left.dtype), (right.shape, half or right.dtype)
            found[Product(eqn.primitive, *sides, (output.shape, output.dtype), params)] += 1
            continue
        inner = [_count(inside) for inside in _inside(eqn.params)]
        if eqn.primitive.name == "cond":
            found += max(inner, key=flop_of)
            continue
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for products in inner:
            if products and eqn.primitive.name == "while":
                raise ValueError(
                    "expected loops of a known length, got a `while` with products in it"
                )
            found += Counter({product: times * count for product, count in products.items()})
    return found


def _rounds(primitive: Primitive, params: dict[str, Any]) -> bool:
    """Return whether this is a primitive of the library that casts its operands to bfloat16, see `jaxvae.rows`."""
    own = primitive not in (dot_general_p, conv_general_dilated_p)
    return own and params["precision"] == "bfloat16"


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the programs that an equation calls."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
