"""The model of aligned sequences, and how masks and weights of an alignment reach it."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
from jaxvae.binding import bind
from jaxvae.distributions import log_prob
from tests.support.refusals import refused

L, C, D = 4, 3, 2


def make(columns=L, **options):
    options = {"num_symbols": C, "latent_dim": D, "hidden": (6, 5), "dictionary_size": 7} | options
    model = jv.models.sequence_vae(jax.random.key(0), (columns,), **options)
    # Away from the zero bias, so that a bias in the wrong place shows.
    bias = jax.random.normal(jax.random.key(1), model.decoder.bias[...].shape)
    model.decoder.bias[...] = bias
    return model


def log_p(model, z, x):
    return log_prob(model.likelihood(z), x)


@pytest.fixture(scope="module")
def model():
    return make()


def by_hand(model, z):
    """Logits [C, L] in float64 NumPy."""
    h = np.asarray(z, np.float64)
    *hidden, last = [
        (np.float64(layer.kernel[...]), np.float64(layer.bias[...]))
        for layer in model.decoder.profile.layers
    ]
    for kernel, bias in hidden:
        h = np.maximum(h @ kernel + bias, 0)
    profile = (h @ last[0] + last[1]).reshape(L, 7)
    dictionary = model.decoder.dictionary
    logits = profile @ np.float64(dictionary.kernel[...]) + np.float64(dictionary.bias[...])
    return logits.T + np.float64(model.decoder.bias[...])


def product_of_softmax(logits, x, axis=0):
    p = np.exp(logits) / np.exp(logits).sum(axis, keepdims=True)
    return np.log(p[np.asarray(x, int), np.arange(L)]).sum()


def test_likelihood_is_a_product_of_softmax(model):
    z, x = jnp.array([0.7, -1.2]), jnp.array([2.0, 0.0, 1.0, 2.0])
    found = float(jax.jit(log_p)(model, z, x))
    logits = by_hand(model, z)
    assert np.isclose(found, product_of_softmax(logits, x), rtol=1e-5)
    # Broken twins: columns normalised together, logits in the order [L, C], no dictionary's bias.
    assert not np.isclose(found, product_of_softmax(logits, x, axis=(0, 1)), rtol=1e-3)
    assert not np.isclose(found, product_of_softmax(logits.T.reshape(C, L), x), rtol=1e-3)
    shifted = logits - np.float64(model.decoder.bias[...])
    assert not np.isclose(found, product_of_softmax(shifted, x), rtol=1e-3)


def test_all_sequences_have_probability_one_together(model):
    p = model.likelihood(jnp.array([0.3, 2.0]))
    every = jnp.asarray(list(itertools.product(range(C), repeat=L)), jnp.float32)
    total = jnp.sum(jnp.exp(jax.vmap(lambda x: log_prob(p, x))(every)))
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_shapes_follow_the_protocol(model):
    assert isinstance(model, jv.Model)
    x, z = jnp.zeros(L), jnp.zeros(D)
    for distribution, shape in (
        (model.prior(), (D,)),
        (model.posterior(x), (D,)),
        (model.likelihood(z), (L,)),
    ):
        assert (distribution.batch_shape, distribution.event_shape) == ((), shape)
    assert model.output.support.upper_bound == C - 1


def test_the_encoder_sees_classes_and_no_order(model):
    """One-hot vectors: relabelling the classes and the encoder's rows alike changes nothing."""
    x = jnp.array([2.0, 0.0, 1.0, 2.0])
    kernel = model.encoder.layers[0].kernel
    first = np.asarray(kernel[...]).reshape(L, C, -1)[np.arange(L), np.int32(x)].sum(0)
    seen = model.encoder.layers[0](model.output.features(x).reshape(-1))
    np.testing.assert_allclose(seen - model.encoder.layers[0].bias[...], first, atol=1e-5)


def test_a_missing_residue_is_left_out_and_shown_as_class_0(model):
    x, mask = jnp.array([2.0, 1.0, 1.0, 2.0]), jnp.array([1.0, 0.0, 1.0, 1.0])
    seen, z = bind(model, mask=mask), jnp.array([0.7, -1.2])
    log_p = np.float64(jax.nn.log_softmax(jnp.asarray(by_hand(model, z), jnp.float32), axis=0))
    expected = sum(log_p[int(x[i]), i] for i in (0, 2, 3))
    found = log_prob(seen.likelihood(z), x.at[1].set(jnp.nan))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    gap = model.posterior(x.at[1].set(0.0)).mean
    np.testing.assert_array_equal(seen.posterior(x).mean, gap)
    assert float(jnp.max(jnp.abs(model.posterior(x).mean - gap))) > 1e-3


def test_a_weight_of_two_is_the_sequence_twice(model):
    optimizer = optax.sgd(0.1)
    step = jax.jit(jv.training.make_step(jv.elbo, optimizer))
    a, b = jnp.array([2.0, 0.0, 1.0, 2.0]), jnp.array([0.0, 0.0, 1.0, 1.0])

    def after(rows, index, weight):
        state = jv.training.init(jax.random.key(5), model, optimizer)
        batch = {"x": jnp.stack(rows), "index": jnp.array(index), "weight": jnp.array(weight)}
        state, metrics = step(state, batch)
        return float(metrics["loss"]), state.model.decoder.bias[...]

    twice = after([a, a, b], [0, 0, 1], [1.0, 1.0, 1.0])
    weighed = after([a, b, b], [0, 1, 1], [2.0, 0.5, 0.5])
    alike = after([a, b, b], [0, 1, 1], [1.0, 1.0, 1.0])
    assert weighed[0] == pytest.approx(twice[0], rel=1e-5)
    np.testing.assert_allclose(weighed[1], twice[1], rtol=1e-4, atol=1e-6)
    # The broken twin: weights that are not heeded.
    assert alike[0] != pytest.approx(twice[0], rel=1e-3)


def test_every_part_gets_a_gradient(model):
    x = jnp.array([2.0, 0.0, 1.0, 2.0])

    def bound(model):
        return jv.elbo(jax.random.key(2), model, x).bound

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(bound))(model)):
        assert jnp.any(leaf != 0), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_symbols": 1}, ("num_symbols", "got 1")),
        ({"num_symbols": 2.5}, ("num_symbols", "got 2.5")),
        ({"latent_dim": 0}, ("latent_dim", "got 0")),
        ({"dictionary_size": 0}, ("dictionary_size", "got 0")),
        ({"hidden": (0,)}, ("hidden", "got 0")),
        ({"hidden": 5}, ("hidden", "got 5")),
        ({"activation": "linear"}, ("activation", "got 'linear'")),
        ({"initializer": "zeros"}, ("initializer", "got 'zeros'")),
        ({"columns": 0}, ("event_shape", "got (0,)")),
    ],
)
def test_refused(options, words):
    with refused(*words):
        make(**options)


def test_key_refused():
    with refused("key", "jax.random.key"):
        jv.models.sequence_vae(0, (L,))


@pytest.mark.slow
def test_an_alignment_fits_the_model_and_a_few_steps_run(tmp_path):
    rng = np.random.default_rng(0)
    letters = rng.choice(list("ACDEFGHIKLMNPQRSTVWYX-"), (60, 6))
    letters[0] = list("ACDEFG")
    (tmp_path / "a.fa").write_text("".join(f">s\n{''.join(row)}\n" for row in letters))
    data = jv.data.load(tmp_path / "a.fa")
    model = jv.models.sequence_vae(
        jax.random.key(0), data.event_shape, hidden=(8,), latent_dim=2, dictionary_size=4
    )
    jv.data.require_support(data, model.likelihood(jnp.zeros(2)).support)
    assert set(data.splits["train"]) == {"x", "mask", "weight"}
    optimizer = optax.adam(1e-2)
    state = jv.training.init(jax.random.key(1), model, optimizer)
    _, history = jv.training.fit(
        state,
        jv.training.make_step(jv.elbo, optimizer),
        data,
        batch_size=10,
        total_steps=40,
        eval_every_steps=20,
        validation=jv.elbo,
    )
    assert history[-1]["train"]["loss"] < history[0]["train"]["loss"]
    assert np.isfinite(history[-1]["valid"]["loss"])


@pytest.mark.slow
def test_dhfr_experiment(data_folder, experiment):
    """A few steps; the numbers of the claim take minutes and are in the file."""
    data = str(data_folder / "protein" / "DHFR.a2m")
    options = ["--total-steps", "4", "--hidden", "8", "--test-num-samples", "4"]
    said = experiment("dhfr", "--data", data, *options)
    assert re.search(r"independent sites +\d+\.\d+ \+- \d+\.\d+", said), said
    assert re.search(r"better by +-?\d+\.\d+ \+- \d+\.\d+", said), said
