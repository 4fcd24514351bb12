"""The matrix products of a step alone: a lower bound on the time of the step."""

import math
from collections import Counter
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxvae.bench.blocks import block_of, in_blocks
from jaxvae.bench.products import Product, flop_of
from jaxvae.bench.turns import Run
from jaxvae.training.blocks import compiler_options

Pair: TypeAlias = tuple[Array, Array]


def compile_alone(products: Counter[Product], key: Array) -> Run:
    """Compile a program that computes only these products, each as often as the step does.

    Args:
        products: from `products_of`.
        key: the key that draws the inputs.

    Returns:
        A `Run`, which computes the products of a number of steps, in blocks, and waits for them.
    """
    rights, pairs = jax.jit(partial(inputs, products))(key)
    block = block_of(flop_of(products))

    @partial(jax.jit, donate_argnums=1, compiler_options=compiler_options())
    def compute(rights: list[Array], pairs: list[Pair]) -> list[Pair]:
        return jax.lax.fori_loop(0, block, lambda _, p: once(products, rights, p), pairs)

    def dispatch() -> list[Pair]:
        nonlocal pairs  # passed on, so that no two dispatches run concurrently
        pairs = compute(rights, pairs)
        return pairs

    return in_blocks(block, dispatch)


def once(products: Counter[Product], rights: list[Array], pairs: list[Pair]) -> list[Pair]:
    """Compute all products of one step.

    Every product has its own inputs, and one entry of its left input is taken from its previous
    result: so the compiler can neither merge products, nor drop them, nor move them out of a loop.

    Args:
        products: from `products_of`.
        rights: the right input of each kind of product.
        pairs: the left input and the previous result of each kind.

    Returns:
        The pairs after the step.
    """
    return [
        jax.lax.fori_loop(0, times, partial(_again, kind, right), pair)
        for (kind, times), right, pair in zip(products.items(), rights, pairs, strict=True)
    ]


def inputs(products: Counter[Product], key: Array) -> tuple[list[Array], list[Pair]]:
    """Draw random inputs for each kind of product, scaled so that outputs are about as large as inputs."""
    rights, pairs = [], []
    for i, kind in enumerate(products):
        left_key, right_key = jax.random.split(jax.random.fold_in(key, i))
        left = jax.random.uniform(left_key, *kind.left)
        mean = 2 * math.prod(kind.output[0]) / kind.flop  # 1 / (terms of a sum)
        right = 2 * mean * jax.random.uniform(right_key, *kind.right)
        rights.append(right)
        pairs.append((left, jnp.zeros_like(kind.apply(left, right))))
    return rights, pairs


def _again(kind: Product, right: Array, _: Array, pair: Pair) -> Pair:
    left, output = pair
    first = output[(0,) * output.ndim].astype(left.dtype)
    left = left.at[(0,) * left.ndim].set(first)
    return left, kind.apply(left, right)
