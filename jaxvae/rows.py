"""`x @ w` for one example, which stays one matrix product under any number of `vmap`s.

A layer sees one vector. Under `vmap` over samples and examples, JAX makes of `x @ w` a product of
[B, K, I] by [I, O], whose weight gradient contracts two axes; XLA then copies the transposed
cotangent, the largest array of the step, before it multiplies (a fifth of the step of an IWAE with
K = 50 on a CPU). Here each `vmap` folds its axis into the rows of one [B * K, I] matrix instead, so that
the forward and both backward products are plain two-dimensional ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

rows_p = Primitive("rows")


def rows(
    x: Float[Array, "N I"], w: Float[Array, "I O"], precision: Any = None
) -> Float[Array, "N O"]:
    """`x @ w`, a bilinear primitive whose batching rule folds axes of x into its rows."""
    return rows_p.bind(x, w, precision=precision)


def dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> Array:
    """What `nnx.Linear` takes as its `dot_general`: `rows` for one vector, else JAX's own."""
    vector_by_matrix = (((0,), (0,)), ((), ()))
    if lhs.ndim == 1 and preferred_element_type is None and dimension_numbers == vector_by_matrix:
        return rows(lhs[None], rhs, precision)[0]
    return jax.lax.dot_general(
        lhs,
        rhs,
        dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )


def _matmul(x: Array, w: Array, *, precision: Any) -> Array:
    return jnp.matmul(x, w, precision=precision)


def _abstract(x: ShapedArray, w: ShapedArray, *, precision: Any) -> ShapedArray:
    del precision
    return ShapedArray((x.shape[0], w.shape[1]), jnp.promote_types(x.dtype, w.dtype))


def _batch(args: Any, axes: Any, *, precision: Any) -> tuple[Array, int]:
    (x, w), (x_axis, w_axis) = args, axes
    if w_axis is not None:  # a matrix for each: many models at once
        one = jax.vmap(lambda x, w: _matmul(x, w, precision=precision), (x_axis, w_axis))
        return one(x, w), 0
    x = jnp.moveaxis(x, x_axis, 0)
    folded = rows(x.reshape(-1, x.shape[-1]), w, precision)
    return folded.reshape(*x.shape[:-1], w.shape[-1]), 0


def _gradient_in_x(cotangent: Array, x: Any, w: Array, *, precision: Any) -> Array:
    del x
    return rows(cotangent, w.T, precision)


def _gradient_in_w(cotangent: Array, x: Array, w: Any, *, precision: Any) -> Array:
    del w
    return _matmul(x.T, cotangent, precision=precision)


rows_p.def_impl(_matmul)
rows_p.def_abstract_eval(_abstract)
mlir.register_lowering(rows_p, mlir.lower_fun(_matmul, multiple_results=False))
batching.primitive_batchers[rows_p] = _batch
ad.defbilinear(rows_p, _gradient_in_x, _gradient_in_w)
