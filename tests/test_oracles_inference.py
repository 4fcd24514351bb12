"""EM, expectations, solvable models, densities and labels against closed forms, quadrature and finite differences.

False-alarm rate of each z-test: 1e-6 over all entries.
"""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import special, stats

import jaxvae as jv
from jaxvae import testing
from jaxvae.bench.lines import fit_line
from jaxvae.distributions import (
    FloatBernoulli,
    FloatCategorical,
    PoissonLogRate,
    ZeroInflated,
    log_prob,
    rsample,
    sample,
    sample_with_log_prob,
)
from jaxvae.inference import em, expectation, fit_posterior, free_energy, make_update
from jaxvae.models.likelihoods import softplus, variance_of
from jaxvae.semi_supervised import choose_labelled, redrawn
from jaxvae.testing import (
    assert_mean,
    draw_examples,
    exact_bound,
    exact_gradient,
    expected_iwae,
    in_float64,
    slope,
    snr,
    z_scores,
)
from jaxvae.training.em import make_em_step
from tests.support.linear import iris
from tests.support.slow import slow_but
from tests.test_fit_posterior import PRECISION, best_diagonal, exact_elbo, problem

# EM of probabilistic PCA, one step.

WEIGHTS = np.where(np.arange(150) < 60, 2.0, 0.5)


@cache
def start():
    model = jv.models.ppca(jax.random.key(0), (4,), latent_dim=2)
    return model.initialized(jax.random.key(1), iris())


@cache
def exact_step():
    """W, mu and the noise after one step, the mean free energies after each half of it, float64.

    The M-step in the regression of x on [z, 1] with the posterior moments of z, as for factor analysis
    (Rubin and Thayer, 1982), with one variance (Tipping and Bishop, 1999).
    """
    model, xs, w = start(), np.float64(iris()), WEIGHTS / WEIGHTS.sum()
    weight, offset = np.float64(model.weight[...]), np.float64(model.offset[...])
    noise = float(model.noise[0])

    def log_evidence(weight, offset, noise):
        covariance = weight @ weight.T + noise * np.eye(4)
        return w @ stats.multivariate_normal(offset, covariance).logpdf(xs)

    spread = np.linalg.inv(np.eye(2) + weight.T @ weight / noise)
    means = (xs - offset) @ weight @ spread / noise
    design = np.column_stack([means, np.ones(150)])
    second = design.T @ (w[:, None] * design)
    second[:2, :2] += spread
    both = np.linalg.solve(second, design.T @ (w[:, None] * xs)).T
    residual = xs - design @ both.T
    squares = w @ np.sum(residual**2, 1) + np.trace(both[:, :2] @ spread @ both[:, :2].T)
    new = both[:, :2], both[:, 2], squares / 4
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * spread)[1]
    prior = -np.log(2 * np.pi) - 0.5 * (w @ np.sum(means**2, 1) + np.trace(spread))
    after_m = -2 * np.log(2 * np.pi * new[2]) - squares / (2 * new[2]) + prior + entropy
    return new, log_evidence(weight, offset, noise), after_m, log_evidence(*new)


def check_step(step):
    """The new model, and the free energies after the E-step, after the M-step and of the new model."""
    model, *energies = step()
    (weight, offset, noise), *exact = exact_step()
    np.testing.assert_allclose(model.weight[...], weight, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.offset[...], offset, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.noise, np.full(4, noise), rtol=1e-3)
    for mine, theirs in zip(energies, exact, strict=False):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@cache
def update():
    return jax.jit(make_update(start()))


def by_update(weights=WEIGHTS):
    done = update()(start(), (), jnp.asarray(iris()), jnp.float32(weights))
    share = WEIGHTS / WEIGHTS.sum()
    return done.model, share @ done.after_e.bound, share @ done.after_m.bound


def by_em():
    options = {"num_steps": 1, "tolerance": None, "weights": jnp.float32(WEIGHTS)}
    model, history = em(start(), iris(), **options)
    last = history[-1]
    total = WEIGHTS.sum()
    return model, last.after_e / total, last.after_m / total, last.log_evidence / total


def by_training_step():
    step = jax.jit(make_em_step(start()))
    state = jv.training.init(jax.random.key(0), start(), optax.identity())
    batch = {"x": jnp.asarray(iris()), "weight": jnp.float32(WEIGHTS)}
    state, metrics = step(state, batch)
    return state.model, -metrics["loss"], metrics["after_m"]


def energies_exchanged():
    model, after_e, after_m = by_update()
    return model, after_m, after_e


STEPS = {"make_update": by_update, "em": by_em, "make_em_step": by_training_step}


@pytest.mark.parametrize("name", slow_but(STEPS, "make_update"))
def test_a_step_of_em_is_the_regression_on_posterior_moments(name):
    check_step(STEPS[name])
    for twin in (partial(by_update, np.ones(150)), energies_exchanged):
        with pytest.raises(AssertionError):
            check_step(twin)


# Expectations under q.


def check_expectation(function):
    """A cubic under a normal by Gauss-Hermite quadrature, and any function of bits by enumeration."""
    mean, tril = np.array([0.5, -2.0]), np.array([[1.0, 0.0], [-0.4, 0.3]])

    def cubic(z):
        return z[0] ** 3 + z[0] * z[1] ** 2 - 2 * z[1]

    nodes, mass = np.polynomial.hermite_e.hermegauss(8)
    mass = mass / mass.sum()
    pairs = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    exact = np.outer(mass, mass).ravel() @ [cubic(mean + tril @ e) for e in pairs]
    q = dist.MultivariateNormal(jnp.float32(mean), scale_tril=jnp.float32(tril))
    np.testing.assert_allclose(function(q, cubic), exact, rtol=1e-5)
    logits = np.array([0.3, -1.0, 2.0])
    on, states = special.expit(logits), np.array(list(np.ndindex(2, 2, 2)))
    exact = np.prod(np.where(states, on, 1 - on), axis=1) @ np.exp(states @ [1.0, -0.5, 0.3])
    bits = FloatBernoulli(jnp.float32(logits)).to_event(1)
    got = function(bits, lambda z: jnp.exp(z @ jnp.float32([1.0, -0.5, 0.3])))
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def at_the_mean(q, function):
    return function(q.mean)


def narrow(q, function):
    if not isinstance(q, dist.MultivariateNormal):
        return expectation(q, function)
    return expectation(dist.MultivariateNormal(q.loc, scale_tril=0.7 * q.scale_tril), function)


def test_expectations_are_quadratures_and_sums():
    check_expectation(expectation)
    for twin in (at_the_mean, narrow):
        with pytest.raises(AssertionError):
            check_expectation(twin)


def check_free_energy(function):
    """`E_q[log p(x, z)] + H(q)` of pPCA at a q that is not exact, by the moments of q."""
    model, x = start(), np.float64(iris()[3])
    mean, tril = np.array([0.3, -1.0]), np.array([[0.5, 0.0], [0.4, 1.2]])
    covariance = tril @ tril.T
    weight, offset = np.float64(model.weight[...]), np.float64(model.offset[...])
    noise = float(model.noise[0])
    residual = x - offset - weight @ mean
    squares = residual @ residual + np.trace(weight @ covariance @ weight.T)
    distortion = 2 * np.log(2 * np.pi * noise) + squares / (2 * noise)
    rate = 0.5 * (np.trace(covariance) + mean @ mean - 2) - np.log(np.diag(tril)).sum()
    q = dist.MultivariateNormal(jnp.float32(mean), scale_tril=jnp.float32(tril))
    terms = function(model, q, jnp.float32(x))
    exact = -(distortion + rate), -(distortion + rate), distortion, rate
    np.testing.assert_allclose(terms, exact, rtol=1e-5)


def of_the_exact_posterior(model, q, x):
    return free_energy(model, model.exact_posterior(x), x)


def without_the_spread(model, q, x):
    tiny = dist.MultivariateNormal(q.loc, scale_tril=1e-3 * q.scale_tril)
    terms, other = free_energy(model, q, x), free_energy(model, tiny, x)
    return terms._replace(distortion=other.distortion)


def test_the_free_energy_is_that_of_the_moments():
    check_free_energy(free_energy)
    for twin in (of_the_exact_posterior, without_the_spread):
        with pytest.raises(AssertionError):
            check_free_energy(twin)


def check_fit(fit):
    """The ELBO of the fitted q of one example is that of the best diagonal normal, in closed form."""
    model, xs = problem()
    q = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], fit(jax.random.key(2), model, xs[3]))
    reached = exact_elbo(model, q, xs[3:4])[0]
    assert -1e-4 < best_diagonal(model, xs)[2][3] - reached < 4 * PRECISION


@pytest.mark.slow
def test_a_fitted_posterior_of_one_example():
    fit = partial(fit_posterior, num_bound_samples=2)
    check_fit(lambda *args: fit(*args).posterior)
    for twin in (
        lambda key, model, x: model.posterior(x),
        lambda key, model, x: fit(key, model, problem()[1][4]).posterior,
    ):
        with pytest.raises(AssertionError):
            check_fit(twin)


# The solvable models and what is made of them.

MODELS = {
    "linear_gaussian": testing.linear_gaussian(1, full=True),
    "gaussian_mixture": testing.gaussian_mixture(1, num_components=3, latent_dim=2, full=True),
    "discrete": testing.discrete(latent="bernoulli"),
}


def f64(param):
    return np.asarray(param[...], np.float64)


def parts(model):
    p = model.decoder
    return f64(p.weight), f64(p.bias), p


def exact_evidence(name):
    """By SciPy's normals, of which there is one a component; by the sum over all bits."""
    model, x = MODELS[name], np.array([0.4, -1.0, 0.3])
    weight, bias, p = parts(model)
    if name == "discrete":
        x = np.array([1.0, 0.0, 0.0, 1.0])
        z = np.array(list(np.ndindex(2, 2, 2)))
        logits = z @ weight.T + bias
        log_p = np.sum(x * logits - np.logaddexp(0, logits), 1)
        log_p += np.sum(z * f64(p.logits) - np.logaddexp(0, f64(p.logits)), 1)
        return x, special.logsumexp(log_p)
    noise = np.exp(2 * f64(p.log_scale)) * np.eye(3)
    if name == "linear_gaussian":
        return x, stats.multivariate_normal(bias, weight @ weight.T + noise).logpdf(x)
    each = [
        stats.multivariate_normal(weight @ m + bias, np.exp(2 * s) * weight @ weight.T + noise)
        for m, s in zip(f64(p.means), f64(p.log_scales), strict=True)
    ]
    joint = special.log_softmax(f64(p.logits)) + [normal.logpdf(x) for normal in each]
    return x, special.logsumexp(joint)


def check_evidence(name, function):
    x, exact = exact_evidence(name)
    got = in_float64(function, MODELS[name], np.float32(x))
    np.testing.assert_allclose(got, exact, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_evidence_of_solvable_models(name):
    check_evidence(name, lambda model, x: model.log_evidence(x))
    for twin in (
        lambda model, x: model.log_evidence(-x),
        lambda model, x: model.log_evidence(x) + 1e-4,
    ):
        with pytest.raises(AssertionError):
            check_evidence(name, twin)


def check_bound(function):
    """The ELBO and the expected IWAE of K = 1, 2 of three bits, by the sum over all tuples."""
    model, (x, evidence) = MODELS["discrete"], exact_evidence("discrete")
    weight, bias, p = parts(model)
    z = np.array(list(np.ndindex(2, 2, 2)))
    logits = f64(model.encoder.weight) @ x + f64(model.encoder.bias)
    log_q = np.sum(z * logits - np.logaddexp(0, logits), 1)
    of_x = z @ weight.T + bias
    log_w = np.sum(x * of_x - np.logaddexp(0, of_x), 1) - log_q
    log_w += np.sum(z * f64(p.logits) - np.logaddexp(0, f64(p.logits)), 1)
    q = np.exp(log_q)
    np.testing.assert_allclose(special.logsumexp(log_w + log_q), evidence)
    pairs = np.logaddexp(log_w[:, None], log_w[None]) - np.log(2)
    exact = {("elbo", 1): q @ log_w, ("iwae", 1): q @ log_w, ("iwae", 2): q @ pairs @ q}
    for (bound, k), expected in exact.items():
        call = partial(function, bound=bound, num_samples=k)
        got = in_float64(lambda model, x, call=call: call(model, x), model, np.float32(x))
        np.testing.assert_allclose(got, expected, atol=1e-8)


def one_sample_more(model, x, *, bound, num_samples):
    return exact_bound(model, x, bound=bound, num_samples=num_samples + 1)


def test_exact_bounds_are_sums_over_tuples():
    check_bound(exact_bound)
    for twin in (one_sample_more, lambda model, x, **options: model.log_evidence(x)):
        with pytest.raises(AssertionError):
            check_bound(twin)


def check_gradient(function):
    """Along a random direction, the difference quotient of the sum over tuples."""
    model, (x, _) = MODELS["discrete"], exact_evidence("discrete")
    leaves, structure = jax.tree.flatten(model)
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=leaf.shape) for leaf in leaves]

    def along(t, x, *leaves):
        moved = [leaf + t * jnp.asarray(d) for leaf, d in zip(leaves, direction, strict=True)]
        return exact_bound(jax.tree.unflatten(structure, moved), x, bound="iwae", num_samples=2)

    step = 2.0**-14
    up, down = (in_float64(along, jnp.float32(t), np.float32(x), *leaves) for t in (step, -step))
    found = jax.tree.leaves(function(model, np.float32(x)))
    got = sum(np.sum(g * d) for g, d in zip(found, direction, strict=True))
    np.testing.assert_allclose(got, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)


def test_the_exact_gradient_is_the_difference_quotient():
    call = partial(exact_gradient, bound="iwae", num_samples=2)
    check_gradient(call)
    for twin in (
        lambda model, x: jax.tree.map(lambda leaf: -leaf, call(model, x)),
        lambda model, x: jax.tree.map(lambda leaf: leaf / leaf.size, call(model, x)),
    ):
        with pytest.raises(AssertionError):
            check_gradient(twin)


def check_expected_iwae(function):
    log_w, probs = np.array([0.0, 1.5, -2.0]), np.array([0.5, 0.125, 0.375])
    for k in (1, 2, 4):
        tuples = np.array(list(itertools.product(range(3), repeat=k)))
        values = special.logsumexp(log_w[tuples], axis=1) - np.log(k)
        exact = np.prod(probs[tuples], axis=1) @ values
        call = partial(function, num_samples=k)
        got = in_float64(call, *map(np.float32, (log_w, probs)))
        np.testing.assert_allclose(got, exact, atol=1e-9)


def test_the_expected_bound_of_weights_that_are_known():
    check_expected_iwae(expected_iwae)
    for twin in (
        lambda log_w, probs, num_samples: jnp.log(jnp.exp(log_w) @ probs),
        lambda log_w, probs, num_samples: log_w @ probs,
        lambda log_w, probs, num_samples: expected_iwae(log_w, jnp.ones(3) / 3, num_samples),
    ):
        with pytest.raises(AssertionError):
            check_expected_iwae(twin)


def check_examples(xs):
    """First and second moments of the linear-Gaussian model's x, whitened by `W W' + s^2 I`."""
    weight, bias, p = parts(MODELS["linear_gaussian"])
    covariance = weight @ weight.T + np.exp(2 * f64(p.log_scale)) * np.eye(3)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (np.float64(xs) - bias).T).T
    pairs = np.einsum("ni,nj->nij", white, white).reshape(-1, 9)
    assert_mean(white, 0.0, rounding=1e-4, what="mean")
    assert_mean(pairs, np.eye(3).ravel(), rounding=1e-4, what="second moments")


def test_examples_follow_the_model():
    model = MODELS["linear_gaussian"]
    draw = jax.jit(draw_examples, static_argnums=2)
    xs = draw(jax.random.key(0), model, 5000)
    check_examples(xs)
    weight, bias, p = parts(model)
    noise = np.exp(f64(p.log_scale)) * np.random.default_rng(0).normal(size=(5000, 3))
    one_latent = weight @ [0.3, -1.0] + bias + noise
    for twin in (one_latent, np.roll(xs, 1, axis=1), 0.9 * xs):
        with pytest.raises(AssertionError):
            check_examples(twin)


def check_float64(function):
    """1 + 2^-40 is not 1, neither in the result nor on the way, and the process stays in float32."""
    got = function(lambda x: x + 2.0**-40, jnp.float32(1))
    assert np.float64(got) == 1 + 2.0**-40
    assert jnp.asarray(1.0).dtype == jnp.float32


def test_a_function_in_float64():
    check_float64(in_float64)
    with pytest.raises(AssertionError):
        check_float64(lambda function, x: function(x))


def check_z_scores(function):
    """By hand: the difference over the error of the mean, with the rounding beside it."""
    samples, exact = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]), np.array([2.0, 1e-7])
    error = np.sqrt(7 / 3 + 0.25)  # the variance of 1, 2, 6 is 7
    np.testing.assert_allclose(function(samples, exact, 0.5), [1 / error, -2e-7], rtol=1e-12)


def test_z_scores():
    check_z_scores(z_scores)
    for twin in (
        lambda samples, exact, rounding: z_scores(samples, exact),
        lambda samples, exact, rounding: -z_scores(samples, exact, rounding),
        lambda samples, exact, rounding: z_scores(samples, exact, rounding) * np.sqrt(3),
    ):
        with pytest.raises(AssertionError):
            check_z_scores(twin)


def check_snr(function):
    """`g = 3 + normal noise of sd 2` in four entries: 1.5; the standard error of the ratio is 0.6 %."""

    def objective(key, model, x):
        noise = 2 * jax.random.normal(key, (2, 2))
        return jnp.sum((3 + noise) * model.encoder.weight[...])

    model = testing.linear_gaussian(0, event_size=2, latent_dim=2)
    (ratio,) = function(jax.random.key(0), objective, model).values()
    np.testing.assert_allclose(ratio, 1.5, rtol=0.03)


def test_the_ratio_of_known_noise():
    call = partial(snr, x=jnp.zeros(2), num_draws=8000, groups=("encoder",))

    def doubled(key, objective, model):
        return call(key, lambda *args: objective(*args) ** 2, model)

    def squared(key, objective, model):
        return {name: ratio**2 for name, ratio in call(key, objective, model).items()}

    check_snr(call)
    for twin in (doubled, squared):
        with pytest.raises(AssertionError):
            check_snr(twin)


KS, TIMES = np.array([1.0, 2.0, 5.0, 9.0]), np.array([3.0, 4.0, 9.0, 11.0])


def check_slope(function):
    """The regression of SciPy on logarithms, with its error."""
    theirs = stats.linregress(np.log(KS), np.log(TIMES))
    np.testing.assert_allclose(function(KS, TIMES), (theirs.slope, theirs.stderr), rtol=1e-9)


def check_line(function):
    theirs = stats.linregress(KS, TIMES)
    exact = theirs.intercept, theirs.slope, theirs.rvalue**2
    np.testing.assert_allclose(function(KS, TIMES), exact, rtol=1e-9)


def test_slopes_are_scipys():
    check_slope(slope)
    check_line(fit_line)
    for check, twin in (
        (check_slope, lambda ks, times: slope(times, ks)),
        (check_slope, lambda ks, times: slope(np.exp(ks), np.exp(times))),
        (check_line, lambda ks, times: fit_line(times, ks)),
        (check_line, lambda ks, times: fit_line(ks - ks.mean(), times)),
    ):
        with pytest.raises(AssertionError):
            check(twin)


# Densities and samples.

LOGITS = np.array([0.3, -1.0, 2.0])


def check_zero_inflated(function):
    """`pi 1[x = 0] + (1 - pi) Poisson(x)` of SciPy."""
    rate, drop = np.array([0.5, 3.0]), np.array([-1.0, 0.7])
    for x in ([0.0, 0.0], [2.0, 5.0]):
        keep = (1 - special.expit(drop)) * stats.poisson(rate).pmf(x)
        exact = np.log(special.expit(drop) * (np.array(x) == 0) + keep)
        got = function(jnp.float32(np.log(rate)), jnp.float32(drop), jnp.float32(x))
        np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_counts_with_zeros_added_are_scipys():
    def score(log_rate, drop, x):
        return ZeroInflated(PoissonLogRate(log_rate), drop).log_prob(x)

    check_zero_inflated(score)
    for twin in (
        lambda m, drop, x: score(m, -drop, x),
        lambda m, drop, x: PoissonLogRate(m).log_prob(x),
    ):
        with pytest.raises(AssertionError):
            check_zero_inflated(twin)


def check_float_categorical(kind):
    """Log-probabilities, moments and frequencies of class numbers, by NumPy."""
    p = kind(jnp.float32(LOGITS))
    probs = special.softmax(LOGITS)
    np.testing.assert_allclose(p.log_prob(jnp.arange(3.0)), np.log(probs), rtol=1e-5)
    mean = probs @ np.arange(3)
    np.testing.assert_allclose([p.mean, p.variance], [mean, probs @ (np.arange(3) - mean) ** 2])
    draws = p.sample(jax.random.key(0), (4000,))
    assert draws.dtype == jnp.float32
    assert_mean(np.asarray(draws)[:, None] == np.arange(3), probs, what="frequencies")


class Reversed(FloatCategorical):
    def sample(self, key, sample_shape=()):
        return 2 - super().sample(key, sample_shape)


class Unordered(FloatCategorical):
    @property
    def mean(self):
        return jnp.argmax(self.logits).astype(jnp.float32)


def test_classes_as_floats():
    check_float_categorical(FloatCategorical)
    for twin in (Reversed, Unordered, lambda logits: FloatCategorical(-logits)):
        with pytest.raises((AssertionError, TypeError)):
            check_float_categorical(twin)


MEAN, SCALE = np.array([1.0, -3.0]), np.array([0.5, 2.0])


@cache
def calls():
    """Of 4,000 keys: samples by all three functions, log-densities by both, slopes of the samples."""

    def normal(mean):
        return dist.Normal(mean, jnp.float32(SCALE)).to_event(1)

    def draws(mean):
        keys = jax.random.split(jax.random.key(0), 4000)

        def one(key):
            q, again = normal(mean), partial(jax.random.clone, key)
            z, log_q = sample_with_log_prob(q, again())
            return rsample(q, again()), sample(q, again()), z, log_q, log_prob(q, z)

        return jax.vmap(one)(keys)

    @jax.jit
    def both(mean):
        slopes = [jax.grad(lambda m, i=i: jnp.sum(draws(m)[i]) / 4000)(mean) for i in range(3)]
        return (*draws(mean), jnp.stack(slopes))

    return dict(
        zip(("r", "plain", "z", "log_q", "score", "slopes"), both(jnp.float32(MEAN)), strict=True)
    )


def check_calls(of):
    """Of a product of normals: moments, slopes of 1 in the mean, and SciPy's density."""
    rows = (np.float64(of["z"]) - MEAN) / SCALE
    assert_mean(np.concatenate([rows, rows**2], 1), [0, 0, 1, 1], rounding=1e-5, what="moments")
    for name in ("r", "plain"):
        np.testing.assert_array_equal(of[name], of["z"])
    exact = stats.norm.logpdf(np.float64(of["z"]), MEAN, SCALE).sum(1)
    for name in ("log_q", "score"):
        np.testing.assert_allclose(of[name], exact, rtol=1e-5)
    np.testing.assert_allclose(of["slopes"], np.ones((3, 2)), rtol=1e-4)


def test_samples_and_densities():
    of = calls()
    check_calls(of)
    for twin in (
        {"z": of["z"] * 1.1},
        {"r": np.roll(of["r"], 1, axis=0)},
        {"plain": -of["plain"]},
        {"log_q": of["log_q"] / 2},
        {"score": np.roll(of["score"], 1)},
        {"slopes": 0 * of["slopes"]},
    ):
        with pytest.raises(AssertionError):
            check_calls(of | twin)


def check_positive(function, floor):
    x = np.array([-80.0, -3.0, 0.0, 1.5, 200.0])
    value, slope = jax.vmap(jax.value_and_grad(function))(jnp.float32(x))
    np.testing.assert_allclose(value, np.logaddexp(0, x) + floor, rtol=1e-6)
    np.testing.assert_allclose(slope, special.expit(x), rtol=1e-6)


def test_softplus_and_the_variance_made_of_it():
    check_positive(softplus, 0.0)
    check_positive(variance_of, 1e-8)
    for twin in ((variance_of, 0.0), (softplus, 1e-8), (lambda x: jnp.log1p(jnp.exp(x)), 0.0)):
        with pytest.raises(AssertionError):
            check_positive(*twin)


# Labelled rows.


def check_redrawn(function):
    """Row j at a step is observed with `fold_in(fold_in(key, step), j)`."""
    stored = np.arange(6.0, dtype=np.float32).reshape(3, 2)

    def observe(key, x):
        return x + jax.random.normal(key, x.shape)

    at = function(jax.random.key(4), observe, stored)
    for step in (0, 7):
        of_step = jax.random.fold_in(jax.random.key(4), step)
        exact = [observe(jax.random.fold_in(of_step, j), row) for j, row in enumerate(stored)]
        np.testing.assert_array_equal(at(jnp.int32(step)), exact)


def test_rows_are_redrawn_at_every_step():
    check_redrawn(redrawn)
    for twin in (
        lambda key, observe, stored: lambda step: redrawn(key, observe, stored)(jnp.int32(0)),
        lambda key, observe, stored: lambda step: stored,
        lambda key, observe, stored: lambda step: redrawn(key, observe, stored[::-1])(step)[::-1],
    ):
        with pytest.raises(AssertionError):
            check_redrawn(twin)


CLASSES = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 2])


def check_choice(function):
    """Two rows of each class, without a row twice, each row of a class as often as the others."""
    counts = np.zeros((150, 10))
    for i in range(150):
        chosen = function(jax.random.key(i), CLASSES, 6, 3)
        np.testing.assert_array_equal(CLASSES[chosen], [0, 0, 1, 1, 2, 2])
        counts[i] = np.bincount(chosen, minlength=10)
    assert counts.max() == 1
    share = 2 / np.bincount(CLASSES)[CLASSES]
    assert_mean(counts, share, what="frequencies")


def test_labelled_rows_are_drawn_alike_from_every_class():
    check_choice(choose_labelled)

    def always_the_first(key, labels, num_labels, num_classes):
        return np.concatenate([np.flatnonzero(labels == c)[:2] for c in range(num_classes)])

    def with_replacement(key, labels, num_labels, num_classes):
        rows = np.concatenate([np.flatnonzero(labels == c)[:1] for c in range(num_classes)])
        return np.repeat(rows, 2)

    for twin in (always_the_first, with_replacement):
        with pytest.raises(AssertionError):
            check_choice(twin)
