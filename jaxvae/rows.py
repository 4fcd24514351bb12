"""`x @ w` for one example, which remains one matrix product under any number of `vmap`s.

A layer takes one vector. Under `vmap` over samples and examples, JAX turns `x @ w` into a product of
[B, K, I] by [I, O], whose weight gradient contracts two axes; XLA then copies the transposed
cotangent, the largest array of the step, before it multiplies (a fifth of the time of a step of an IWAE
with K = 50 on a CPU). Here each `vmap` folds its axis into the rows of one [B * K, I] matrix instead, so
that the forward and both backward products are two-dimensional. Both backward products are `rows` again,
so that the same rules apply to all three under every transformation.

In bfloat16 the operands of each product, forward or backward, are rounded when it is computed, and
products of entries are summed in float32. The casts are inside the primitive: outside, JAX would
round the gradients of x and w themselves.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxvae.types import InputError

rows_p = Primitive("rows")


def rows(
    x: Float[Array, "*M N I"], w: Float[Array, "*M I O"], precision: Any = None
) -> Float[Array, "*M N O"]:
    """The product `x @ w`, a bilinear primitive whose batching rule folds axes of x into its rows.

    Args:
        x: the left factor.
        w: the right factor.
        precision: "bfloat16" rounds both factors to bfloat16; all others are JAX's, such as "highest".
    """
    return rows_p.bind(x, w, precision=precision)


def operands(a: Array, b: Array, precision: Any) -> tuple[Array, Array, dict[str, Any]]:
    """Return the operands of a product, rounded to bfloat16 if requested, and JAX's options for it."""
    if precision != "bfloat16":
        return a, b, {"precision": precision}
    result = {"preferred_element_type": jnp.promote_types(a.dtype, b.dtype)}
    return a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), result


def dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> Array:
    """The `dot_general` of `nnx.Linear`: `rows` for vectors by a matrix, else JAX's own.

    Raises:
        InputError: bfloat16 is requested for any other product.
    """
    vectors_by_matrix = (((lhs.ndim - 1,), (0,)), ((), ()))
    plain = rhs.ndim == 2 and preferred_element_type is None
    if plain and dimension_numbers == vectors_by_matrix:
        y = rows(lhs.reshape(-1, lhs.shape[-1]), rhs, precision)
        return y.reshape(*lhs.shape[:-1], rhs.shape[-1])
    if precision == "bfloat16":
        raise InputError(
            f"precision: expected vectors by a matrix for bfloat16, got {lhs.shape} by {rhs.shape} "
            f"with preferred_element_type={preferred_element_type}; use float32"
        )
    return jax.lax.dot_general(
        lhs,
        rhs,
        dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )


def _matmul(x: Array, w: Array, *, precision: Any) -> Array:
    x, w, options = operands(x, w, precision)
    return jnp.matmul(x, w, **options)


def _abstract(x: ShapedArray, w: ShapedArray, *, precision: Any) -> ShapedArray:
    del precision
    return ShapedArray((*x.shape[:-1], w.shape[-1]), jnp.promote_types(x.dtype, w.dtype))


def _batch(args: Any, axes: Any, *, precision: Any) -> tuple[Array, int]:
    (x, w), (x_axis, w_axis) = args, axes
    if w_axis is None:  # many x for one matrix: more rows
        x = jnp.moveaxis(x, x_axis, -3)
        y = rows(x.reshape(*x.shape[:-3], -1, x.shape[-1]), w, precision)
        return y.reshape(*x.shape[:-1], w.shape[-1]), y.ndim - 2
    if x_axis is None:  # one x for many matrices: more columns
        w = jnp.moveaxis(w, w_axis, -2)
        y = rows(x, w.reshape(*w.shape[:-2], -1), precision)
        return y.reshape(*y.shape[:-1], *w.shape[-2:]), y.ndim - 1
    return rows(jnp.moveaxis(x, x_axis, 0), jnp.moveaxis(w, w_axis, 0), precision), 0


def _gradient_in_x(cotangent: Array, x: Any, w: Array, *, precision: Any) -> Array:
    return rows(cotangent, w.mT, precision).astype(x.aval.dtype)


def _gradient_in_w(cotangent: Array, x: Array, w: Any, *, precision: Any) -> Array:
    return rows(x.mT, cotangent, precision).astype(w.aval.dtype)


rows_p.def_impl(_matmul)
rows_p.def_abstract_eval(_abstract)
mlir.register_lowering(rows_p, mlir.lower_fun(_matmul, multiple_results=False))
batching.primitive_batchers[rows_p] = _batch
ad.defbilinear(rows_p, _gradient_in_x, _gradient_in_w)
