"""Flop of traced programs against counts by hand; a counter that is wrong on purpose is caught."""

import itertools
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxvae as jv
from jaxvae.bench import flop_of, products_of
from jaxvae.bench.alone import inputs, once
from jaxvae.bench.products import COUNTED
from jaxvae.networks.strided import convolve

B, SIZES = 5, (7, 6, 4)


def zeros(*shape):
    return jnp.zeros(shape)


def mlp(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return jnp.sum(x)


def by_hand():
    """Forward 2 B I O a layer; backward as much for w, and for x in all layers but the first."""
    pairs = list(itertools.pairwise(SIZES))
    forward = sum(2 * B * i * o for i, o in pairs)
    return forward, 3 * forward - 2 * B * pairs[0][0] * pairs[0][1]


WEIGHTS = [zeros(i, o) for i, o in itertools.pairwise(SIZES)]


def test_mlp_forward_and_backward():
    forward, both = by_hand()
    assert flop_of(products_of(mlp, WEIGHTS, zeros(B, SIZES[0]))) == forward
    assert flop_of(products_of(jax.value_and_grad(mlp), WEIGHTS, zeros(B, SIZES[0]))) == both


def test_products_inside_jit_checkpoint_and_scan():
    x = zeros(B, SIZES[0])
    forward, _ = by_hand()
    assert flop_of(products_of(jax.jit(mlp), WEIGHTS, x)) == forward

    def scanned(weights, x):
        return jax.lax.scan(lambda sum, _: (sum + mlp(weights, x), None), 0.0, length=9)[0]

    found = products_of(scanned, WEIGHTS, x)
    assert flop_of(found) == 9 * forward
    once_each = Counter(dict.fromkeys(found, 1))  # the twin that does not see the loop
    assert flop_of(once_each) != 9 * forward
    recomputed = jax.grad(jax.checkpoint(mlp))
    assert flop_of(products_of(recomputed, WEIGHTS, x)) >= by_hand()[1]


def test_the_dearest_branch_counts():
    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w) @ (w.T @ w))

    x, w = zeros(3, 4), zeros(4, 2)
    assert flop_of(products_of(branch, x, w)) == 2 * (3 * 4 * 2 + 2 * 4 * 2 + 3 * 2 * 2)


def test_a_loop_of_unknown_length_is_not_guessed():
    def loop(x, n):
        return jax.lax.fori_loop(0, n, lambda _, x: x @ x, x)

    with pytest.raises(ValueError, match="loops of a known length"):
        products_of(loop, zeros(3, 3), jnp.int32(4))


def convolution(x, w):
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=dimensions)
    return jnp.sum(jnp.tanh(y))


def test_strided_convolution_forward_and_backward():
    """28 x 28 to 14 x 14 by 4 x 4 kernels: each of the three passes does the same multiplications."""
    x, w = zeros(B, 28, 28, 3), zeros(4, 4, 3, 8)
    one = 2 * B * 14 * 14 * 8 * 4 * 4 * 3
    assert flop_of(products_of(convolution, x, w)) == one
    found = products_of(jax.value_and_grad(convolution, (0, 1)), x, w)
    assert flop_of(found) == 3 * one
    with_zeros = sum(
        times * product.flop * math.prod(dict(product.params)["lhs_dilation"])
        for product, times in found.items()
    )  # the twin that counts the zeros between the values of a dilated input
    assert with_zeros == 6 * one


def test_the_convolutions_of_the_networks():
    x, w = zeros(B, 28, 28, 3), zeros(4, 4, 3, 8)
    one = 2 * B * 14 * 14 * 8 * 4 * 4 * 3

    def own(x, w):
        return jnp.sum(jnp.tanh(convolve(x, w, stride=2)))

    assert flop_of(products_of(own, x, w)) == one
    found = products_of(jax.value_and_grad(own, (0, 1)), x, w)
    assert flop_of(found) == 3 * one
    assert len(found) == 3


def test_every_primitive_of_the_library_is_counted():
    sources = Path(jv.__file__).parent.rglob("*.py")
    defined = {n for p in sources for n in re.findall(r'= Primitive\("(\w+)"\)', p.read_text())}
    assert defined
    assert defined <= {primitive.name for primitive in COUNTED}


def test_training_step_of_an_iwae():
    """9-6-z2: three passes a layer, without the gradient in x; the decoder works on K samples."""
    num_samples, batch_size = 3, 5
    model = jv.models.vae(jax.random.key(0), (9,), latent_dim=2, hidden=(6,))
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(partial(jv.iwae, num_samples=num_samples), optimizer)
    state = jax.eval_shape(lambda: jv.training.init(jax.random.key(1), model, optimizer))
    encoder = 2 * batch_size * (2 * 9 * 6 + 3 * 6 * 4)
    decoder = 2 * batch_size * num_samples * 3 * (2 * 6 + 6 * 9)
    assert flop_of(products_of(step, state, zeros(batch_size, 9))) == encoder + decoder


def cost(program):
    return program.cost_analysis()["flops"]


def test_products_alone_are_those_of_the_step():
    def step(weights, x):
        return jax.value_and_grad(mlp)(weights, x), x @ weights[0], x @ weights[0]

    found = products_of(step, WEIGHTS, zeros(B, SIZES[0]))
    assert max(found.values()) == 3
    rights, pairs = inputs(found, jax.random.key(3))
    assert products_of(partial(once, found), rights, pairs) == found
    program = jax.jit(partial(once, found)).lower(rights, pairs).compile()
    least = sum(kind.flop for kind in found)  # the analysis counts the body of a loop once
    assert cost(program) >= least
    for (_, before), (_, after) in zip(pairs, program(rights, pairs), strict=True):
        assert float(jnp.sum(jnp.abs(after))) > 0 == float(jnp.sum(jnp.abs(before)))

    def fed_alike(left, right):  # the twin: equal products of equal inputs become one
        return [left @ right for _ in range(4)]

    merged = jax.jit(fed_alike).lower(zeros(6, 5), zeros(5, 6)).compile()
    assert cost(merged) < 4 * 2 * 6 * 5 * 6
