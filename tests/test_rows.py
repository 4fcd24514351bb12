"""`rows` is `x @ w` under every transformation, and its gradient is one two-dimensional product."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.rows import dot_general

X = jax.random.normal(jax.random.key(0), (5, 4, 3))
W = jax.random.normal(jax.random.key(1), (3, 2))
WS = jax.random.normal(jax.random.key(2), (6, 3, 2))


def ours(x, w):
    return dot_general(x, w, (((0,), (0,)), ((), ())))


def plain(x, w):
    return jax.lax.dot_general(x, w, (((0,), (0,)), ((), ())))


def transposed(x, w):
    """A twin with a bug that no shape shows: the rows in another order."""
    return jnp.flip(plain(x, w), 0)


def batched(one):
    return lambda w: jnp.sum(jax.vmap(jax.vmap(one, (0, None)), (0, None))(X, w) ** 3 * WEIGHTS)


WEIGHTS = jax.random.normal(jax.random.key(3), (5, 4, 2))
SHARED = jax.random.normal(jax.random.key(4), (4, 6, 2))

TRANSFORMED = {
    "one example": lambda one: one(X[0, 0], W),
    "two axes": lambda one: batched(one)(W),
    "gradient": lambda one: jax.jit(jax.grad(batched(one)))(W),
    "hessian": lambda one: jax.hessian(batched(one))(W),
    "many models": lambda one: jax.vmap(jax.grad(batched(one)))(WS),
    "derivative of many models": lambda one: jax.grad(
        lambda ws: jnp.sum(jax.vmap(batched(one))(ws))
    )(WS),
    "many models of one example": lambda one: jax.grad(
        lambda x: jnp.sum(jax.vmap(lambda x: jax.vmap(one, (None, 0))(x, WS))(x) ** 3 * SHARED)
    )(X[0]),
    "gradient of each example": lambda one: jax.vmap(
        jax.grad(lambda w, x: jnp.sum(one(x, w) ** 3 * WEIGHTS[0, 0])), (None, 0)
    )(W, X[0]),
    "gradient in x": lambda one: jax.grad(lambda x: jnp.sum(one(x, W) ** 3 * WEIGHTS[0, 0]))(
        X[0, 0]
    ),
    "rematerialised": lambda one: jax.grad(jax.checkpoint(batched(one)))(W),
    "another axis": lambda one: jax.vmap(one, (1, None))(X[0].T, W),
}


@pytest.mark.parametrize("how", TRANSFORMED.values(), ids=TRANSFORMED)
def test_it_is_the_product(how):
    np.testing.assert_allclose(how(ours), how(plain), rtol=2e-5, atol=2e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(how(transposed), how(plain), rtol=2e-5, atol=2e-5)


def contractions(one) -> list[str]:
    """The contracted axes of every product in the program of the weight gradient."""
    text = jax.jit(jax.grad(batched(one))).lower(W).as_text()
    return re.findall(r"contracting_dims = (\[[\d, ]*\])", text)


def test_its_gradient_contracts_one_axis():
    assert all("," not in axes for axes in contractions(ours))
    assert any("," in axes for axes in contractions(plain))
