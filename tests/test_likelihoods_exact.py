"""Of single likelihoods: published numbers, digits in float32, and the variance in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import integrate, special, stats

import jaxvae as jv
from jaxvae.distributions import (
    Beta,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Levels,
    NegativeBinomial,
    PoissonLogRate,
    ZeroInflated,
)
from jaxvae.inference import optimal_variance
from tests.support.refusals import refused

A = np.array([-200.0, -20.0, -4.0, -1.001, -0.999, -0.3, -1e-3, 1e-6, 0.1, 1.0, 4.0, 200.0])


def check_normaliser(log_prob):
    """`log C` with `p = C lambda^x (1 - lambda)^(1 - x)`, lambda = sigmoid(a), at x = 0."""
    for a, exact in (
        (1.0, 0.7719368329),
        (-1.0, 0.7719368329),
        (4.0, 1.4229297359),
        (0.0, np.log(2)),
    ):
        got = float(log_prob(jnp.float32(a), jnp.float32(0))) + np.logaddexp(0, a)
        np.testing.assert_allclose(got, exact, rtol=2e-7)


def continuous_bernoulli(a, x):
    return ContinuousBernoulli(a).log_prob(x)


def test_continuous_bernoulli_has_the_published_normaliser():
    check_normaliser(continuous_bernoulli)


@pytest.mark.parametrize(
    "twin",
    [
        lambda a, x: a * x - jax.nn.softplus(a),
        lambda a, x: continuous_bernoulli(a, x) + a / 2,
    ],
    ids=["the Bernoulli's", "not centred"],
)
def test_check_of_normaliser_rejects(twin):
    with pytest.raises(AssertionError):
        check_normaliser(twin)


def series_mean(a):
    """The mean in float64, by its series near 0, where the closed form has no digits."""
    near = np.abs(a) < 0.05
    safe = np.where(near, 1.0, a)
    return np.where(near, 0.5 + a / 12 - a**3 / 720, 1 / -np.expm1(-safe) - 1 / safe)


def check_slope(log_prob):
    """`d log p / da = x - mean`, exact at 0 and far out, and its own slope minus the variance."""
    for x in (0.0, 0.3, 1.0):
        slope = jax.jit(jax.vmap(jax.grad(log_prob), in_axes=(0, None)))(
            jnp.float32(A), jnp.float32(x)
        )
        np.testing.assert_allclose(slope, np.float32(x) - series_mean(A), rtol=1e-6, atol=2e-7)
    zero, half = jnp.zeros(()), jnp.float32(0.25)
    assert float(jax.grad(log_prob)(zero, half)) == -0.25
    assert float(log_prob(zero, half)) == 0
    second = jax.jit(jax.vmap(jax.grad(jax.grad(log_prob)), in_axes=(0, None)))(
        jnp.float32(A), half
    )
    variance = ContinuousBernoulli(jnp.float32(A)).variance
    np.testing.assert_allclose(-second, variance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ContinuousBernoulli(zero).variance, 1 / 12, rtol=1e-6)


def test_continuous_bernoulli_has_exact_gradients():
    check_slope(continuous_bernoulli)


def test_check_of_slope_rejects_the_formula_as_it_stands():
    def plain(a, x):
        return a * x - jnp.log(jnp.expm1(a) / a)

    with pytest.raises(AssertionError):
        check_slope(plain)


def check_icdf(icdf):
    """The share of the density below `icdf(q)` is q; its slope in a is that of the exact inverse."""
    q = np.array([1e-6, 0.1, 0.5, 0.9, 1 - 2.0**-22])
    a = np.float64(np.float32(A))[:, None]

    def inverse(a, q):
        # In float64, from the side on which the exponential is small.
        size = np.abs(a)
        up = 1 + np.log(q + (1 - q) * np.exp(-size)) / size
        return np.where(a > 0, up, -np.log1p(q * np.expm1(-size)) / size)

    q32 = np.float64(np.float32(q))
    got = icdf(jnp.float32(A)[:, None], jnp.float32(q)[None])
    np.testing.assert_allclose(got, inverse(a, q32), atol=3e-6)
    step = 1e-4 * np.maximum(1, np.abs(a))
    slope = (inverse(a + step, q32) - inverse(a - step, q32)) / (2 * step)
    got = jax.vmap(jax.vmap(jax.grad(icdf), in_axes=(None, 0)), in_axes=(0, None))(
        jnp.float32(A), jnp.float32(q)
    )
    np.testing.assert_allclose(got, slope, atol=2e-5)


def test_continuous_bernoulli_is_drawn_by_its_inverse_with_the_right_slope():
    def icdf(a, q):
        shape = jnp.broadcast_shapes(jnp.shape(a), jnp.shape(q))
        return ContinuousBernoulli(jnp.broadcast_to(a, shape)).icdf(jnp.broadcast_to(q, shape))

    check_icdf(icdf)
    for twin in (lambda a, q: icdf(a, 1 - q), lambda a, q: icdf(jax.lax.stop_gradient(a), q)):
        with pytest.raises(AssertionError):
            check_icdf(twin)
    p = ContinuousBernoulli(jnp.zeros(3)).to_event(1)
    assert p.has_rsample


RATES = 10.0 ** np.arange(-6, 7, 2)
COUNTS = np.array([0.0, 1.0, 7.0, 100.0, 1e4])


def check_digits(log_prob, exact):
    """Of counts to 1e4 and means from 1e-6 to 1e6: rounding of the log-probability, not of lgamma."""
    log_mean, x = (np.float64(np.float32(v)) for v in np.meshgrid(np.log(RATES), COUNTS))
    for log_r in (-5.0, 0.0, 9.0, 16.0):
        got = log_prob(jnp.float32(log_mean), jnp.full(x.shape, log_r, jnp.float32), jnp.float32(x))
        np.testing.assert_allclose(got, exact(log_mean, log_r, x), rtol=2e-6, atol=4e-6)


def exact_poisson(log_mean, log_r, x):
    return stats.poisson(np.exp(log_mean)).logpmf(x)


def exact_negative_binomial(log_mean, log_r, x):
    """In float64, whose lgamma loses nine digits here and has seven left."""
    m, r = np.exp(log_mean), np.exp(log_r)
    ratio = special.gammaln(x + r) - special.gammaln(r) - special.gammaln(x + 1)
    return ratio - r * np.log1p(m / r) - x * np.log1p(r / m)


def test_counts_keep_their_digits():
    check_digits(jax.jit(lambda m, r, x: PoissonLogRate(m).log_prob(x)), exact_poisson)
    check_digits(
        jax.jit(lambda m, r, x: NegativeBinomial(m, r).log_prob(x)), exact_negative_binomial
    )


def test_check_of_digits_rejects_numpyro_s():
    with jax.numpy_dtype_promotion("standard"):
        for twin, exact in (
            (lambda m, r, x: dist.Poisson(jnp.exp(m)).log_prob(x), exact_poisson),
            (
                lambda m, r, x: dist.NegativeBinomial2(jnp.exp(m), jnp.exp(r)).log_prob(x),
                exact_negative_binomial,
            ),
        ):
            with pytest.raises(AssertionError):
                check_digits(twin, exact)


def check_count_gradients(score):
    """`d / d log m = r (x - m) / (r + m)`; in log r against differences in float64."""
    log_m, log_r, x = (
        np.ravel(v) for v in np.meshgrid([-3.0, 0.0, 3.0, 9.0], [-3.0, 0.0, 3.0, 9.0], COUNTS)
    )
    gradient = jax.jit(jax.vmap(jax.grad(score, argnums=(0, 1))))
    of_mean, of_r = gradient(jnp.float32(log_m), jnp.float32(log_r), jnp.float32(x))
    m, r = np.exp(log_m), np.exp(log_r)
    np.testing.assert_allclose(of_mean, r * (x - m) / (r + m), rtol=1e-5, atol=1e-4)
    digammas = special.digamma(x + r) - special.digamma(r) - np.log1p(m / r)
    np.testing.assert_allclose(of_r, r * (digammas + (m - x) / (r + m)), rtol=1e-4, atol=2e-3)


def test_negative_binomial_has_the_gradients_of_the_formula():
    def score(m, r, x):
        return NegativeBinomial(m, r).log_prob(x)

    check_count_gradients(score)
    with pytest.raises(AssertionError):
        check_count_gradients(lambda m, r, x: score(m, jax.lax.stop_gradient(r), x))


def test_a_large_inverse_dispersion_is_the_poisson():
    log_mean, x = jnp.float32([-2.0, 0.0, 5.0]), jnp.float32([1.0, 0.0, 130.0])
    limit = PoissonLogRate(log_mean).log_prob(x)
    for log_r in (25.0, 50.0, 200.0):
        got = NegativeBinomial(log_mean, jnp.full(3, log_r)).log_prob(x)
        np.testing.assert_allclose(got, limit, rtol=2e-6)


def test_counts_by_means_are_those_by_logarithms():
    proportion = jax.nn.softmax(jnp.float32([0.3, -1.0, 2.0]))
    mean, r = 1000 * proportion, jnp.float32([0.5, 2.0, 8.0])
    x = jnp.float32([10.0, 0.0, 900.0])
    got = NegativeBinomial.from_mean(mean, r)
    exact = stats.nbinom(np.float64(r), np.float64(r / (r + mean))).logpmf(np.float64(x))
    np.testing.assert_allclose(got.log_prob(x), exact, rtol=1e-5)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-5)
    assert NegativeBinomial.from_mean(mean, jnp.float32(2.0)).batch_shape == (3,)
    inflated = ZeroInflated(got, jnp.full(3, -200.0)).to_event(1)
    np.testing.assert_allclose(inflated.log_prob(x), np.sum(exact), rtol=1e-5)


def test_beta_keeps_its_digits():
    a = np.float64(np.float32([1e-3, 0.5, 1.0, 30.0, 1e4]))
    a, b, x = np.meshgrid(a, a, np.float64(np.float32([1e-5, 0.3, 0.5, 0.999])))
    args = tuple(jnp.float32(v) for v in (a, b, x))
    got, plain = jax.jit(lambda a, b, x: (Beta(a, b).log_prob(x), dist.Beta(a, b).log_prob(x)))(
        *args
    )
    exact = stats.beta(a, b).logpdf(x)
    np.testing.assert_allclose(got, exact, rtol=4e-6, atol=4e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(plain, exact, rtol=4e-6, atol=4e-6)


def check_levels(log_prob):
    """Mass 1 over the 256 levels at scales from a hundredth of a step to a hundred times the range."""
    k = jnp.arange(256.0) / 255
    for loc in (-0.5, 0.0, 0.4999, 1.0, 3.0):
        for log_scale in (-10.0, -6.0, -2.0, 0.0, 4.6):
            ones = jnp.ones(256)
            log_p = np.float64(log_prob(loc * ones, log_scale * ones, k))
            np.testing.assert_allclose(np.exp(log_p).sum(), 1, atol=5e-6)
            assert np.all(np.isfinite(log_p)), "no level is impossible"


def test_levels_have_mass_one_and_none_is_impossible():
    check_levels(jax.jit(lambda loc, scale, x: DiscretizedLogistic(loc, scale).log_prob(x)))

    def by_difference(loc, log_scale, x):
        above, below = (
            jax.nn.sigmoid((x + side / 510 - loc) * jnp.exp(-log_scale)) for side in (1, -1)
        )
        ends = jnp.where(x == 0, above, jnp.where(x == 1, 1 - below, above - below))
        return jnp.log(ends)

    with pytest.raises(AssertionError):
        check_levels(by_difference)


def test_levels_are_compared_and_copied():
    assert Levels(256) == Levels(256)
    assert Levels(256) != Levels(16)
    assert jax.tree.map(lambda leaf: leaf, Levels(16)) == Levels(16)
    assert repr(Levels(16)) == "Levels(16)"
    # k / 255 and k * (1 / 255) differ in the last bit, and both are levels.
    assert bool(jnp.all(Levels(256)(jnp.arange(256.0) * jnp.float32(1 / 255))))


def test_densities_refuse_shapes_that_differ():
    with refused("loc", "log_scale", "(2,)", "(3,)"):
        DiscretizedLogistic(jnp.zeros(2), jnp.zeros(3))
    with refused("num_levels", "1"):
        DiscretizedLogistic(jnp.zeros(2), jnp.zeros(2), 1)
    with refused("logits", "scalar"):
        DiscretizedLogisticMixture(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    with refused("logits", "(2,)", "(3,)"):
        ZeroInflated(PoissonLogRate(jnp.zeros(3)), jnp.zeros(2))


@jax.jit
@jax.value_and_grad
def elbo_and_slope(model, xs):
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(5), jnp.arange(len(xs)))
    return jnp.mean(jax.vmap(lambda key, x: jv.elbo(key, model, x, num_samples=4).bound)(keys, xs))


def gaussian_vae():
    model = jv.models.vae(
        jax.random.key(0), (2, 3), latent_dim=2, hidden=(5,), likelihood="gaussian"
    )
    return model, 3 * jax.random.normal(jax.random.key(1), (40, 2, 3)) + 1


def check_variance(optimise):
    """The ELBO on the same draws has slope 0 in the variance, and is lower on both sides."""
    model, xs = gaussian_vae()
    before = jax.tree.map(jnp.copy, model)
    best = optimise(jax.random.key(5), model, xs, num_samples=4)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), before, model))
    value, slope = elbo_and_slope(best, xs)
    np.testing.assert_allclose(slope.output.raw_variance[...], 0, atol=1e-5)
    for step in (-0.5, 0.5):
        near = jax.tree.map(lambda leaf: leaf, best)
        near.output.raw_variance = nnx.Param(best.output.raw_variance[...] + step)
        assert elbo_and_slope(near, xs)[0] < value
    for part in ("encoder", "decoder"):
        same = jax.tree.map(
            lambda a, b: bool(jnp.all(a == b)), getattr(best, part), getattr(model, part)
        )
        assert jax.tree.all(same)


def test_optimal_variance_maximises_the_elbo():
    check_variance(optimal_variance)


def test_check_of_variance_rejects_a_standard_deviation_and_a_sum():
    def twin(change):
        def optimise(*args, **options):
            best = optimal_variance(*args, **options)
            variance = best.likelihood(jnp.zeros(2)).variance[0, 0]
            best.output.raw_variance = nnx.Param(jnp.log(jnp.expm1(change(variance))))
            return best

        return optimise

    for change in (jnp.sqrt, lambda v: v * 6):
        with pytest.raises(AssertionError):
            check_variance(twin(change))


def test_optimal_variance_of_a_perfect_fit_is_the_floor_and_others_are_refused():
    model, _ = gaussian_vae()
    exact = jax.tree.map(jnp.zeros_like, model)
    best = optimal_variance(jax.random.key(0), exact, jnp.zeros((3, 2, 3)))
    np.testing.assert_allclose(best.likelihood(jnp.zeros(2)).variance, 1e-8, rtol=1e-3)
    other = jv.models.vae(jax.random.key(0), (2, 3), latent_dim=2, hidden=(), likelihood="laplace")
    with refused("model", "Gaussian", "Laplace"):
        optimal_variance(jax.random.key(0), other, jnp.zeros((3, 2, 3)))
    with refused("num_samples", "0"):
        optimal_variance(jax.random.key(0), model, jnp.zeros((3, 2, 3)), num_samples=0)


def test_a_variance_of_each_example_would_be_no_density():
    """Why it is not offered: in one dimension the mass out to R, 2 c log(R / r), has no limit."""

    def log_p(x):
        return stats.norm.logpdf(x, 0, np.abs(x))

    masses = [
        2 * integrate.quad(lambda x: np.exp(log_p(x)), 1e-3, r, limit=200)[0] for r in (1, 1e3)
    ]
    assert masses[0] > 1
    np.testing.assert_allclose(masses[1], 2 * masses[0], rtol=1e-4)
