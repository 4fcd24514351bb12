import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from jaxvae.networks import MLP, activation_function, linear
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

REFERENCES = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
    "tanh": np.tanh,
}


def forward(network, x, activation):
    """The network in float64 NumPy."""
    h = np.float64(x).ravel()
    layers = list(network.layers)
    for i, layer in enumerate(layers):
        h = h @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...])
        h = REFERENCES[activation](h) if i < len(layers) - 1 else h
    return h


def network(hidden=(5, 4), activation="tanh", seed=0):
    made = MLP(6, hidden, 3, activation=activation, rngs=nnx.Rngs(jax.random.key(seed)))
    for layer in made.layers:
        layer.bias[...] = jnp.linspace(-1, 1, layer.bias[...].size)
    return made


@pytest.mark.parametrize("activation", REFERENCES)
def test_forward_pass_is_the_formula(activation):
    x = np.random.default_rng(0).normal(size=(2, 3))
    made = network(activation=activation)
    np.testing.assert_allclose(made(jnp.float32(x)), forward(made, x, activation), atol=2e-6)
    other = "relu" if activation != "relu" else "tanh"
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(made(jnp.float32(x)), forward(made, x, other), atol=2e-6)


def test_without_hidden_layers_it_is_linear():
    made = network(hidden=())
    a, b = jnp.arange(6.0), jnp.ones(6)
    np.testing.assert_allclose(made(a + b) - made(a), made(b) - made(jnp.zeros(6)), atol=1e-5)


INITIALIZERS = {
    "lecun_normal": lambda fan_in, fan_out: (1 / fan_in, 0.0),
    "glorot_uniform": lambda fan_in, fan_out: (2 / (fan_in + fan_out), 0.0),
    "fan_in_uniform": lambda fan_in, fan_out: (1 / (3 * fan_in), 1 / (3 * fan_in)),
}


def check_initializer(name, expected):
    """Mean and variance of kernel and bias, false alarm 8e-7 in all; the bias of zeros exactly."""
    fan_in, fan_out = 100, 4000
    layer = linear(fan_in, fan_out, initializer=name, rngs=nnx.Rngs(jax.random.key(0)))
    parts = (layer.kernel[...], layer.bias[...])
    for part, variance in zip(parts, expected(fan_in, fan_out), strict=True):
        weights = np.float64(part).ravel()
        assert_mean(weights, 0.0, false_alarm=2e-7, what="mean")
        assert_mean(weights**2, variance, false_alarm=2e-7, what="variance")


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initial_weights_have_the_stated_variance(name):
    check_initializer(name, INITIALIZERS[name])


@pytest.mark.parametrize("name", INITIALIZERS)
def test_check_of_initial_weights_rejects_the_others(name):
    for other in set(INITIALIZERS) - {name}:
        with pytest.raises(AssertionError):
            check_initializer(name, INITIALIZERS[other])


def test_uniform_weights_stay_within_their_limit():
    layer = linear(100, 4000, initializer="fan_in_uniform", rngs=nnx.Rngs(jax.random.key(0)))
    for part in (layer.kernel[...], layer.bias[...]):
        assert 0.099 < float(jnp.max(jnp.abs(part))) <= 0.1


def test_unknown_initializer_is_refused_with_the_known_ones():
    with refused("initializer", "lecun_normal", "glorot_uniform", "'zeros'"):
        linear(2, 3, initializer="zeros", rngs=nnx.Rngs(jax.random.key(0)))


def test_a_network_is_a_pytree():
    made, x = network(), jnp.arange(6.0)
    np.testing.assert_allclose(jax.jit(lambda f, x: f(x))(made, x), made(x), rtol=1e-6)
    gradient = jax.grad(lambda f: jnp.sum(f(x)))(made)
    np.testing.assert_array_equal(gradient.layers[-1].bias[...], 1)


def test_unknown_activation_is_refused_with_the_known_ones():
    with refused("activation", "tanh", "relu", "'sine'"):
        activation_function("sine")


@pytest.mark.parametrize("sizes", [(0, (3,), 2), (3, (0,), 2), (3, (3,), 0), (3, (2.0,), 2)])
def test_sizes_below_one_are_refused(sizes):
    with refused("at least 1"):
        MLP(*sizes, rngs=nnx.Rngs(jax.random.key(0)))
