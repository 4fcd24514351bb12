"""The VAE of counts: what it declares, against SciPy; its batches; what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxvae as jv
from jaxvae.distributions import log_prob
from tests.support.refusals import refused
from tests.support.slow import slow_but

X = jnp.array([0.0, 3.0, 1.0, 0.0, 12.0, 7.0])


def count_vae(**options):
    return jv.models.count_vae(
        jax.random.key(0), (6,), **{"latent_dim": 2, "hidden": (5,), "activation": "tanh"} | options
    )


def parts(model, z):
    """Mean, r and dropout probability of each gene, float64."""
    params = np.float64(model.decoder(z[:-1])).reshape(-1, 6)
    mean = np.exp(np.float64(z[-1])) * special.softmax(params[0])
    r = np.exp(np.float64(getattr(model, "log_inverse_dispersion", jnp.zeros(6))[...]))
    return mean, r, special.expit(params[-1])


def log_p(likelihood, model, z):
    mean, r, drop = parts(model, z)
    if likelihood == "poisson":
        return stats.poisson.logpmf(X, mean).sum()
    each = stats.nbinom.logpmf(X, r, r / (r + mean))
    if likelihood == "negative_binomial":
        return each.sum()
    return np.log(drop * (np.asarray(X) == 0) + (1 - drop) * np.exp(each)).sum()


def check_likelihood(likelihood, oracle):
    model = count_vae(likelihood=likelihood)
    if likelihood != "poisson":
        model.log_inverse_dispersion[...] = jnp.linspace(-1, 2, 6)
    for z in (jnp.array([0.3, -1.2, 2.5]), jnp.array([2.0, 0.5, 4.0])):
        got = log_prob(model.likelihood(z), X)
        np.testing.assert_allclose(got, oracle(likelihood, model, z), rtol=2e-5)


LIKELIHOODS = ["negative_binomial", "poisson", "zero_inflated_negative_binomial"]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihood_is_of_the_library_times_the_proportions(likelihood):
    check_likelihood(likelihood, log_p)


def without_library(likelihood, model, z):
    return log_p(likelihood, model, z.at[-1].set(0.0))


def sigmoid_for_softmax(likelihood, model, z):
    mean = np.exp(np.float64(z[-1])) * special.expit(np.float64(model.decoder(z[:-1]))[:6])
    return stats.poisson.logpmf(X, mean).sum()


@pytest.mark.parametrize("twin", [without_library, sigmoid_for_softmax])
def test_check_of_the_likelihood_rejects(twin):
    with pytest.raises(AssertionError):
        check_likelihood("poisson", twin)


def test_prior_and_posterior_are_what_they_declare():
    model = count_vae()
    prior, q = model.prior(), model.posterior(X)
    np.testing.assert_allclose(prior.mean, [0, 0, np.log(6)], rtol=1e-6)
    np.testing.assert_allclose(prior.variance, [1, 1, 1], rtol=1e-6)
    output = np.float64(model.encoder(jnp.log1p(X)))
    np.testing.assert_allclose(q.mean, output[:3] + np.array([0, 0, np.log1p(23)]), rtol=1e-5)
    np.testing.assert_allclose(q.variance, np.logaddexp(0, output[3:]), rtol=1e-5)


@pytest.mark.parametrize(
    "likelihood", slow_but(LIKELIHOODS[1:], LIKELIHOODS[1])
)  # the first is in the table of contracts
def test_every_parameter_gets_a_gradient(likelihood):
    model = count_vae(likelihood=likelihood)
    gradient = jax.jit(jax.grad(lambda m: jv.elbo(jax.random.key(1), m, X).bound))(model)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


def test_a_batch_of_the_experiment_is_bound():
    model = count_vae(num_batches=3)
    x = jnp.stack([X, X[::-1]])
    batch = {"x": x, "label": jnp.array([2, 0])}
    got = jv.evaluation.terms(jax.random.key(0), model, batch, objective=jv.elbo).rate
    one = jax.jit(
        lambda model, label, row: jv.elbo(jax.random.key(0), model.given(label), row).rate
    )
    each = [one(model, jnp.int32(label), row) for row, label in zip(x, (2, 0), strict=True)]
    np.testing.assert_allclose(got, each, rtol=1e-5)
    assert model.given(1).posterior(X).mean[0] != model.given(2).posterior(X).mean[0]


@pytest.mark.slow
def test_it_learns_that_counts_are_overdispersed():
    """The library size of simulated cells is found, and the objective rises."""
    rng = np.random.default_rng(0)
    library = np.exp(rng.normal(4, 0.7, size=128))
    x = rng.poisson(library[:, None] * rng.gamma(1.0, 1.0, size=(128, 6)) / 6).astype(np.float32)
    import optax

    optimizer = optax.adam(1e-2)
    step = jax.jit(jv.training.make_step(partial(jv.elbo, num_samples=2), optimizer))
    state = jv.training.init(jax.random.key(1), count_vae(), optimizer)
    losses = []
    for _ in range(150):
        state, metrics = step(state, jnp.asarray(x))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < losses[0] - 2
    means = jv.evaluation.posterior_moments(state.model, x).mean[:, -1]
    assert np.corrcoef(means, np.log(library))[0, 1] > 0.7


def test_refusals():
    with refused("event_shape", "(2, 3)"):
        jv.models.count_vae(jax.random.key(0), (2, 3))
    with refused("likelihood", "negative_binomial", "gaussian"):
        count_vae(likelihood="gaussian")
    with refused("num_batches", "0"):
        count_vae(num_batches=0)
    with refused("y", "3"):
        count_vae(num_batches=3).given(3)
