"""The conditional VAE: its declaration, its labels, and that it learns what a label says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae.binding import nan_where_not, one_hot
from jaxvae.types import Conditional
from tests.support.refusals import refused
from tests.support.slow import slow_but


def conditional(event_shape=(2, 3), **options):
    options = {"num_classes": 3, "latent_dim": 2, "hidden": (5,)} | options
    return jv.models.conditional_vae(jax.random.key(0), event_shape, **options)


X, Z = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]), jnp.array([0.5, -1.0])


def test_it_is_a_model_only_once_the_class_is_bound():
    model = conditional()
    assert isinstance(model, Conditional)
    assert not isinstance(model, jv.Model)
    plain = model.given(1)
    assert isinstance(plain, jv.Model)
    assert (plain.prior().event_shape, plain.posterior(X).event_shape) == ((2,), (2,))
    assert (plain.likelihood(Z).batch_shape, plain.likelihood(Z).event_shape) == ((), (2, 3))


def forward(network, x):
    """A network of one hidden layer in float64 NumPy."""
    first, last = (
        (np.float64(layer.kernel[...]), np.float64(layer.bias[...])) for layer in network.layers
    )
    return np.tanh(x @ first[0] + first[1]) @ last[0] + last[1]


@pytest.mark.parametrize("y", [0, 1, 2])
def test_the_class_joins_the_inputs_as_a_one_hot_vector(y):
    model = conditional()
    plain, other = model.given(y), np.eye(3)[(y + 1) % 3]
    mean = np.split(forward(model.encoder, np.concatenate([np.ravel(X), np.eye(3)[y]])), 2)[0]
    np.testing.assert_allclose(plain.posterior(X).mean, mean, atol=1e-6)
    logits = forward(model.decoder, np.concatenate([Z, np.eye(3)[y]])).reshape(2, 3)
    np.testing.assert_allclose(plain.likelihood(Z).mean, 1 / (1 + np.exp(-logits)), atol=1e-6)
    mean = np.split(forward(model.encoder, np.concatenate([np.ravel(X), other])), 2)[0]
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(plain.posterior(X).mean, mean, atol=1e-6)


def check_one_hot(function):
    found = jax.jit(jax.vmap(lambda y: function(y, 3)))(jnp.arange(-1, 4))
    np.testing.assert_array_equal(found[1:4], np.eye(3))
    assert np.isnan(found[jnp.array([0, 4])]).all()


def test_one_hot_vectors():
    check_one_hot(one_hot)


def test_check_of_one_hot_rejects_zeros():
    with pytest.raises(AssertionError):
        check_one_hot(jax.nn.one_hot)


def test_what_does_not_hold_makes_nan():
    """Also where each operation runs by itself under `jax_debug_nans`, which a NaN written down would end."""
    for way in (nan_where_not, jax.jit(nan_where_not)):
        np.testing.assert_array_equal(way(jnp.array([1.0, 0.0])), [0.0, np.nan])
    with jax.debug_nans(True), jax.disable_jit():
        assert nan_where_not(jnp.array(1.0)) == 0


GIVEN = {
    "conditional": conditional,
    "ssvae": lambda: jv.models.ssvae(jax.random.key(0), (2, 3), num_classes=3, latent_dim=2),
    "count_vae": lambda: jv.models.count_vae(jax.random.key(0), (6,), num_batches=3),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_label_that_is_no_class_makes_nan_where_a_trace_hides_it(name):
    """`jax.nn.one_hot` gives zeros, and with them bounds that look right."""
    bound = jax.jit(lambda model, y: jv.elbo(jax.random.key(1), model.given(y), x).bound)
    model = GIVEN[name]()
    x = X.reshape(-1) if name == "count_vae" else X
    for y, is_class in ((0, True), (2, True), (3, False), (-1, False)):
        assert np.isfinite(bound(model, jnp.array(y))) == is_class, y


def test_labels_may_be_traced_and_mapped():
    model, ys = conditional(), jnp.array([2, 0, 1])
    means = jax.jit(jax.vmap(lambda m, y: m.given(y).posterior(X).mean, (None, 0)))(model, ys)
    for y, mean in zip((2, 0, 1), means, strict=True):
        np.testing.assert_allclose(mean, model.given(y).posterior(X).mean, rtol=1e-5)


def test_what_given_returns_is_a_pytree_that_objectives_and_estimators_take():
    plain = conditional().given(jnp.int32(1))
    key = jax.random.key(0)
    values = [
        jv.iwae(key, plain, X, num_samples=3, gradient=gradient).bound
        for gradient in ("pathwise", "stl", "dreg")
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


@pytest.mark.parametrize("network", slow_but(["mlp", "gated", "residual"], "mlp"))
def test_every_weight_gets_a_gradient_from_a_batch_of_all_classes(network):
    model, optimizer = conditional(network=network), optax.sgd(1.0)
    batch = {"x": jnp.stack([X, 1 - X, X]), "label": jnp.arange(3)}
    step = jax.jit(jv.training.make_step(jv.elbo, optimizer))
    state, _ = step(jv.training.init(jax.random.key(1), model, optimizer), batch)
    before, after = nnx.state(model, nnx.Param), nnx.state(state.model, nnx.Param)
    for path, change in jax.tree.leaves_with_path(jax.tree.map(jnp.subtract, after, before)):
        assert bool(jnp.all(jnp.isfinite(change))), jax.tree_util.keystr(path)
        assert bool(jnp.any(change != 0)), jax.tree_util.keystr(path)


def trained_on_digits(num_steps):
    data = jv.data.load("digits", binarize="threshold")
    observe = jax.vmap(lambda x: data.observe(None, x))
    train, test = (
        {
            "x": observe(split["x"]),
            "label": jnp.asarray(jv.models.require_labels(split["label"], data.num_classes)),
        }
        for split in (data.splits["train"], data.splits["test"])
    )
    model = conditional((8, 8), num_classes=10, latent_dim=4, hidden=(64,))
    optimizer = optax.adam(3e-3)
    step = jv.training.make_step(jv.elbo, optimizer)
    order = np.random.default_rng(0).integers(0, len(train["x"]), (num_steps, 64))

    def body(state, rows):
        return step(state, jax.tree.map(lambda a: a[rows], train))

    state = jv.training.init(jax.random.key(1), model, optimizer)
    state, metrics = jax.jit(lambda s: jax.lax.scan(body, s, jnp.asarray(order)))(state)
    return state.model, metrics["loss"], test


@pytest.mark.slow
def test_a_trained_model_prefers_the_right_label():
    model, losses, test = trained_on_digits(400)
    assert float(losses[0]) > 40
    assert float(jnp.mean(losses[-20:])) < 24
    wrong = test | {"label": (test["label"] + 1) % 10}
    right, wrong = (
        jv.evaluation.log_likelihood(jax.random.key(2), model, batch, num_samples=20).estimate
        for batch in (test, wrong)
    )
    assert np.mean(right - wrong) > 5
    assert np.mean(right > wrong) > 0.9
    single = jv.iwae(jax.random.key(0), model.given(3), test["x"][0], num_samples=20)
    assert bool(jnp.isfinite(single.bound))


def test_examples_without_labels_are_refused():
    with refused("label", "ConditionalVAE"):
        jv.evaluation.log_likelihood(jax.random.key(0), conditional(), X[None], num_samples=2)


@pytest.mark.parametrize(
    "y", [3, -1, 1.0, "1", True, None, np.float32(1), jnp.ones(()), jnp.arange(2), np.int64(7)]
)
def test_what_is_no_class_is_refused(y):
    with refused("y: expected one class, an integer from 0 to 2"):
        conditional().given(y)


@pytest.mark.parametrize("y", [1, np.int64(1), np.uint8(1), jnp.int32(1), jnp.uint8(1)])
def test_integers_of_every_type_are_classes(y):
    plain = conditional().given(y)
    assert plain.y.dtype == jnp.int32
    assert int(plain.y) == 1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 3, 1], ("0 to 2", "got 3 at 1", "1 of 3")),
        ([0, -1], ("got -1 at 1",)),
        ([0.0, 1.0], ("float64",)),
        ([True, False], ("bool",)),
        (["a"], ("integers", "<U1")),
        ([[0, 1]], ("(1, 2)",)),
        (2, ("()",)),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, words):
    with refused("label", *words):
        jv.models.require_labels(labels, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 1}, ("num_classes", "1")),
        ({"num_classes": 3.0}, ("num_classes", "3.0")),
        ({"latent_dim": 0}, ("latent_dim", "0")),
        ({"network": "gated", "activation": "tanh"}, ("activation", "'tanh'")),
        ({"likelihood": "poisso"}, ("likelihood", "'poisso'")),
        ({"event_shape": ()}, ("event_shape", "()")),
    ],
)
def test_bad_arguments_are_refused_by_name(options, words):
    with refused(*words):
        conditional(**options)
