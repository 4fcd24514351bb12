"""Numbers at the borders: supports, kinks, measures and weights of 0, each with the twin that was there before."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxvae as jv
from jaxvae import bounds, evaluation, inference
from jaxvae.distributions import FloatBernoulli, OneHotCategorical, analytic_kl, log_prob
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.gradients import moves
from jaxvae.log_weights import require_latents
from jaxvae.rows import rows
from tests.support.refusals import refused
from tests.support.slow import slow_but

INF = float("inf")


# Support


def f32(*values):
    return jnp.asarray(values[0] if len(values) == 1 else values, jnp.float32)


OUTSIDE = {
    # name: (distribution, inside, its log-density there, outside)
    "uniform": (dist.Uniform(f32(0), f32(2)), 0.5, -np.log(2), (2.5, -1.0)),
    "gamma": (dist.Gamma(f32(2), f32(1)), 1.0, -1.0, (-1.0,)),
    "beta": (dist.Beta(f32(2), f32(2)), 0.5, np.log(1.5), (-0.5, 1.5)),
    "log-normal": (dist.LogNormal(f32(0), f32(1)), 1.0, -np.log(2 * np.pi) / 2, (-1.0,)),
    "truncated": (
        dist.TruncatedNormal(f32(0), f32(1), low=f32(0)),
        1.0,
        np.log(2) - np.log(2 * np.pi) / 2 - 0.5,
        (-1.0,),
    ),
    "poisson": (dist.Poisson(f32(1)), 0.0, -1.0, (-1.0, 0.5)),
    "moved": (
        dist.TransformedDistribution(
            dist.Uniform(f32(0), f32(1)), dist.transforms.AffineTransform(f32(1), f32(2))
        ),
        2.0,
        -np.log(2),
        (0.5, 3.5),
    ),
    "mixture": (
        dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.zeros(2)), dist.Exponential(f32([1.0, 1.0]))
        ),
        1.0,
        -1.0,
        (-1.0,),
    ),
    "independent": (
        dist.Uniform(jnp.zeros(2), jnp.ones(2)).to_event(1),
        (0.5, 0.5),
        0.0,
        ((0.5, 1.5), (-1.0, 0.5)),
    ),
    "expanded": (
        dist.Exponential(f32(1)).expand((2,)).to_event(1),
        (1.0, 1.0),
        -2.0,
        ((1.0, -1.0),),
    ),
}


def check_support(name, score):
    """By itself, under jit, vmap and stop_gradient, the density is the exact one inside and 0 outside."""
    p, inside, expected, outside = OUTSIDE[name]
    ways = {
        "plain": score,
        "jit": jax.jit(score),
        "tree": lambda p, x: score(jax.tree.map(jnp.asarray, p), x),
        "stopped": lambda p, x: score(jax.lax.stop_gradient(p), x),
        "vmap": lambda p, x: jax.vmap(partial(score, p))(x[None])[0],
    }
    for way in ways.values():
        np.testing.assert_allclose(way(p, f32(inside)), expected, rtol=1e-5, atol=1e-6)
        for x in outside:
            assert way(p, f32(x)) == -INF
            slopes = jax.jit(jax.grad(lambda p, x: score(p, x), argnums=(0, 1)))(p, f32(x))
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", slow_but(OUTSIDE, "uniform", "gamma", "independent"))
def test_there_is_no_density_outside_of_the_support(name):
    check_support(name, log_prob)


@pytest.mark.parametrize("name", ["uniform", "moved", "independent"])
def test_check_of_support_rejects_numpyros_own_after_a_pytree(name):
    with pytest.raises(AssertionError):
        check_support(name, lambda p, x: jax.tree.map(jnp.asarray, p).log_prob(x) + 0.0)


def test_masked_values_have_no_support():
    p = dist.Gamma(jnp.ones(2), jnp.ones(2)).mask(jnp.array([True, False])).to_event(1)
    for way in (log_prob, jax.jit(log_prob)):
        np.testing.assert_allclose(way(p, f32(1.0, -1.0)), -1.0, rtol=1e-6)
        assert way(p, f32(-1.0, 1.0)) == -INF


def test_bits_are_scored_in_between_whatever_the_trace():
    p = dist.BernoulliLogits(f32(2))
    expected = 0.5 * (jax.nn.log_sigmoid(2.0) + jax.nn.log_sigmoid(-2.0))
    for way in (log_prob, jax.jit(log_prob)):
        np.testing.assert_allclose(way(p, f32(0.5)), expected, rtol=1e-6)


def check_that_only_bits_are_bits(score):
    """Counts and pixels of 0 to 255 have no probability, whatever the trace; rounding next to 0 and 1 is let in."""
    p = dist.Bernoulli(logits=f32(3, -3)).to_event(1)
    for way in (score, jax.jit(score)):
        for x in ((3, 0), (0, -1), (255, 1), (0.5, 1.5)):
            assert way(p, f32(*x)) == -INF
        assert way(p, jnp.array([3, 0])) == -INF
        np.testing.assert_allclose(
            way(p, f32(1 + 1e-6, -1e-6)), -2 * np.log1p(np.exp(-3.0)), rtol=1e-4
        )


def test_only_bits_are_bits():
    check_that_only_bits_are_bits(log_prob)


def test_check_of_bits_rejects_the_formula_alone():
    def formula(p, x):
        p = jax.tree.map(jnp.asarray, p)  # as it comes out of a pytree, without NumPyro's warning
        with numpyro_promotion():
            return p.log_prob(x)

    with pytest.raises(AssertionError):
        check_that_only_bits_are_bits(formula)


def test_counts_under_a_bernoulli_are_no_bound():
    """A VAE of bits says so of counts, by its bounds and by evaluation: the formula gives log p(x) above 0."""
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    counts = jnp.array([[0.0, 7.0, 2.0, 0.0]])
    assert jax.jit(jv.elbo)(jax.random.key(1), model, counts[0]).bound == -INF
    found = jv.evaluation.log_likelihood(jax.random.key(2), model, counts, num_samples=10)
    assert found.estimate[0] == -INF
    verdict = jv.testing.check_model(
        model, jnp.concatenate([counts, counts]), num_draws=512, print_report=False
    )
    assert "support" in verdict.failed[0].law


class Halved(NamedTuple):
    """x ~ N(z, 1/4) with z uniform, and a posterior that leaves the unit interval."""

    low: Any = jnp.zeros(1)

    def prior(self):
        return dist.Uniform(self.low, self.low + 1).to_event(1)

    def posterior(self, x):
        return dist.Normal(x, jnp.full(1, 0.5)).to_event(1)

    def likelihood(self, z):
        return dist.Normal(z, jnp.full(1, 0.5)).to_event(1)


def test_the_evidence_under_a_bounded_prior_is_the_integral():
    x = f32([[1.2]])
    grid = (np.arange(20_000) + 0.5) / 20_000
    exact = np.log(np.mean(np.exp(-2 * (1.2 - grid) ** 2)) / (0.5 * np.sqrt(2 * np.pi)))
    found = evaluation.log_likelihood(jax.random.key(0), Halved(), x, num_samples=20_000)
    assert abs(found.estimate[0] - exact) < 5 * found.standard_error[0] < 0.1
    direct = jax.jit(partial(jv.iwae, num_samples=20_000))(jax.random.key(1), Halved(), x[0])
    assert abs(direct.bound - exact) < 5 * found.standard_error[0]


# Models that are no pytrees


class Plain:
    """A model with a state that JAX does not see."""

    def __init__(self, mean):
        self.mean = mean

    def prior(self):
        return dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)

    def posterior(self, x):
        return dist.Normal(0 * x, jnp.ones(1)).to_event(1)

    def likelihood(self, z):
        return dist.Normal(0 * z + self.mean, jnp.ones(1)).to_event(1)


def test_a_model_that_is_no_pytree_is_seen_as_it_is_now():
    model, x = Plain(0.0), jnp.zeros((2, 1))
    found = []
    for model.mean in (0.0, 10.0):
        result = evaluation.log_likelihood(jax.random.key(0), model, x, num_samples=2)
        found.append(result.estimate[0])
    constant = np.log(2 * np.pi) / 2
    np.testing.assert_allclose(found, [-constant, -50 - constant], rtol=1e-5)


# Estimators


def test_dreg_refuses_a_bound_with_kinks():
    model, x = jv.models.vae(jax.random.key(0), (2,), latent_dim=1, hidden=(3,)), jnp.ones(2)
    with refused("gradient"):
        jv.importance_weighted(
            jax.random.key(1), model, x, bound=bounds.vr_max, num_samples=3, gradient="dreg"
        )


class Moving(NamedTuple):
    """A posterior whose support is its parameters."""

    width: Any = jnp.ones(1)

    def prior(self):
        return dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)

    def posterior(self, x):
        return dist.Uniform(x - self.width, x + self.width).to_event(1)

    def likelihood(self, z):
        return dist.Normal(z, jnp.ones(1)).to_event(1)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_estimators_without_the_score_refuse_a_support_that_moves(gradient):
    with refused("gradient"):
        jv.elbo(jax.random.key(0), Moving(), jnp.zeros(1), kl="monte_carlo", gradient=gradient)


def test_the_pathwise_gradient_of_a_support_that_moves_is_exact():
    """E log w = log(2 w) - (1 + 2 w^2 / 3 ..): d/dw of -E z^2 + log 2 w for z uniform within w."""

    def mean(model):
        keys = jax.random.split(jax.random.key(0), 4000)
        call = partial(jv.elbo, kl="monte_carlo")
        return jnp.mean(jax.vmap(lambda key: call(key, model, jnp.zeros(1)).objective)(keys))

    width = 0.7
    slope = jax.jit(jax.grad(mean))(Moving(jnp.full(1, width))).width[0]
    np.testing.assert_allclose(slope, 1 / width - 2 * width / 3, atol=0.02)


def test_which_supports_move():
    a = jnp.ones(2)
    still = dist.Normal(a, a).to_event(1), dist.Gamma(a).to_event(1), dist.LogNormal(a, a)
    model = jv.models.vae(jax.random.key(0), (2,), latent_dim=2, posterior="iaf", hidden=(4,))
    for q in (*still, model.posterior(a), dist.MultivariateNormal(a, jnp.eye(2))):
        assert not moves(q)
    affine = dist.transforms.AffineTransform(a, 2 * a)
    for q in (dist.Uniform(a, 2 * a), dist.TransformedDistribution(dist.Beta(a, a), affine)):
        assert moves(q)


class Bits(NamedTuple):
    """Three bits, whose prior and likelihood are far from q."""

    logits: Any = f32(0.5, -0.5, 1.0)

    def prior(self):
        return FloatBernoulli(f32(1.0, 0.0, -1.0)).to_event(1)

    def posterior(self, x):
        del x
        return FloatBernoulli(self.logits).to_event(1)

    def likelihood(self, z):
        return dist.Normal(jnp.sum(z)[None], jnp.ones(1)).to_event(1)


def spread_of_score(objective, num_samples):
    def slope(key):
        call = partial(objective, key, x=f32([2.0]), num_samples=num_samples)
        return jax.grad(lambda model: call(model=model).objective)(Bits()).logits

    slopes = jax.jit(jax.vmap(slope))(jax.random.split(jax.random.key(0), 2000))
    return np.std(np.asarray(slopes), axis=0).max(), np.mean(np.asarray(slopes), axis=0)


def test_more_samples_make_the_score_function_better():
    objective = partial(jv.elbo, kl="monte_carlo", gradient="score")
    one, ten = (spread_of_score(objective, k) for k in (1, 10))
    assert 0.25 < ten[0] / one[0] < 0.4  # 1 / sqrt(10) is 0.32
    # The twin credits each sample with the mean of all: its spread grows.

    def twin(problem):
        s = problem.draw(path="stopped")
        value = problem.value(s)
        return s, value + jnp.sum(jax.lax.stop_gradient(value) * s.log_q_z_x)

    old = spread_of_score(partial(jv.elbo, kl="monte_carlo", gradient=twin), 10)
    assert old[0] > 2 * one[0]
    np.testing.assert_allclose(ten[1], old[1], atol=6 * old[0] / np.sqrt(2000))


# Closed forms, measures


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (dist.Kumaraswamy(f32(2), f32(3)), dist.Beta(f32(2), f32(2))),
        (dist.Delta(f32(0.5)), dist.Normal(f32(0), f32(1))),
    ],
)
def test_what_has_no_exact_closed_form_is_refused(q, p):
    for wrap in (lambda d: d, lambda d: d.expand((2,)).to_event(1)):
        with refused("kl"):
            analytic_kl(wrap(q), wrap(p))


CLOSED = {
    "normal": (dist.Normal(f32(0.3), f32(0.7)), dist.Normal(f32(-0.2), f32(1.3))),
    "beta": (dist.Beta(f32(2), f32(3)), dist.Beta(f32(4), f32(1.5))),
    "gamma": (dist.Gamma(f32(2), f32(3)), dist.Gamma(f32(1.5), f32(1))),
    "weibull, gamma": (dist.Weibull(f32(2), f32(1.5)), dist.Gamma(f32(2), f32(1))),
    "dirichlet": (dist.Dirichlet(f32(2, 3)), dist.Dirichlet(f32(1.5, 1))),
    "laplace": (dist.Laplace(f32(0), f32(1)), dist.Laplace(f32(0.5), f32(2))),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_that_numpyro_brings_are_the_integrals(name):
    q, p = CLOSED[name]
    lowest, highest = {"beta": (0, 1), "dirichlet": (0, 1)}.get(name, (1e-6, 60))
    if name in ("normal", "laplace"):
        lowest = -60
    z = np.linspace(lowest, highest, 600_001)
    z = (z[1:] + z[:-1]) / 2
    at = np.stack([z, 1 - z], -1) if name == "dirichlet" else z
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.float64(a)), (q, p))
        log_q, log_p = (np.asarray(log_prob(d, jnp.asarray(at))) for d in wide)
    step = (highest - lowest) / 600_000
    integral = np.sum(np.where(log_q > -INF, np.exp(log_q) * (log_q - log_p), 0)) * step
    np.testing.assert_allclose(analytic_kl(q, p), integral, rtol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1.01 * analytic_kl(q, p), integral, rtol=1e-4)


class Decoder(NamedTuple):
    """p(x|z) by a function of z."""

    of: Any

    def prior(self):
        return dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)

    def posterior(self, x):
        raise NotImplementedError  # the free energy is that of a given q

    def likelihood(self, z):
        return self.of(z).to_event(1)


NOT_POLYNOMIAL = {
    "exp": lambda z: dist.Normal(jnp.exp(z), jnp.ones(1)),
    "stopped": lambda z: dist.Normal(jnp.exp(jax.lax.stop_gradient(z)), jnp.ones(1)),
    "relu": lambda z: dist.Normal(jax.nn.relu(z), jnp.ones(1)),
    "laplace": lambda z: dist.Laplace(z, jnp.ones(1)),
    "scale": lambda z: dist.Normal(jnp.zeros(1), 1 + z**2),
    "square": lambda z: dist.Normal(z**2, jnp.ones(1)),
    "choice": lambda z: dist.Normal(jnp.where(z > 0, 1.0, -1.0), jnp.ones(1)),
    "in turn": lambda z: dist.Normal(
        jax.lax.fori_loop(0, 2, lambda _, ab: (ab[1], jnp.exp(z)), (z, z))[0], jnp.ones(1)
    ),
}


def test_a_linear_decoder_is_seen_to_be_one_under_jit_too():
    model = Decoder(lambda z: dist.Normal(2 * z - 1, jnp.ones(1)))
    q = dist.Normal(f32([0.3]), f32([0.5])).to_event(1)
    expected = ((1.0 - (2 * 0.3 - 1)) ** 2 + 4 * 0.25) / 2 + np.log(2 * np.pi) / 2
    call = partial(inference.free_energy, model)
    for way in (call, jax.jit(call)):
        np.testing.assert_allclose(way(q, jnp.ones(1)).distortion, expected, rtol=1e-5)


@pytest.mark.parametrize("name", NOT_POLYNOMIAL)
def test_free_energy_refuses_a_model_whose_expectation_it_does_not_know(name):
    model = Decoder(NOT_POLYNOMIAL[name])
    with refused("model"):
        inference.free_energy(model, model.prior(), jnp.ones(1))


def test_free_energy_of_bits_is_the_sum():
    model, x = Bits(), f32([2.0])
    exact = jv.elbo(jax.random.key(0), model, x, gradient="enumerate", kl="monte_carlo").bound
    found = inference.free_energy(model, model.posterior(x), x).bound
    np.testing.assert_allclose(found, exact, rtol=1e-5)


MEASURES = {
    "delta": (dist.Delta(jnp.zeros(2)).to_event(1), dist.Normal(jnp.zeros(2), 1.0).to_event(1)),
    "a point prior": (
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        dist.Delta(jnp.zeros(2)).to_event(1),
    ),
    "bits under a density": (
        FloatBernoulli(jnp.zeros(2)).to_event(1),
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
    ),
    "a density under bits": (
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        FloatBernoulli(jnp.zeros(2)).to_event(1),
    ),
    "one-hot under a density": (
        OneHotCategorical(jnp.zeros((1, 2))),
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_mass_is_not_compared_with_a_density(name):
    with refused("model"):
        require_latents(*MEASURES[name])


def test_latents_of_one_measure_pass():
    bits = FloatBernoulli(jnp.zeros(2)).to_event(1)
    reals = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    require_latents(bits, bits)
    require_latents(reals, reals)
    require_latents(dist.Gamma(jnp.ones(2)).to_event(1), dist.LogNormal(jnp.zeros(2)).to_event(1))


# Bounds


LOG_W = np.float32(3 * np.random.default_rng(0).normal(size=50))


def check_renyi(renyi):
    wide = np.longdouble(LOG_W)
    for alpha in (-2, 0, 0.9, 0.99999, 0.9999999, 1.0000001, 1.00001, 1.1, 3):
        power = np.longdouble(1 - alpha)
        exact = np.log1p(np.mean(np.expm1(power * (wide - wide.mean())))) / power + wide.mean()
        np.testing.assert_allclose(renyi(LOG_W, alpha), np.float64(exact), rtol=1e-5, atol=2e-6)


def test_renyi_is_exact_next_to_its_limit():
    check_renyi(lambda log_w, alpha: bounds.renyi(jnp.asarray(log_w), alpha))


def test_check_of_renyi_rejects_the_quotient_of_the_logarithm():
    def quotient(log_w, alpha):
        scaled = (1 - alpha) * jnp.asarray(log_w)
        return (jax.nn.logsumexp(scaled) - jnp.log(float(scaled.size))) / (1 - alpha)

    with pytest.raises(AssertionError):
        check_renyi(quotient)


WITH_ZERO = jnp.asarray(np.append(LOG_W, -INF))
BOUNDED = {
    "iwae": bounds.iwae,
    "renyi": partial(bounds.renyi, alpha=0.5),
    "all of iwae": partial(bounds.combination_iwae, beta=0.0),
    "right": partial(bounds.thermodynamic, betas=jnp.array([0.0, 0.5]), side="right"),
    "chi": bounds.chi_upper,
}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_weight_of_zero_is_the_limit_of_small_ones(name):
    bound = BOUNDED[name]
    value, slope = jax.value_and_grad(bound)(WITH_ZERO)
    np.testing.assert_allclose(value, bound(WITH_ZERO.at[-1].set(-1e4)), rtol=1e-6)
    assert np.all(np.isfinite(slope))
    assert slope[-1] == 0


def test_impossible_averages_are_minus_infinity():
    assert bounds.thermodynamic(WITH_ZERO, jnp.array([0.0, 0.5])) == -INF
    assert bounds.combination_iwae(WITH_ZERO, 1.0) == -INF


@pytest.mark.parametrize("betas", [[0.1, 0.5], [0.0, 1.5], [0.0, 0.5, 0.5], [-0.1, 0.2]])
def test_points_that_are_no_partition_are_refused(betas):
    with refused("betas"):
        bounds.thermodynamic(jnp.zeros(3), jnp.asarray(betas))


class Dead(NamedTuple):
    """A decoder under which x = 1/2 is impossible where z is below 0."""

    mean: Any = jnp.zeros(1)

    def prior(self):
        return dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)

    def posterior(self, x):
        return dist.Normal(x + self.mean, jnp.ones(1)).to_event(1)

    def likelihood(self, z):
        return dist.Uniform(jnp.zeros(1), jnp.where(z < 0, 0.25, 1.0)).to_event(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        partial(jv.iwae, gradient="vimco"),
        partial(jv.iwae, gradient="rws"),
        partial(jv.iwae, gradient="score", baseline="leave_one_out"),
        jv.iwae,
    ],
)
def test_samples_of_weight_zero_leave_gradients_finite(objective):
    def one(model, key):
        terms = objective(key, model, jnp.full(1, 0.5), num_samples=8)
        return terms.objective, terms

    keys = jax.random.split(jax.random.key(0), 20)
    slopes, terms = jax.vmap(jax.grad(one, has_aux=True), (None, 0))(Dead(), keys)
    assert np.isneginf(terms.distortion * -1).any()  # some sample was impossible
    assert np.all(np.isfinite(terms.bound))
    assert np.all(np.isfinite(slopes.mean))


# k-hat


def fit_in_long_double(log_w):
    """The k-hat of weights with numbers of a wide range."""
    log_w = np.sort(np.longdouble(log_w))
    size = min(len(log_w) // 5, int(np.ceil(3 * np.sqrt(len(log_w)))))
    return fit_of(np.exp(log_w[-size:] - log_w[-1]) - np.exp(log_w[-size - 1] - log_w[-1]))


def fit_of(y):
    """Zhang and Stephens's estimate from excesses."""
    size = len(y)
    points = 30 + int(np.sqrt(size))
    q = (np.arange(points) + np.longdouble(0.5)) / points
    theta = 1 / y[-1] + (1 - np.sqrt(1 / q)) / (3 * y[int(size / 4 + 0.5) - 1])
    k = np.array([np.mean(np.log1p(-t * y)) for t in theta])
    profile = size * (np.log(-theta / k) - k - 1)
    weight = np.exp(profile - profile.max())
    best = np.sum(theta * weight) / np.sum(weight)
    return float((size * np.mean(np.log1p(-best * y)) + 5) / (size + 10))


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [100, 1000, 100_000])
@pytest.mark.parametrize("scale", [0.5, 2.0, 30.0, 1000.0])
def test_k_hat_is_the_sources_for_weights_of_any_range(num_samples, scale):
    log_w = np.float32(scale * np.random.default_rng(1).normal(size=num_samples))
    found = float(evaluation.pareto_k(jnp.asarray(log_w)))
    np.testing.assert_allclose(found, fit_in_long_double(log_w), rtol=1e-3, atol=1e-3)


def test_check_of_k_hat_rejects_weights_clamped_80_nats_below():
    log_w = np.float32(1000 * np.random.default_rng(1).normal(size=100_000))
    clamped = np.maximum(log_w, log_w.max() - 80)
    assert fit_in_long_double(log_w) > 7
    assert not evaluation.pareto_k(jnp.asarray(clamped)) > 7


def test_ties_with_the_threshold_are_no_tail():
    log_w = np.sort(np.float32(np.random.default_rng(1).normal(size=1000)))
    log_w[:-20] = log_w[-21]  # the tail would be 95 of them
    y = np.exp(np.longdouble(log_w[-20:])) - np.exp(np.longdouble(log_w[-21]))
    found = float(evaluation.pareto_k(jnp.asarray(log_w)))
    assert abs(found - float(fit_of(y))) < 0.02  # on a grid of other points
    assert evaluation.pareto_k(jnp.where(jnp.arange(100) < 3, 0.0, -INF)) == INF


# Weights of rows


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_evaluation_of_a_row_is_of_that_row_whatever_its_weight(name):
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    call = partial(evaluation.log_likelihood, jax.random.key(1), model, num_samples=3)
    weighted = call({"x": jnp.eye(4), name: f32(1, 1, 1, 0)})
    np.testing.assert_array_equal(weighted.estimate, call(jnp.eye(4)).estimate)


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_a_row_of_weight_zero_is_not_there(name):
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    step = jax.jit(jv.training.make_step(jv.elbo, optax.adam(1e-3)))
    state = jv.training.init(jax.random.key(1), model, optax.adam(1e-3))
    x = jnp.eye(4)
    without, metrics = step(state, {"x": x[:3], "index": jnp.arange(3)})
    for row in (0.0, jnp.nan):
        batch = {"x": x.at[3].set(row), name: f32(1, 1, 1, 0)}
        found, also = step(state, batch)
        np.testing.assert_allclose(also["loss"], metrics["loss"], rtol=1e-6)
        for a, b in zip(jax.tree.leaves(found.model), jax.tree.leaves(without.model), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Types


def test_a_plain_number_is_not_trained_unasked():
    class Numbered(NamedTuple):
        weight: Any
        sigma: float = 0.5

    with refused("model"):
        jv.training.init(jax.random.key(0), Numbered(jnp.ones(2)), optax.adam(1e-3))


def test_keys_that_vmap_does_not_tell_apart_are_refused():
    model = jv.models.vae(jax.random.key(0), (2,), latent_dim=1, hidden=(3,))
    with refused("key"):
        jv.elbo(jax.random.key(0, impl="rbg"), model, jnp.ones(2))


def test_gradients_have_the_dtype_of_what_they_are_of():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x, w = jnp.ones((2, 3), jnp.float64), jnp.ones((3, 4), jnp.float32)
        slope = jax.grad(lambda x, w: jnp.sum(rows(x, w)), argnums=(0, 1))(x, w)
    assert [leaf.dtype for leaf in slope] == [jnp.float64, jnp.float32]
