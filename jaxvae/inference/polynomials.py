"""The degree of a polynomial, determined from its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

LINEAR = frozenset(
    "neg reduce_sum broadcast_in_dim reshape squeeze expand_dims transpose rev copy copy_p cumsum "
    "convert_element_type slice".split()
)
"""Primitives whose result has the degree of their argument."""

SUMS = frozenset("add sub add_any concatenate pad".split())
PRODUCTS = frozenset("mul dot_general rows".split())
INDEXED = frozenset("gather dynamic_slice".split())
CALLS = frozenset("jit pjit closed_call core_call custom_jvp_call remat checkpoint".split())


def degree(function: Callable[[Array], Array], shape: tuple[int, ...]) -> float:
    """Return an upper bound on the degree of a function as a polynomial in z; infinite if it cannot be determined.

    The function is traced, not evaluated, so that the result holds for all z. Operations that are not sums
    and products, such as `abs`, give infinity.

    >>> degree(lambda z: jnp.sum((3 - z) ** 2), (2,)), degree(lambda z: jnp.sum(jnp.abs(z)), (2,))
    (2, inf)
    """
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32))
    return max(_degrees(closed.jaxpr, [1]))


def _degrees(program: Any, given: list[float]) -> list[float]:
    known = dict(zip(program.invars, given, strict=True))

    def of(atom: Any) -> float:
        return (
            0 if hasattr(atom, "val") else known.get(atom, 0)
        )  # constants of the jaxpr have no entry

    for equation in program.eqns:
        found = _of_equation(equation, [of(atom) for atom in equation.invars])
        known |= zip(equation.outvars, found, strict=True)
    return [of(atom) for atom in program.outvars]


def _of_equation(equation: Any, given: list[float]) -> list[float]:
    name, outputs = equation.primitive.name, len(equation.outvars)
    if not any(given):
        return [0] * outputs
    if name in CALLS:
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        return _degrees(getattr(inner, "jaxpr", inner), given)
    if name == "optimization_barrier":
        return given
    if name in LINEAR or name in SUMS:
        return [max(given)]
    if name in PRODUCTS:
        return [sum(given)]
    if name == "square":
        return [2 * given[0]]
    if name == "integer_pow" and equation.params["y"] >= 0:
        return [equation.params["y"] * given[0]]
    if (name == "div" and given[1] == 0) or (name in INDEXED and not any(given[1:])):
        return [given[0]]
    if name == "triangular_solve" and given[0] == 0:
        return [given[1]]
    if name == "select_n" and given[0] == 0:
        return [max(given)]
    return [math.inf] * outputs
