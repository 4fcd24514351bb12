import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import jaxvae as jv
from jaxvae.networks import MLP, GatedMLP, ResidualMLP, activation_function, linear
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


def weights(layer):
    return np.float64(layer.kernel[...]), np.float64(layer.bias[...])


def gated(network, x):
    """The gated network in float64 NumPy."""
    h = np.float64(x).ravel()
    for layer in network.layers:
        (a, a0), (b, b0) = weights(layer.value), weights(layer.gate)
        h = (h @ a + a0) / (1 + np.exp(-(h @ b + b0)))
    c, c0 = weights(network.last)
    return h @ c + c0


def residual(network, x, act, skip=1.0):
    """The residual network in float64 NumPy; `skip=0` is a twin without the connections."""
    h = np.float64(x).ravel()
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            a, a0 = weights(layer)
            h = h @ a + a0
        else:
            (a, a0), (b, b0) = weights(layer.first), weights(layer.second)
            h = skip * h + act(act(h) @ a + a0) @ b + b0
    return h


def made_of(kind, hidden, **options):
    """A network of 6 inputs and 3 outputs whose biases are not zero."""
    rngs = nnx.Rngs(jax.random.key(0))
    return kind(6, hidden, 3, initializer="fan_in_uniform", rngs=rngs, **options)


HIDDEN = [(), (5,), (5, 5), (5, 4, 4)]
X = np.random.default_rng(0).normal(size=(2, 3))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_gated_layers_are_the_formula(hidden):
    made = made_of(GatedMLP, hidden)
    np.testing.assert_allclose(made(jnp.float32(X)), gated(made, X), atol=2e-6)
    if hidden:  # a twin whose values and gates change places
        for layer in made.layers:
            layer.value, layer.gate = layer.gate, layer.value
        swapped = gated(made, X)
        for layer in made.layers:
            layer.value, layer.gate = layer.gate, layer.value
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(made(jnp.float32(X)), swapped, atol=2e-6)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_residual_blocks_are_the_formula(hidden, activation):
    made, act = (
        made_of(ResidualMLP, hidden, activation=activation),
        REFERENCES[activation or "tanh"],
    )
    np.testing.assert_allclose(made(jnp.float32(X)), residual(made, X, act), atol=2e-6)
    if hidden:
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(made(jnp.float32(X)), residual(made, X, act, 0.0), atol=2e-6)


def test_the_widths_of_residual_blocks():
    layers = made_of(ResidualMLP, (5, 5, 4)).layers
    shapes = [layer.kernel[...].shape for layer in layers if hasattr(layer, "kernel")]
    assert shapes == [(6, 5), (5, 4), (4, 3)]
    assert len(layers) == len(shapes) + 3


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "gated", "residual"])
def test_a_vae_of_every_network(network):
    options = {"latent_dim": 2, "hidden": (5, 3), "network": network}
    model = jv.models.vae(jax.random.key(0), (2, 3), **options)
    assert model.posterior(jnp.zeros((2, 3))).event_shape == (2,)
    assert model.likelihood(jnp.zeros(2)).event_shape == (2, 3)
    x = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    gradient = jax.jit(jax.grad(lambda m: jv.elbo(jax.random.key(0), m, x).objective))(model)
    for path, leaf in jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)):
        assert bool(jnp.all(jnp.isfinite(leaf))), jax.tree_util.keystr(path)
        assert bool(jnp.any(leaf != 0)), jax.tree_util.keystr(path)


def test_without_a_choice_the_network_is_an_mlp_with_tanh():
    a, b = (
        jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,), **options)
        for options in ({}, {"network": "mlp", "activation": "tanh"})
    )
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(a.encoder(x), b.encoder(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "gated", "activation": "relu"}, ("activation", "gated", "'relu'")),
        ({"network": "residual", "activation": "sine"}, ("activation", "'sine'")),
        ({"network": "residual", "hidden": (), "activation": "sine"}, ("activation", "'sine'")),
        ({"network": "conv"}, ("network", "'conv'", '"gated"')),
        ({"network": None}, ("network", "None")),
        ({"network": "gated", "hidden": 3}, ("hidden", "3")),
        ({"network": "residual", "hidden": (3, 0)}, ("hidden", "0")),
    ],
)
def test_networks_that_cannot_be_are_refused(options, words):
    with refused(*words):
        jv.models.vae(jax.random.key(0), (4,), **{"latent_dim": 2, "hidden": (3,)} | options)


@pytest.mark.parametrize("kind", [MLP, GatedMLP, ResidualMLP])
def test_a_batch_is_refused(kind):
    with refused("x", "6 values", "jax.vmap"):
        made_of(kind, (5,))(jnp.zeros((2, 6)))
