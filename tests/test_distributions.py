import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

from jaxvae.distributions import (
    analytic_kl,
    describe,
    log_prob,
    require_event,
    require_one_event,
    rsample,
    sample,
)
from jaxvae.models.likelihoods import Bernoulli, Gaussian, make_likelihood, variance_of
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

LOGITS = np.array([-200.0, -30.0, -1.0, -1e-3, 1e-3, 2.0, 30.0, 200.0])


def normal(mean, scale):
    return dist.Normal(jnp.asarray(mean), jnp.asarray(scale)).to_event(1)


def check_kl(kl, rtol=1e-5):
    q, p = ([0.3, -1.0], [0.5, 2.0]), ([0.0, 1.0], [1.0, 0.7])
    exact = 0.0
    for m, s, n, t in zip(*q, *p, strict=True):
        exact += integrate.quad(
            lambda z, m, s, n, t: (
                stats.norm.pdf(z, m, s) * (stats.norm.logpdf(z, m, s) - stats.norm.logpdf(z, n, t))
            ),
            m - 12 * s,
            m + 12 * s,
            args=(m, s, n, t),
            epsabs=1e-11,
        )[0]
    np.testing.assert_allclose(kl(normal(*q), normal(*p)), exact, rtol=rtol)


def test_kl_of_normals_is_the_integral():
    check_kl(analytic_kl)


@pytest.mark.parametrize(
    "twin",
    [
        lambda q, p: analytic_kl(p, q),
        lambda q, p: -analytic_kl(q, p),
        lambda q, p: analytic_kl(q, p) / 2,
        lambda q, p: analytic_kl(q.base_dist, p.base_dist)[0],
    ],
    ids=["reversed", "negative", "averaged", "first latent"],
)
def test_check_of_kl_rejects(twin):
    with pytest.raises(AssertionError):
        check_kl(twin)


def test_kl_of_full_covariance_is_the_formula():
    rng = np.random.default_rng(0)
    trils = [np.tril(rng.normal(size=(3, 3)), -1) + np.diag(rng.uniform(0.5, 2, 3)) for _ in "qp"]
    means = rng.normal(size=(2, 3))
    q, p = (
        dist.MultivariateNormal(jnp.float32(m), scale_tril=jnp.float32(t))
        for m, t in zip(means, trils, strict=True)
    )
    a, b = (t @ t.T for t in trils)
    shift = means[1] - means[0]
    precision = np.linalg.inv(b)
    log_ratio = np.linalg.slogdet(b)[1] - np.linalg.slogdet(a)[1]
    exact = 0.5 * (np.trace(precision @ a) + shift @ precision @ shift - 3 + log_ratio)
    np.testing.assert_allclose(analytic_kl(q, p), exact, rtol=1e-5)


def test_kl_without_closed_form_is_refused_by_name():
    mixture = dist.MixtureSameFamily(
        dist.CategoricalProbs(jnp.ones(2) / 2), dist.Normal(jnp.zeros((2, 1)), 1.0).to_event(1)
    )
    with refused("kl", "Independent(Normal)", "MixtureSameFamily", "monte_carlo"):
        analytic_kl(normal([0.0], [1.0]), mixture)


def test_bernoulli_sums_to_one_by_enumeration():
    likelihood = Bernoulli()(jnp.array([[0.3, -2.0], [4.0, 0.0]]))
    every = np.array(list(itertools.product([0.0, 1.0], repeat=4)), np.float32).reshape(-1, 2, 2)
    log_p = jax.vmap(lambda x: log_prob(likelihood, x))(every)
    np.testing.assert_allclose(np.exp(np.float64(log_p)).sum(), 1, atol=1e-6)


def bernoulli(logit, bit):
    return log_prob(Bernoulli()(logit[None]), jnp.asarray([bit]))


def check_bernoulli(log_p, logits=LOGITS):
    """Value and gradient within 3e-6 (relative, and absolute below 1) of float64."""
    for bit in (0.0, 1.0):
        value, slope = jax.vmap(jax.value_and_grad(lambda logit, bit=bit: log_p(logit, bit)))(
            jnp.float32(logits)
        )
        sign = 2 * bit - 1
        exact = -np.logaddexp(0, -sign * logits)
        with np.errstate(over="ignore"):
            exact_slope = sign / (1 + np.exp(sign * logits))
        assert np.all(np.isfinite(value)), value
        assert np.all(np.isfinite(slope)), slope
        np.testing.assert_allclose(value, exact, rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(slope, exact_slope, rtol=3e-6, atol=3e-6)


def test_bernoulli_at_extreme_logits():
    check_bernoulli(bernoulli)


def test_bernoulli_at_logit_zero():
    # Where max(x, 0) and |x| have kinks: an output layer of zeros starts here.
    check_bernoulli(bernoulli, np.zeros(1))


def test_check_of_bernoulli_rejects_clipped_probabilities():
    def from_probabilities(logit, bit):
        p = jnp.clip(jax.nn.sigmoid(logit), 1e-7, 1 - 1e-7)
        return bit * jnp.log(p) + (1 - bit) * jnp.log1p(-p)

    with pytest.raises(AssertionError):
        check_bernoulli(from_probabilities)


def check_gaussian(log_p):
    rng = np.random.default_rng(1)
    x, mean = rng.normal(size=(2, 5, 2)) * 3
    exact = stats.norm.logpdf(np.float64(np.float32(x)), np.float64(np.float32(mean)), 1.0).sum()
    np.testing.assert_allclose(log_p(jnp.float32(mean), jnp.float32(x)), exact, rtol=3e-6)


def test_gaussian_is_the_density():
    check_gaussian(lambda mean, x: log_prob(Gaussian()(mean), x))


@pytest.mark.parametrize(
    "twin",
    [
        lambda mean, x: -0.5 * jnp.sum((x - mean) ** 2),
        lambda mean, x: log_prob(Gaussian()(mean), x) / x.size,
    ],
    ids=["without normaliser", "averaged"],
)
def test_check_of_gaussian_rejects(twin):
    with pytest.raises(AssertionError):
        check_gaussian(twin)


def test_gaussian_is_finite_far_out_and_learns_its_variance():
    def value(output, module):
        return log_prob(module(output), jnp.array([0.0, 0.0]))

    outputs = jnp.array([200.0, -200.0])
    value, gradient = jax.value_and_grad(value, argnums=(0, 1))(outputs, Gaussian())
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient[0], -outputs, rtol=1e-6)
    # d log p / d variance = sum r^2 / 2 - n / 2 at variance 1; softplus' = 1 - exp(-1) there.
    exact = (2 * 200.0**2 / 2 - 1) * (1 - np.exp(-1))
    np.testing.assert_allclose(gradient[1].raw_variance[...], exact, rtol=1e-5)


def test_variance_is_positive_and_differentiable_everywhere():
    raw = jnp.array([-200.0, 0.0, 200.0])
    np.testing.assert_allclose(variance_of(raw), [1e-8, np.log(2), 200.0], rtol=1e-6)
    assert np.all(np.isfinite(jax.vmap(jax.grad(variance_of))(raw)))


def test_unknown_likelihood_is_refused():
    with refused("likelihood", "bernoulli", "gaussian", "'poisson'"):
        make_likelihood("poisson")


def test_samples_follow_their_distribution_and_carry_the_gradient():
    def draws(mean):
        keys = jax.random.split(jax.random.key(0), 4000)
        return jax.vmap(lambda key: rsample(normal(mean, [0.5, 2.0]), key))(keys)

    mean = jnp.array([1.0, -3.0])
    z = np.float64(draws(mean))
    assert_mean(z, mean)
    assert_mean((z - np.array(mean)) ** 2, [0.25, 4.0])
    np.testing.assert_allclose(jax.grad(lambda m: draws(m).mean(axis=0).sum())(mean), 1, rtol=1e-5)


def test_sample_draws_what_cannot_be_reparameterised():
    probs = jnp.array([0.2, 0.5, 0.3])
    keys = jax.random.split(jax.random.key(1), 4000)
    z = jax.vmap(lambda key: sample(dist.CategoricalProbs(probs), key))(keys)
    assert_mean(z[:, None] == jnp.arange(3)[None], probs)


def test_describe_names_the_wrappers():
    assert describe(dist.Normal(0.0, 1.0)) == "Normal"
    assert describe(normal([0.0], [1.0])) == "Independent(Normal)"


def test_a_batch_of_events_is_refused():
    with refused("model.prior()", "Normal", "(2,)", ".to_event(1)"):
        require_one_event(dist.Normal(jnp.zeros(2), 1.0), "model.prior()")
    require_one_event(normal([0.0, 0.0], [1.0, 1.0]), "model.prior()")


def test_a_value_of_another_shape_is_refused():
    with refused("x", "(2,)", "(5, 2)", "vmap"):
        require_event(normal([0.0, 0.0], [1.0, 1.0]), jnp.zeros((5, 2)), "p", "x")
