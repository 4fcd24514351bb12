"""The generator that is written out draws what JAX's draws, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.data import uniform as module


def check(draw):
    for seed, shape in [(0, (1,)), (1, (28, 28)), (2, (3, 5, 2)), (3, ())]:
        key = jax.random.key(seed)
        found, expected = draw(key, shape), jax.random.uniform(key, shape)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    keys = jax.random.split(jax.random.key(4), 6)
    mapped = jax.jit(jax.vmap(lambda key: draw(key, (7,))))(keys)
    np.testing.assert_array_equal(mapped, jax.vmap(lambda key: jax.random.uniform(key, (7,)))(keys))


def test_the_numbers_are_those_of_jax():
    with jax.debug_key_reuse(False):
        check(module.uniform)


@pytest.mark.parametrize("name", ["ROTATIONS", "PARITY"])
def test_check_rejects_another_generator(name, monkeypatch):
    monkeypatch.setattr(module, name, {"ROTATIONS": ((13, 15, 26, 6),) * 2, "PARITY": 0}[name])
    with jax.debug_key_reuse(False), pytest.raises(AssertionError):
        check(module.uniform)


def test_keys_of_another_kind_are_left_to_jax():
    key = jax.random.key(0, impl="rbg")
    with jax.debug_key_reuse(False):
        expected = jax.random.uniform(key, (5,))
        np.testing.assert_array_equal(module.uniform(key, (5,)), expected)
    assert module.uniform(jax.random.key(0), (0, 3)).shape == (0, 3)
    assert jnp.all(module.uniform(jax.random.key(1), (1000,)) < 1)
