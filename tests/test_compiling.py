"""Options of the compiler belong to the outermost program alone; a function is asked for in any place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.compiling import jit_quickly


@pytest.fixture(autouse=True)
def as_users_compile():
    """The tests switch optimisations off, and with them the options."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def check_goes_anywhere(make):
    square = make(lambda x: x**2)
    x = jnp.arange(3.0)
    for found in (square(x), jax.jit(square)(x), jax.vmap(square)(x), jax.lax.map(square, x)):
        np.testing.assert_array_equal(found, [0, 1, 4])
    assert jax.grad(square)(2.0) == 4
    assert jax.jit(lambda y: y + square(2.0))(1.0) == 5
    assert jax.eval_shape(lambda: square(2.0)).shape == ()
    assert "mul" in str(jax.make_jaxpr(square)(1.0)) or "pow" in str(jax.make_jaxpr(square)(1.0))
    assert square.lower(1.0).compile()(jnp.float32(3.0)) == 9


def test_a_function_is_compiled_in_any_place():
    check_goes_anywhere(jit_quickly)


def test_check_rejects_options_inside_of_another_program():
    def twin(function):
        return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})

    with pytest.raises(ValueError, match="top-level"):
        check_goes_anywhere(twin)
