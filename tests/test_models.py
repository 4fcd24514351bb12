import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvae as jv
from tests.support.refusals import refused


def vae(**options):
    options = {"latent_dim": 2, "hidden": (5, 3)} | options
    return jv.models.vae(jax.random.key(0), options.pop("event_shape", (2, 3)), **options)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("event_shape", [(4,), (2, 3), [2, 1, 2]])
def test_shapes_follow_the_protocol(event_shape, likelihood):
    model = vae(event_shape=event_shape, likelihood=likelihood)
    assert isinstance(model, jv.Model)
    x, z = jnp.zeros(event_shape), jnp.zeros(2)
    for distribution, shape in (
        (model.prior(), (2,)),
        (model.posterior(x), (2,)),
        (model.likelihood(z), tuple(event_shape)),
    ):
        assert distribution.batch_shape == ()
        assert distribution.event_shape == shape


def test_the_model_is_what_it_declares():
    model = vae()
    x, z = jnp.linspace(-1, 1, 6).reshape(2, 3), jnp.array([0.5, -1.0])
    mean, raw = np.split(np.float64(model.encoder(x)), 2)
    q = model.posterior(x)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(q.variance, np.logaddexp(0, raw) + 1e-8, rtol=1e-5)
    np.testing.assert_array_equal(model.prior().mean, 0)
    np.testing.assert_array_equal(model.prior().variance, 1)
    logits = np.float64(model.decoder(z)).reshape(2, 3)
    np.testing.assert_allclose(model.likelihood(z).mean, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_the_decoder_mirrors_the_encoder():
    model = vae(hidden=(5, 3))
    sizes = [
        [layer.kernel[...].shape for layer in net.layers] for net in (model.encoder, model.decoder)
    ]
    assert sizes == [[(6, 5), (5, 3), (3, 4)], [(2, 3), (3, 5), (5, 6)]]


def test_the_same_key_gives_the_same_weights_and_another_key_others():
    a, b, c = (
        jv.models.vae(jax.random.key(seed), (4,), latent_dim=2, hidden=(3,)) for seed in (0, 0, 1)
    )
    assert jax.tree.all(jax.tree.map(lambda u, v: bool(jnp.all(u == v)), a, b))
    assert not jnp.any(a.encoder.layers[0].kernel[...] == c.encoder.layers[0].kernel[...])


def test_every_part_of_a_model_gets_a_gradient():
    for likelihood in ("bernoulli", "gaussian"):
        model = vae(likelihood=likelihood)
        x = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
        gradient = jax.jit(jax.grad(lambda m, x: jv.elbo(jax.random.key(0), m, x).objective))(
            model, x
        )
        for path, leaf in jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)):
            assert bool(jnp.any(leaf != 0)), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 0}, ("latent_dim", "0")),
        ({"latent_dim": 2.0}, ("latent_dim", "2.0")),
        ({"event_shape": ()}, ("event_shape", "()")),
        ({"event_shape": (0,)}, ("event_shape", "(0,)")),
        ({"event_shape": (2, -1)}, ("event_shape", "(2, -1)")),
        ({"event_shape": 4}, ("event_shape", "4")),
        ({"event_shape": (2.0,)}, ("event_shape", "(2.0,)")),
        ({"hidden": (3, 0)}, ("hidden", "0")),
        ({"hidden": (3, 2.5)}, ("hidden", "2.5")),
        ({"hidden": 3}, ("hidden", "3")),
        ({"activation": "sine"}, ("activation", "'sine'", "tanh")),
        ({"initializer": "zeros"}, ("initializer", "'zeros'", "lecun_normal")),
        ({"likelihood": "poison"}, ("likelihood", "'poison'", "bernoulli")),
    ],
)
def test_bad_arguments_are_refused_by_name(options, words):
    with refused(*words):
        vae(**options)
