from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import special, stats

import jaxvae as jv
from jaxvae.inference import fit_posterior, fit_posteriors, free_energy
from jaxvae.inference.families import Diagonal
from jaxvae.inference.refinement import diagonal_elbo
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

PRECISION = 0.005
"""How far below the best ELBO a fit may end, nats, on the mean over examples."""


@cache
def problem():
    """A linear-Gaussian model with correlated latents, and examples of it."""
    model = jv.testing.linear_gaussian(1, event_size=4, latent_dim=2)
    return model, jax.jit(jv.testing.draw_examples, static_argnums=2)(jax.random.key(1), model, 32)


@jax.jit
def exact(model, xs):
    """Means and covariances of p(z|x), log p(x) and the ELBO of the encoder, in closed form."""

    def one(x):
        p = model.exact_posterior(x)
        return p.mean, p.covariance_matrix, model.log_evidence(x), model.exact_elbo(x).bound

    return jax.vmap(one)(xs)


def best_diagonal(model, xs):
    """Means, variances and ELBO of the best diagonal normals: m, 1 / diag P and
    log p(x) - (sum log diag P - log det P) / 2, with P the precision of p(z|x)."""
    means, covariances, evidence, _ = map(np.float64, exact(model, xs))
    precision = np.linalg.inv(covariances[0])
    diagonal = np.diagonal(precision)
    kl = 0.5 * (np.log(diagonal).sum() - np.linalg.slogdet(precision)[1])
    return means, 1 / diagonal, evidence - kl


@jax.jit
def moments_and_elbo(model, q, xs):
    """Means, variances and the ELBO in closed form of each q."""
    return jax.vmap(lambda q, x: (q.mean, q.variance, free_energy(model, q, x).bound))(q, xs)


def exact_elbo(model, q, xs):
    return np.float64(moments_and_elbo(model, q, xs)[2])


def check_is_best(fit):
    """The fitted q are the best ones, and their bounds are those of the best, to `PRECISION`."""
    model, xs = problem()
    means, variances, elbo = best_diagonal(model, xs)
    q, bound = fit(jax.random.key(2), model, xs)
    mean, variance, reached = map(np.float64, moments_and_elbo(model, q, xs))
    short = elbo - reached
    assert np.all(short > -1e-4)
    assert short.mean() < PRECISION, short.mean()
    assert np.all(np.abs(mean - means) < 0.2 * np.sqrt(variances))
    assert np.all(np.abs(np.log(variance / variances)) < 0.2)
    assert_mean(np.float64(bound) - elbo, 0.0, rounding=PRECISION, what="bound")


def fitted(key, model, xs):
    fit = fit_posteriors(key, model, xs)
    return fit.posterior, fit.bound


def test_best_diagonal_is_found():
    check_is_best(fitted)


def of_another_example(key, model, xs):
    return fitted(key, model, jnp.roll(xs, 1, axis=0))


def of_the_encoder(key, model, xs):
    q = jax.vmap(model.posterior)(xs)
    return q, exact_elbo(model, q, xs)


def downhill(key, model, xs):
    q = jax.vmap(lambda x: reuse(key, model, x, 1.0)[0].distribution())(xs)
    return q, exact_elbo(model, q, xs)


@jax.jit
def reuse(key, model, x, sign):
    """A fit on the same two samples at every step, and its ELBO on these: optimistic for sign -1."""
    noise = jax.random.normal(key, (2, 2))
    optimizer = optax.adam(0.05)

    def loss(q):
        return sign * diagonal_elbo(model, x, q, noise)

    def step(carry, _):
        q, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(q), state)
        return (optax.apply_updates(q, updates), state), None

    q = Diagonal(jnp.zeros(2), jnp.zeros(2))
    (q, _), _ = jax.lax.scan(step, (q, optimizer.init(q)), length=60)
    return q, sign * loss(q)


def with_optimistic_bound(key, model, xs):
    q, _ = fitted(key, model, xs)
    keys = jax.random.split(key, len(xs))
    return q, jax.vmap(lambda key, x: reuse(key, model, x, -1.0)[1])(keys, xs)


@pytest.mark.parametrize(
    "twin", [of_another_example, of_the_encoder, downhill, with_optimistic_bound]
)
def test_check_of_the_best_rejects(twin):
    with pytest.raises(AssertionError):
        check_is_best(twin)


def test_full_covariance_reaches_the_evidence():
    model, xs = problem()
    fit = fit_posteriors(jax.random.key(0), model, xs, family="full", start="prior")
    _, covariances, evidence, _ = exact(model, xs)
    np.testing.assert_allclose(fit.bound, evidence, atol=0.002)
    assert np.all(fit.standard_error < 0.002)
    np.testing.assert_allclose(fit.posterior.covariance_matrix, covariances, atol=0.01)
    assert fit.history.shape == (32, 500)
    assert np.all(fit.history[:, 0] < fit.history[:, -1])


FEW = {"num_steps": 3, "num_bound_samples": 200}


def test_stated_error_is_that_of_the_bound():
    """Over keys, (bound - exact ELBO of the same q) / standard_error has mean square 1."""
    model, xs = problem()
    zs = []
    for seed in range(32):
        fit = fit_posteriors(jax.random.key(seed), model, xs, **FEW)
        difference = np.float64(fit.bound) - exact_elbo(model, fit.posterior, xs)
        zs.append(difference / np.float64(fit.standard_error))
    z = np.concatenate(zs)
    assert_mean(z, 0.0, what="z")
    assert_mean(z**2, 1.0, what="z squared")
    for scale in (0.8, 1.25):
        with pytest.raises(AssertionError):
            assert_mean((z / scale) ** 2, 1.0, what="z squared")


@pytest.mark.slow
def test_flow_reaches_beyond_every_normal():
    """Two modes: the flow is above the best of 2,500 normals, and at most at log p(x).

    x says nothing of z, so p(z|x) is the prior, `sum_c pi_c N(m_c, t_c^2)`, and the ELBO of a normal is
    log p(x) less its divergence from that, here a sum over a grid.
    """
    model = jv.testing.gaussian_mixture(0)
    model.decoder.means[...] = jnp.array([[-2.5], [2.5]])
    model.decoder.weight[...] = jnp.zeros((3, 1))
    x = jnp.ones(3)
    fit = fit_posterior(jax.random.key(0), model, x, family="flow", start="prior")
    below = float(model.log_evidence(x) - fit.bound)

    prior = stats.norm([-2.5, 2.5], np.exp(model.decoder.log_scales[...]))
    shares = special.softmax(np.float64(model.decoder.logits[...]))
    mean, scale = (axis.ravel()[:, None] for axis in np.mgrid[-4:4:50j, 0.2:4:50j])
    z = mean + scale * np.linspace(-6, 6, 201)
    q = stats.norm(mean, scale)
    log_p = np.log(prior.pdf(z[..., None]) @ shares)
    kl = np.sum(q.pdf(z) * (q.logpdf(z) - log_p), axis=1) * scale[:, 0] * 12 / 200
    assert kl.min() > 0.3
    assert -5 * fit.standard_error < below < 0.5 * kl.min(), (below, kl.min())


@pytest.mark.slow
def test_one_example_is_a_row_of_many_whatever_the_batch():
    model, xs = problem()
    key = jax.random.key(5)
    expected = fit_posteriors(key, model, xs, **FEW).bound
    got = fit_posteriors(key, model, xs, batch_size=8, **FEW).bound
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    one = fit_posterior(jax.random.fold_in(key, 3), model, xs[3], **FEW)
    np.testing.assert_allclose(one.bound, expected[3], rtol=1e-5)


class Plain:
    """A model that is no pytree, of a posterior without known moments."""

    def __init__(self):
        self.inner = jv.testing.linear_gaussian()

    def prior(self):
        return self.inner.prior()

    def likelihood(self, z):
        return self.inner.likelihood(z)

    def posterior(self, x):
        shift = dist.transforms.AffineTransform(
            0.5 * x[:2], jnp.full(2, 0.5), domain=dist.constraints.real
        )
        base = dist.Normal(jnp.zeros(2), jnp.ones(2))
        return dist.TransformedDistribution(
            base, dist.transforms.ComposeTransform([shift])
        ).to_event(1)


def test_any_object_is_a_model():
    fit = fit_posterior(jax.random.key(0), Plain(), jnp.ones(3), num_steps=2, num_bound_samples=1)
    assert np.isfinite(fit.bound)
    assert np.isnan(fit.standard_error)


def test_masks_leave_values_out():
    model, xs = problem()
    mask = jnp.ones_like(xs).at[:, 1].set(0)
    hidden = xs.at[:, 1].set(jnp.nan)
    got, expected = (
        fit_posteriors(jax.random.key(0), model, {"x": x, "mask": mask}, **FEW).bound
        for x in (hidden, xs)
    )
    np.testing.assert_array_equal(got, expected)
    whole = fit_posteriors(jax.random.key(0), model, xs, **FEW).bound
    assert not np.allclose(got, whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "laplace"}, ("family", '"diagonal", "full", "flow"', "'laplace'")),
        ({"num_steps": 0}, ("num_steps", "0")),
        ({"num_samples": 0}, ("num_samples", "0")),
        ({"num_bound_samples": True}, ("num_bound_samples", "True")),
        ({"learning_rate": 0.0}, ("learning_rate", "0.0")),
        ({"learning_rate": float("nan")}, ("learning_rate", "nan")),
        ({"start": "zero"}, ("start", "encoder", "'zero'")),
    ],
)
def test_options_are_checked(options, words):
    model, xs = problem()
    with refused(*words):
        fit_posterior(jax.random.key(0), model, xs[0], **options)
    with refused(*words):
        fit_posteriors(jax.random.key(0), model, xs, **options)


class Positive(Plain):
    def prior(self):
        return dist.Gamma(jnp.ones(2), jnp.ones(2)).to_event(1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (jv.testing.discrete(), ("vector of reals", "prior")),
        (Positive(), ("vector of reals", "Gamma")),
    ],
    ids=["bits", "positive"],
)
def test_latents_that_are_no_real_vectors_are_refused(model, words):
    with refused(*words):
        fit_posterior(jax.random.key(0), model, jnp.ones(3))


def test_keys_and_shapes_are_checked():
    model, xs = problem()
    with refused("key"):
        fit_posterior(0, model, xs[0])
    with refused("x", "(5,)"):
        fit_posterior(jax.random.key(0), model, jnp.ones(5), start="prior")
