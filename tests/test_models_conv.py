"""The convolutional VAE of images of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxvae as jv
from tests.support.refusals import refused


def conv_vae(event_shape, **options):
    options = {"latent_dim": 2, "channels": (3, 4)} | options
    return jv.models.conv_vae(jax.random.key(0), event_shape, **options)


@pytest.mark.parametrize("network", ["conv", "residual_conv"])
@pytest.mark.parametrize(
    "event_shape", [(7, 5), (28, 28), (9, 9, 3), [3, 8, 1], (28, 28, 1), (3, 3)]
)
def test_shapes_follow_the_protocol(event_shape, network):
    model = conv_vae(event_shape, network=network)
    assert isinstance(model, jv.Model)
    assert model.prior().event_shape == (2,)
    q = jax.eval_shape(lambda m, x: m.posterior(x).mean, model, jnp.zeros(event_shape))
    mean = jax.eval_shape(lambda m, z: m.likelihood(z).mean, model, jnp.zeros(2))
    assert q.shape == (2,)
    assert mean.shape == tuple(event_shape)


def test_the_declared_distributions():
    model = conv_vae((7, 5, 2), likelihood="gaussian_per_value")
    x, z = jnp.linspace(0, 1, 70).reshape(7, 5, 2), jnp.array([0.5, -1.0])
    q, p = model.posterior(x), model.likelihood(z)
    assert (q.batch_shape, q.event_shape) == ((), (2,))
    assert (p.batch_shape, p.event_shape) == ((), (7, 5, 2))
    mean, raw = np.split(np.float64(model.encoder(x)), 2)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(q.variance, np.logaddexp(0, raw) + 1e-8, rtol=1e-5)
    np.testing.assert_allclose(p.mean, model.decoder(z)[0], rtol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(p.mean, model.decoder(z)[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conv", "residual_conv"])
def test_every_part_gets_a_finite_gradient(network):
    model = conv_vae((7, 5, 2), network=network, activation="elu", likelihood="gaussian")
    x = jax.random.normal(jax.random.key(1), (7, 5, 2))
    gradient = jax.jit(jax.grad(lambda m: jv.elbo(jax.random.key(0), m, x).objective))(model)
    leaves = jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param))
    blocks = 2 * 2 * 2 if network == "residual_conv" else 0  # two networks, two levels, two layers
    assert len(leaves) == 2 * (2 * 3 + blocks) + 1  # kernels and biases, and the variance
    for path, leaf in leaves:
        assert bool(jnp.all(jnp.isfinite(leaf))), jax.tree_util.keystr(path)
        assert bool(jnp.any(leaf != 0)), jax.tree_util.keystr(path)


def test_a_likelihood_with_one_hot_features_has_more_channels():
    model = conv_vae((5, 4), likelihood=jv.models.likelihoods.Categorical(3))
    assert model.encoder.levels[0].kernel[...].shape == (4, 4, 3, 3)
    x = jnp.ones((5, 4)).at[0, 0].set(2.0)
    assert model.posterior(x).event_shape == (2,)
    probabilities = jnp.exp(
        jnp.stack([model.likelihood(jnp.ones(2)).log_prob(x.at[0, 0].set(c)) for c in (0.0, 1, 2)])
    )
    rest = jnp.exp(jv.distributions.log_prob(model.likelihood(jnp.ones(2)), x))
    assert bool(jnp.all(probabilities > 0))
    np.testing.assert_allclose(probabilities[2], rest, rtol=1e-5)


@pytest.mark.slow
def test_it_learns_digits():
    """From log 2 a pixel to well below the entropy of independent pixels, in 150 steps."""
    data = jv.data.load("digits", binarize="threshold")
    stored = data.splits["train"]["x"][:512]
    xs = jax.vmap(lambda x: data.observe(None, x))(stored)
    model, optimizer = conv_vae((8, 8), channels=(8, 16), latent_dim=4), optax.adam(1e-2)
    step = jv.training.make_step(jv.elbo, optimizer)
    state = jv.training.init(jax.random.key(1), model, optimizer)
    batches = xs.reshape(8, 64, 8, 8)

    def body(state, i):
        state, metrics = step(state, batches[i % 8])
        return state, metrics["loss"]

    _, losses = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(150)))(state)
    rate = np.clip(np.float64(xs).mean(0), 1e-6, 1 - 1e-6)
    independent = -np.sum(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    assert 40 < float(losses[0]) < 50
    assert float(jnp.mean(losses[-8:])) < independent - 1


@pytest.mark.parametrize(
    ("event_shape", "options", "words"),
    [
        ((2, 2), {"channels": (2, 2, 2)}, ("event_shape", "channels", "5 x 5", "2 x 2")),
        ((1, 8), {}, ("event_shape", "3 x 3", "1 x 8")),
        ((4,), {}, ("event_shape", "(H, W)", "(4,)")),
        ((8, 0), {}, ("event_shape", "(8, 0)")),
        ((8, 8), {"channels": ()}, ("channels", "()")),
        ((8, 8), {"channels": 3}, ("channels", "3")),
        ((8, 8), {"channels": (3, 0)}, ("channels", "0")),
        ((8, 8), {"network": "mlp"}, ("network", "'mlp'", '"residual_conv"')),
        ((8, 8), {"activation": "sine"}, ("activation", "'sine'")),
        ((8, 8), {"initializer": "zeros"}, ("initializer", "'zeros'")),
        ((8, 8), {"latent_dim": 0}, ("latent_dim", "0")),
        ((8, 8), {"likelihood": "poisso"}, ("likelihood", "'poisso'")),
    ],
)
def test_bad_arguments_are_refused_by_name(event_shape, options, words):
    with refused(*words):
        conv_vae(event_shape, **options)
