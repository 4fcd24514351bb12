"""What was a crash, or a wrong number, is words, or the right number: weights, sizes and dtypes at their borders."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxvae as jv
from jaxvae.distributions import (
    ContinuousBernoulli,
    DiagonalNormalMixture,
    DiscretizedLogistic,
    FloatBernoulli,
    OneHotCategorical,
    analytic_kl,
    log_prob,
    sample,
)
from tests.support.refusals import refusal

KEY, X = jax.random.key(0), jnp.array([1.0, 0.0, 1.0, 1.0])
MODEL = jv.models.vae(jax.random.key(1), (4,), latent_dim=2, hidden=(3,))
NO_LATENTS = jv.models.autoregressive(jax.random.key(2), (4,), latent_dim=0, hidden=(3,))


def refused(function, *words):
    with refusal() as caught:
        function()
    assert all(word in str(caught.value) for word in words), str(caught.value)


WEIGHTS = {
    "beta": lambda value: jv.elbo(KEY, MODEL, X, beta=value),
    "free_bits": lambda value: jv.elbo(KEY, MODEL, X, free_bits=value),
    "capacity": lambda value: jv.elbo(KEY, MODEL, X, capacity=value),
    "weight": lambda value: jv.autonomous.with_encoder_loss(jv.elbo, lambda *_: X[0], weight=value),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    "value",
    [
        -1.0,
        np.float32(-1),
        jnp.float32(-1),
        jnp.float32(np.nan),
        jnp.ones(2),
        "1",
        1j,
        np.complex64(1),
    ],
)
def test_a_weight_is_one_number_of_at_least_0_whatever_its_type(name, value):
    refused(lambda: WEIGHTS[name](value), f"{name}: expected a finite number of at least 0, got")


def test_free_bits_may_follow_a_schedule():
    traced = jax.jit(lambda bits: jv.elbo(KEY, MODEL, X, free_bits=bits).objective)
    # The rate of each latent alone, with what it must not fall below: not from the library's penalty.
    q = MODEL.posterior(X)
    loc, scale = (np.asarray(a, np.float64) for a in (q.mean, jnp.sqrt(q.variance)))
    rates = (loc**2 + scale**2 - 1) / 2 - np.log(scale)
    plain = jv.elbo(KEY, MODEL, X)
    for bits in (0.0, 0.3, 2.0):
        exact = -float(plain.distortion) - np.maximum(rates, bits).sum()
        np.testing.assert_allclose(traced(bits), exact, rtol=1e-5)
    refused(
        lambda: jax.jit(lambda bits: jv.elbo(KEY, MODEL, X, free_bits=bits, capacity=1.0))(0.5),
        "free_bits: has no effect beside capacity",
    )


def test_a_weight_that_is_an_array_is_evaluated():
    loss = lambda key, model, x: jnp.sum(model.posterior(x).mean ** 2)  # noqa: E731
    objectives = [
        jv.autonomous.with_encoder_loss(jv.elbo, loss, weight=weight)
        for weight in (0.5, jnp.asarray(0.5))
    ]
    found = [jv.evaluation.terms(KEY, MODEL, X[None], objective=o).objective for o in objectives]
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg"])
def test_a_model_without_latents_is_sampled_in_chunks(gradient):
    bound = partial(jv.iwae, KEY, num_samples=5, gradient=gradient)
    exact = log_prob(NO_LATENTS.likelihood(jnp.zeros(0)), X)

    def value(model, chunk_size):
        return bound(model=model, x=X, chunk_size=chunk_size).objective

    found, slopes = jax.jit(jax.value_and_grad(partial(value, chunk_size=2)))(NO_LATENTS)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(slopes), jax.tree.leaves(jax.grad(value)(NO_LATENTS, None)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_latents_are_held_against_no_prior():
    refused(
        lambda: jv.evaluation.aggregate_mmd(KEY, NO_LATENTS, jnp.stack([X, X])),
        "expected one with latents",
        "latent_dim=0",
    )


def test_examples_of_one_number_are_told_how_to_be_written():
    refused(lambda: jv.evaluation.log_likelihood(KEY, MODEL, jnp.ones(5), num_samples=2), "[B, 1]")


@pytest.mark.parametrize("scale", [1e-15, 1e-19, 1e-22, 1e-30])
def test_kl_of_normals_of_tiny_scale(scale):
    q, p = dist.Normal(0.3, scale), dist.Normal(0.0, 1.0)
    exact = (0.3**2 - 1) / 2 - np.log(scale)
    np.testing.assert_allclose(analytic_kl(q, p), exact, rtol=1e-6)
    slope = jax.grad(lambda s: analytic_kl(dist.Normal(0.3, s), p))(scale)
    np.testing.assert_allclose(slope, -1 / scale, rtol=1e-5)
    if scale < 1e-23:  # the twin: the logarithm of the ratio's square, which float32 does not hold
        assert np.float32(scale) ** 2 == 0


def test_a_class_that_cannot_be_costs_nothing_where_it_is_not():
    logits, value = jnp.array([[0.0, -jnp.inf, 1.0]]), jnp.array([1.0, 0.0, 0.0])

    def score(logits):
        return log_prob(OneHotCategorical(logits), value)

    exact = -np.log1p(np.exp(1.0))
    for call in (score, jax.jit(score)):
        np.testing.assert_allclose(call(logits), exact, rtol=1e-6)
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(jax.jit(jax.grad(score))(logits)[0], [p, 0, -p], rtol=1e-5)
    assert score(logits) != log_prob(OneHotCategorical(logits), jnp.array([0.0, 1.0, 0.0]))
    assert np.isnan(jnp.sum(value * jax.nn.log_softmax(logits)[0]))  # the twin: 0 * -inf


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_rows_that_are_not_there_are_not_compared(name):
    """The penalty of two rows is not that of these and a copy."""
    objective = partial(jv.coupled.dip_vae, lambda_off_diagonal=1.0, lambda_diagonal=1.0)
    optimizer = optax.sgd(0.1)
    step = jax.jit(jv.training.make_step(objective, optimizer, batch_coupled=True))
    state = jv.training.init(KEY, MODEL, optimizer)
    rows = jnp.stack([X, 1 - X, X])
    absent = {"x": rows.at[2].set(jnp.nan), name: jnp.array([1.0, 1.0, 0.0])}
    (after, found), (expected, two) = step(state, absent), step(state, rows[:2])
    for a, b in zip(*map(jax.tree.leaves, (after.model, expected.model)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["loss"], two["loss"], rtol=1e-5)
    assert abs(step(state, rows)[1]["loss"] - two["loss"]) > 1e-3


def test_whole_numbers_are_no_levels():
    levels = DiscretizedLogistic(jnp.zeros(2), jnp.zeros(2)).to_event(1)
    refused(
        lambda: log_prob(levels, jnp.array([0, 255], jnp.uint8)),
        "x: expected levels k / 255",
        "uint8",
        "divide",
    )


FAMILIES = {
    "bits": lambda t: FloatBernoulli(logits=t).to_event(1),
    "continuous bits": lambda t: ContinuousBernoulli(t).to_event(1),
    "levels": lambda t: DiscretizedLogistic(t, t).to_event(1),
    "classes": lambda t: OneHotCategorical(t.reshape(2, 2)),
    "mixture": lambda t: DiagonalNormalMixture(t[:2], t.reshape(2, 2), abs(t.reshape(2, 2)) + t[1]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_numbers_as_parameters_cut_nothing_off(name):
    whole = jnp.array([0, 1, 2, -1])
    with jax.numpy_dtype_promotion("standard"):  # NumPyro's own classes add reals to them
        found, exact = (FAMILIES[name](t) for t in (whole, whole.astype(jnp.float32)))
    draws = [sample(family, jax.random.key(3)) for family in (found, exact)]
    np.testing.assert_array_equal(*draws)
    value = jnp.full(exact.event_shape, 0.4)
    np.testing.assert_array_equal(log_prob(found, value), log_prob(exact, value))
    # The twin: a value in the dtype of the parameters.
    assert log_prob(exact, value) != log_prob(exact, value.astype(whole.dtype).astype(jnp.float32))


def test_clusters_of_rows_of_numpy_and_of_whole_numbers():
    rows = np.array([[0, 0], [1, 0], [9, 9], [9, 10]])
    centres, nearest = jv.models.kmeans(KEY, rows, 2)
    np.testing.assert_allclose(sorted(np.asarray(centres)[:, 0]), [0.5, 9.0])
    assert nearest[0] == nearest[1] != nearest[2] == nearest[3]


# Mixtures whose components lie far apart, relative to their scales.


def mixture_gradients(score, distance):
    """Gradients of the mean log-density of draws, in float32 and in float64, of weights, means and scales."""
    rng = np.random.default_rng(0)
    loc = distance * rng.normal(size=(3, 2))
    scale = np.exp(rng.normal(size=(3, 2)) / 4)
    z = np.concatenate([c + s * rng.normal(size=(8, 2)) for c, s in zip(loc, scale, strict=True)])
    arguments = [np.asarray(a, np.float32) for a in (np.zeros(3), loc, scale)]
    z = np.float32(z)

    def value(z, log_weights, loc, scale):
        each = jax.vmap(lambda z: score(z, log_weights, loc, scale))(z)
        return jnp.mean(each)

    slopes = jax.grad(value, argnums=(0, 1, 2, 3))
    found = jax.jit(slopes)(z, *arguments)
    return found, jv.testing.in_float64(slopes, z, *arguments)


def library_score(z, log_weights, loc, scale):
    return DiagonalNormalMixture(log_weights, loc, scale, validate_args=False).log_prob(z)


def multiplied_out_score(z, log_weights, loc, scale):
    """The twin: the square multiplied out, from the centre."""
    centre, precision = jnp.mean(loc, 0), 1 / scale**2
    z, loc = z - centre, loc - centre[None]
    exponents = precision @ z**2 - 2 * (loc * precision) @ z + jnp.sum(loc**2 * precision, 1)
    log_joint = jax.nn.log_softmax(log_weights) - jnp.sum(jnp.log(scale), 1) - exponents / 2
    return jax.nn.logsumexp(log_joint)


def check_mixture_gradients(score, distance):
    """Of z and the means to 1e-7 of the distance, which rounds z itself by as much; of weights and scales to 2e-5."""
    found, exact = mixture_gradients(score, distance)
    moved = max(2e-6, 1e-7 * distance)
    for a, b, limit in zip(found, exact, (moved, 2e-6, moved, 2e-5), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=limit)


@pytest.mark.parametrize("distance", [3.0, 100.0, 10_000.0])
def test_gradients_of_mixtures_far_apart(distance):
    check_mixture_gradients(library_score, distance)
    if distance > 10:
        with pytest.raises(AssertionError):
            check_mixture_gradients(multiplied_out_score, distance)
