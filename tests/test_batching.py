from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae import batching
from jaxvae import keys as keys_of
from tests.support import oracles
from tests.support.refusals import refused


def check_map(mapping):
    """Bits of the row and of its key, at any batch size, the last batch ragged."""
    xs, key = jnp.arange(22.0).reshape(11, 2), jax.random.key(1)

    def function(key, x):
        return x + jax.random.normal(key, (2,)), jnp.sum(x)

    keys = [jax.random.fold_in(key, i) for i in range(11)]
    noise = np.stack([jax.random.normal(k, (2,)) for k in keys])
    for batch_size in (1, 3, 4, 11, 100):
        value, total = jax.jit(partial(mapping, function, batch_size=batch_size))(key, xs)
        np.testing.assert_allclose(value, xs + noise, rtol=1e-6)
        np.testing.assert_array_equal(total, np.sum(xs, axis=1))


def test_map_examples_does_not_depend_on_the_batch_size():
    check_map(batching.map_examples)


def test_check_of_map_rejects_a_dropped_remainder_and_keys_of_the_batch():
    def dropping(function, key, xs, *, batch_size):
        size = len(xs) // batch_size * batch_size
        return batching.map_examples(function, key, xs[:size], batch_size=batch_size)

    def one_key_a_batch(function, key, xs, *, batch_size):
        keys = keys_of.fold_each(key, jnp.arange(len(xs)) // batch_size)
        return jax.vmap(function)(keys, xs)

    for twin in (dropping, one_key_a_batch):
        with pytest.raises((AssertionError, jv.InputError)):
            check_map(twin)


def test_map_examples_refuses_no_rows_and_bad_sizes():
    function, key = (lambda key, x: x), jax.random.key(0)
    for rows in (jnp.zeros((0, 2)), jnp.zeros(())):
        with refused("xs", str(rows.shape)):
            batching.map_examples(function, key, rows, batch_size=2)
    for size in (0, True, 1.5):
        with refused("batch_size", repr(size)):
            batching.map_examples(function, key, jnp.zeros((3, 2)), batch_size=size)


def test_over_batch_is_the_objective_of_each_example():
    model = oracles.linear_gaussian()
    xs = jnp.asarray(oracles.draw_x(model, 0, 4))
    keys = keys_of.example_keys(jax.random.key(0), 0, jnp.arange(4))
    terms = jax.jit(partial(batching.over_batch, jv.elbo, beta=2.0))(
        keys, model, batching.unpack(xs)
    )
    one = jax.jit(partial(jv.elbo, beta=2.0))
    each = [one(k, model, x) for k, x in zip(keys, xs, strict=True)]
    np.testing.assert_allclose(np.stack(terms, axis=1), np.array(each), rtol=2e-6)


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_a_weight_below_zero_is_refused_or_makes_nan(name):
    """A trace hides the values: there the mean is NaN, not one that looks right."""

    def mean(weight):
        examples = batching.unpack({"x": jnp.ones((3, 2)), name: weight})
        return jnp.sum(examples.weight) / 3

    for wrong in ([1.0, -1.0, 1.0], [1.0, np.nan, 1.0]):
        with refused("batch", name, "not negative", "at 1"):
            mean(np.array(wrong))
        assert np.isnan(jax.jit(mean)(jnp.array(wrong)))
    np.testing.assert_allclose(jax.jit(mean)(jnp.array([2.0, 0.0, 1.0])), 1.0)


def test_unpack_fills_in_the_index():
    x = np.ones((3, 2), np.float32)
    for batch in (x, {"x": x}, {"x": x, "label": np.zeros(3, np.int32)}):
        examples = batching.unpack(batch)
        np.testing.assert_array_equal(examples.x, x)
        np.testing.assert_array_equal(examples.index, [0, 1, 2])
        assert examples.mask is None
        assert examples.weight is None


@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
def test_unpack_keeps_the_weights_whatever_the_type_of_x(dtype):
    for mask in ([1.0, 0.5], [True, False], [1, 0]):
        got = batching.unpack({"x": jnp.ones((2, 2), dtype), "mask": jnp.asarray(mask)}).weight
        np.testing.assert_array_equal(got, np.float32(mask))
        assert got.dtype == jnp.float32, "weights and their sum need float32"


X = jnp.ones((3, 2))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({}, ("x",)),
        ({"mask": jnp.ones(3)}, ("x", "mask")),
        ({"x": X, "wait": jnp.ones(3)}, ("wait",)),
        ({"x": X, "weight": jnp.ones(2)}, ("weight", "(3,)", "(2,)")),
        ({"x": X, "label": jnp.ones(3)}, ("label", "integers", "float32")),
        ({"x": X, "mask": jnp.ones((3, 3))}, ("mask", "(3, 2)", "(3, 3)")),
        ({"x": X, "mask": jnp.ones(2)}, ("mask", "(3,)", "(2,)")),
        ({"x": X, "mask": jnp.ones((3, 1))}, ("mask", "(3,)", "(3, 1)")),
        ({"x": X, "index": jnp.arange(4)}, ("index", "(3,)", "(4,)")),
        ({"x": X, "label": np.array(["a", "b", "a"])}, ("label", "integers", "<U1")),
        (jnp.ones(3), ("x", "(3,)")),
        (jnp.ones((0, 2)), ("x", "(0, 2)")),
    ],
)
def test_unpack_refuses(batch, words):
    with refused("batch", *words):
        batching.unpack(batch)
