import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

from jaxvae.distributions import (
    FloatBernoulli,
    OneHotCategorical,
    analytic_entropy,
    analytic_kl,
    can_score,
    describe,
    log_prob,
    require_event,
    require_one_event,
    rsample,
    sample,
    sample_with_log_prob,
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


RNG = np.random.default_rng(7)
LOC, SCALE, LOC_2, SCALE_2 = (RNG.uniform(0.3, 2.0, 3) for _ in range(4))
TRIL = np.tril(RNG.normal(size=(3, 3)), -1) + np.diag(SCALE)
LOGITS_2, LOGITS_3 = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 2, 4))


def quadrature(integrand, centre, scale):
    """The integral over a line, split where Laplace densities have their kinks; error below 1e-9."""
    edges = np.sort([centre - 60 * scale, centre, 0.0, *LOC_2, centre + 60 * scale])
    return sum(
        integrate.quad(integrand, a, b, epsabs=1e-11, limit=200)[0]
        for a, b in itertools.pairwise(edges)
    )


def divergence(q, p):
    """KL of products of scipy distributions by quadrature; with p = None, minus the entropy."""
    total = 0.0
    for i, each in enumerate(q):
        other = p[i].logpdf if p else lambda z: 0.0
        integrand = lambda z, each=each, other=other: (  # noqa: E731
            each.pdf(z) * (each.logpdf(z) - other(z)) if each.pdf(z) > 0 else 0.0
        )
        total += quadrature(integrand, each.mean(), each.std())
    return total


def rows(probs, others=None):
    """KL of independent categoricals by enumeration; without others, minus the entropy."""
    ratio = np.log(probs) - (0 if others is None else np.log(others))
    return np.sum(probs * ratio)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def bits(logits):
    return softmax(np.stack([0 * logits, logits], -1))


def frozen(family, loc, scale):
    return [family(m, s) for m, s in zip(loc, scale, strict=True)]


@cache
def cases():
    """name: (q, p, KL, entropy of q), the last two from quadrature, enumeration or algebra."""
    normal, laplace = (frozen(f, LOC, SCALE) for f in (stats.norm, stats.laplace))
    normal_2, laplace_2 = (frozen(f, LOC_2, SCALE_2) for f in (stats.norm, stats.laplace))
    full = stats.multivariate_normal(LOC, TRIL @ TRIL.T)
    cross = sum(
        0.5 * (np.log(2 * np.pi * s**2) + (v + (m - n) ** 2) / s**2)
        for m, v, n, s in zip(LOC, np.diag(TRIL @ TRIL.T), LOC_2, SCALE_2, strict=True)
    )
    d = {
        "normal": dist.Normal(LOC, SCALE).to_event(1),
        "normal 2": dist.Normal(LOC_2, SCALE_2).to_event(1),
        "laplace": dist.Laplace(LOC, SCALE).to_event(1),
        "laplace 2": dist.Laplace(LOC_2, SCALE_2).to_event(1),
        "full": dist.MultivariateNormal(LOC, scale_tril=jnp.asarray(TRIL)),
    }
    out = {
        "normals": (
            d["normal"], d["normal 2"], divergence(normal, normal_2), -divergence(normal, None)
        ),
        "laplaces": (
            d["laplace"], d["laplace 2"], divergence(laplace, laplace_2), -divergence(laplace, None)
        ),
        "laplace, normal": (
            d["laplace"], d["normal 2"], divergence(laplace, normal_2), -divergence(laplace, None)
        ),
        "full, diagonal": (d["full"], d["normal 2"], cross - full.entropy(), full.entropy()),
        "full, scalars": (
            d["full"],
            dist.Normal(LOC_2[0], SCALE_2[0]).expand([3]).to_event(1),
            sum(
                0.5 * (np.log(2 * np.pi * SCALE_2[0] ** 2) + (v + (m - LOC_2[0]) ** 2) / SCALE_2[0] ** 2)
                for m, v in zip(LOC, np.diag(TRIL @ TRIL.T), strict=True)
            )
            - full.entropy(),
            full.entropy(),
        ),
    }  # fmt: skip
    a, b = (bits(x) for x in LOGITS_2)
    for name, kind in (("bits", dist.BernoulliLogits), ("float bits", FloatBernoulli)):
        q, p = (kind(jnp.asarray(x)).to_event(1) for x in LOGITS_2)
        out[name] = q, p, rows(a, b), -rows(a)
    q, p = (dist.BernoulliProbs(jnp.asarray(x[:, 1])).to_event(1) for x in (a, b))
    out["bits by probs"] = q, p, rows(a, b), -rows(a)
    a, b = (softmax(x) for x in LOGITS_3)
    q, p = (dist.CategoricalLogits(jnp.asarray(x)).to_event(1) for x in LOGITS_3)
    out["classes"] = q, p, rows(a, b), -rows(a)
    q, p = (dist.CategoricalProbs(jnp.asarray(x)).to_event(1) for x in (a, b))
    out["classes by probs"] = q, p, rows(a, b), -rows(a)
    q, p = (OneHotCategorical(jnp.asarray(x)) for x in LOGITS_3)
    out["one-hot"] = q, p, rows(a, b), -rows(a)
    return out


def check_closed_forms(kl, entropy, name):
    """Both within 1e-9, in float64."""
    with jax.enable_x64(True):
        q, p, exact_kl, exact_entropy = cases()[name]
        np.testing.assert_allclose(kl(q, p), exact_kl, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(entropy(q), exact_entropy, rtol=1e-9, atol=1e-9)


CASES = pytest.mark.parametrize("name", [
    "normals", "laplaces", "laplace, normal", "full, diagonal", "full, scalars", "bits",
    "float bits", "bits by probs", "classes", "classes by probs", "one-hot",
])  # fmt: skip


@CASES
def test_closed_forms_are_the_integrals(name):
    check_closed_forms(analytic_kl, analytic_entropy, name)


@CASES
def test_check_of_closed_forms_rejects(name):
    with pytest.raises(AssertionError):
        check_closed_forms(analytic_kl, lambda q: -analytic_entropy(q), name)
    for twin in (lambda q, p: 0.9 * analytic_kl(q, p), lambda q, p: -analytic_entropy(q)):
        with pytest.raises(AssertionError):
            check_closed_forms(twin, analytic_entropy, name)


def test_entropy_counts_every_latent_of_a_shared_scale():
    # Where NumPyro's own counts one.
    for kind in (dist.Laplace, dist.Normal):
        each = analytic_entropy(kind(0.0, 2.0))
        shared = analytic_entropy(kind(jnp.zeros(3), 2.0).to_event(1))
        np.testing.assert_allclose(shared, 3 * each, rtol=1e-6)
    assert dist.Laplace(jnp.zeros(3), 2.0).to_event(1).entropy() < 2 * each


@pytest.mark.parametrize("kind", ["bits", "classes", "one-hot"])
def test_closed_forms_are_finite_at_logits_of_200(kind):
    def made(logits):
        if kind == "bits":
            return dist.BernoulliLogits(logits).to_event(1)
        pair = jnp.stack([logits, jnp.zeros_like(logits)], axis=-1)
        return (
            OneHotCategorical(pair)
            if kind == "one-hot"
            else dist.CategoricalLogits(pair).to_event(1)
        )

    q, p = jnp.array([200.0, -200.0, 200.0, 0.0]), jnp.array([-200.0, -200.0, 200.0, 200.0])
    value, gradients = jax.value_and_grad(
        lambda q, p: analytic_kl(made(q), made(p)), argnums=(0, 1)
    )(q, p)
    np.testing.assert_allclose(value, 200 + 100 - np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradients[1], [-1, 0, 0, 0.5], atol=1e-6)
    assert np.all(np.isfinite(gradients[0]))
    entropy, gradient = jax.value_and_grad(lambda q: analytic_entropy(made(q)))(q)
    np.testing.assert_allclose(entropy, np.log(2), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_zero_log_zero_is_zero_and_has_a_finite_gradient():
    zero, half = jnp.array([0.0, 0.25, 0.75]), jnp.array([0.5, 0.25, 0.25])

    def kl(q):
        return analytic_kl(dist.CategoricalProbs(q), dist.CategoricalProbs(half))

    np.testing.assert_allclose(kl(zero), 0.75 * np.log(3), rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(kl)(zero)))
    assert analytic_kl(dist.CategoricalProbs(half), dist.CategoricalProbs(zero)) == np.inf
    certain = dist.BernoulliProbs(jnp.array([0.0, 1.0])).to_event(1)
    np.testing.assert_array_equal(analytic_entropy(certain), 0)


def test_unknown_closed_forms_are_refused_by_name():
    with refused("entropy", "Gamma", "estimate"):
        analytic_entropy(dist.Gamma(1.0, 1.0))
    with refused("kl", "(2,)", "(3,)"):
        analytic_kl(normal([0.0] * 2, [1.0] * 2), normal([0.0] * 3, [1.0] * 3))
    with refused("kl", "CategoricalLogits", "monte_carlo"):
        analytic_kl(dist.CategoricalLogits(jnp.zeros(2)), dist.CategoricalLogits(jnp.zeros(3)))
    with refused("logits", "[D, C]", "(3,)"):
        OneHotCategorical(jnp.zeros(3))


@pytest.mark.parametrize(
    "q",
    [
        dist.Normal(0.5, 2.0),
        dist.Normal(0.5, 2.0).expand([3]).to_event(1),
        dist.LogNormal(jnp.zeros(2), 1.0).to_event(1),
        dist.LogNormal(0.0, 1.0).expand([2]).to_event(1),
        dist.CategoricalLogits(jnp.zeros(3)),
        OneHotCategorical(jnp.zeros((2, 3))),
    ],
    ids=describe,
)
def test_a_sample_comes_with_its_density(q):
    z, log_q = sample_with_log_prob(q, jax.random.key(0))
    assert log_q.shape == ()
    np.testing.assert_array_equal(z, sample(q, jax.random.key(0)))
    np.testing.assert_allclose(log_q, log_prob(q, z), rtol=1e-6)
    assert can_score(q)


def test_bernoulli_sums_to_one_by_enumeration():
    likelihood = Bernoulli()(jnp.array([[[0.3, -2.0], [4.0, 0.0]]]))
    every = np.array(list(itertools.product([0.0, 1.0], repeat=4)), np.float32).reshape(-1, 2, 2)
    log_p = jax.vmap(lambda x: log_prob(likelihood, x))(every)
    np.testing.assert_allclose(np.exp(np.float64(log_p)).sum(), 1, atol=1e-6)


def bernoulli(logit, bit):
    return log_prob(Bernoulli()(logit[None, None]), jnp.asarray([bit]))


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
    check_gaussian(lambda mean, x: log_prob(Gaussian()(mean[None]), x))


@pytest.mark.parametrize(
    "twin",
    [
        lambda mean, x: -0.5 * jnp.sum((x - mean) ** 2),
        lambda mean, x: log_prob(Gaussian()(mean[None]), x) / x.size,
    ],
    ids=["without normaliser", "averaged"],
)
def test_check_of_gaussian_rejects(twin):
    with pytest.raises(AssertionError):
        check_gaussian(twin)


def test_gaussian_is_finite_far_out_and_learns_its_variance():
    def value(output, module):
        return log_prob(module(output[None]), jnp.array([0.0, 0.0]))

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
    with refused("likelihood", "bernoulli", "gaussian", "'poison'"):
        make_likelihood("poison")


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
