"""Every likelihood of x against another library: values, mass, support, samples, extremes, masks."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import integrate, special, stats

from jaxvae import models
from jaxvae.binding import Observed
from jaxvae.distributions import Levels, log_prob
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.models import likelihoods
from jaxvae.models.likelihoods import LikelihoodName, feature_shape, make_likelihood
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import assert_mean

GREY = np.arange(256) / 255
SIZE = 3


class Case(NamedTuple):
    """A likelihood, what the decoder gives [P, 3], values that it supports, and float64 answers."""

    module: Any
    params: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    log_p: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Of values [N, 1] under params [P, 3]: [N, 3]."""
    moments: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    """Mean and variance [3] of each value, where scipy knows them."""
    features: Callable[[np.ndarray], np.ndarray] = lambda x: x


def positive(raw):
    return np.logaddexp(0, raw) + 1e-8


def frozen(of):
    """Answers of a frozen scipy distribution `of(params)`."""

    def log_p(params, x):
        d = of(params)
        return (d.logpmf if hasattr(d, "pmf") else d.logpdf)(x)

    return {"log_p": log_p, "moments": lambda params: of(params).stats("mv")}


def log_continuous_bernoulli(params, x):
    a = params[0]
    return a * x - np.log(np.expm1(a) / a)


def moments_continuous_bernoulli(params):
    a = params[0]
    return 1 / -np.expm1(-a) - 1 / a, 1 / a**2 - 1 / (4 * np.sinh(a / 2) ** 2)


def log_scale(raw):
    return -7.7 + np.logaddexp(0, raw + 7.7)


def log_levels(mean, raw, x):
    """Differences of scipy's logistic distribution function, with the tails at both ends."""
    logistic = stats.logistic(mean, np.exp(log_scale(raw)))
    k = np.round(x * 255)
    lower = np.where(k == 0, -np.inf, (k - 0.5) / 255)
    upper = np.where(k == 255, np.inf, (k + 0.5) / 255)
    # Of the smaller of both tails, which has the digits.
    above = lower > logistic.mean()
    mass = np.where(
        above, logistic.sf(lower) - logistic.sf(upper), logistic.cdf(upper) - logistic.cdf(lower)
    )
    return np.log(mass)


def log_mixture(params, x):
    logits, raw_mean, raw = params.reshape(3, -1, SIZE)
    count = len(logits)
    mean = (np.arange(count)[:, None] + 0.5) / count + raw_mean
    each = np.stack([log_levels(m, r, x) for m, r in zip(mean, raw, strict=True)])
    return special.logsumexp(special.log_softmax(logits, axis=0)[:, None] + each, axis=0)


def log_classes(params, x):
    log_p = special.log_softmax(params, axis=0)
    return log_p[np.int64(x[:, 0])]


def student(df):
    return frozen(lambda p: stats.t(df, p[0], 1.0))


def negative_binomial(p, log_r=None):
    r = np.exp(p[1] if log_r is None else log_r)
    return stats.nbinom(r, r / (r + np.exp(p[0])))


def zero_inflated(log_r):
    def log_p(p, x):
        log_count = negative_binomial(p, log_r and log_r(p)).logpmf(x)
        keep, drop = -np.logaddexp(0, p[-1]), -np.logaddexp(0, -p[-1])
        return np.where(x == 0, np.logaddexp(drop, keep + log_count), keep + log_count)

    return log_p


REALS = np.array([-4.0, -1.0, 0.0, 0.3, 2.0, 7.0])
COUNTS = np.array([0.0, 1.0, 2.0, 5.0, 40.0, 1000.0])
BAD_COUNTS, BAD_GREY = np.array([-1.0, 0.5]), np.array([-0.1, 1.1])


def cases():
    a = np.float64(np.float32(np.random.default_rng(0).normal(size=(15, SIZE))))
    softer = a[:6] * 0.5 - np.repeat([[0.0], [0.0], [3.0]], 2, axis=0)
    counts = {"inside": COUNTS, "outside": BAD_COUNTS, "features": np.log1p}
    reals = {"inside": REALS, "outside": np.array([])}
    grey = {"inside": GREY[[0, 1, 50, 128, 254, 255]]}
    levels = grey | {"outside": np.array([0.3, -1 / 255, 256 / 255])}
    zeros = lambda p: np.zeros(SIZE)  # noqa: E731
    shape = (SIZE,)
    return {
        "bernoulli": Case(
            likelihoods.Bernoulli(),
            a[:1],
            np.array([0.0, 1.0]),
            np.array([0.5, 2.0]),
            **frozen(lambda p: stats.bernoulli(special.expit(p[0]))),
        ),
        "continuous_bernoulli": Case(
            likelihoods.ContinuousBernoulli(),
            3 * a[:1],
            **grey,
            outside=BAD_GREY,
            log_p=log_continuous_bernoulli,
            moments=moments_continuous_bernoulli,
        ),
        "beta": Case(
            likelihoods.Beta(),
            a[:2] + 2,
            np.array([1e-4, 0.1, 0.5, 0.9, 0.999]),
            np.array([0.0, 1.0, -0.1, 1.1]),
            **frozen(lambda p: stats.beta(*positive(p))),
        ),
        "discretized_logistic": Case(
            likelihoods.DiscretizedLogistic(),
            np.stack([a[0] / 4, a[1] - 2.5]),
            **levels,
            log_p=lambda p, x: log_levels(0.5 + p[0], p[1], x),
        ),
        "discretized_logistic_mixture": Case(
            likelihoods.DiscretizedLogisticMixture(num_components=2),
            softer,
            **levels,
            log_p=log_mixture,
        ),
        "gaussian": Case(
            likelihoods.Gaussian(), a[:1], **reals, **frozen(lambda p: stats.norm(p[0], 1.0))
        ),
        "gaussian_fixed": Case(
            likelihoods.FixedGaussian(0.25),
            a[:1],
            **reals,
            **frozen(lambda p: stats.norm(p[0], 0.5)),
        ),
        "gaussian_per_value": Case(
            likelihoods.GaussianPerValue(),
            a[:2],
            **reals,
            **frozen(lambda p: stats.norm(p[0], np.sqrt(positive(p[1])))),
        ),
        "laplace": Case(
            likelihoods.Laplace(), a[:1], **reals, **frozen(lambda p: stats.laplace(p[0], 1.0))
        ),
        "student_t": Case(likelihoods.StudentT(), a[:1], **reals, **student(5.0)),
        "student_t of 3": Case(likelihoods.StudentT(df=3.0), a[:1], **reals, **student(3.0)),
        "categorical": Case(
            likelihoods.Categorical(4),
            a[:4],
            np.arange(4.0),
            np.array([-1.0, 4.0, 0.5]),
            log_classes,
            features=lambda x: np.eye(4)[np.int64(x)],
        ),
        "poisson": Case(
            likelihoods.Poisson(), a[:1], **counts, **frozen(lambda p: stats.poisson(np.exp(p[0])))
        ),
        "negative_binomial": Case(
            likelihoods.NegativeBinomial(), a[:2], **counts, **frozen(negative_binomial)
        ),
        "negative_binomial by place": Case(
            likelihoods.NegativeBinomial(shape),
            a[:1],
            **counts,
            **frozen(lambda p: negative_binomial(p, zeros(p))),
        ),
        "zero_inflated_negative_binomial": Case(
            likelihoods.ZeroInflatedNegativeBinomial(),
            a[:3],
            **counts,
            log_p=zero_inflated(None),
        ),
        "zero_inflated_negative_binomial by place": Case(
            likelihoods.ZeroInflatedNegativeBinomial(shape),
            a[:2],
            **counts,
            log_p=zero_inflated(zeros),
        ),
    }


CASES = cases()
ALL = pytest.mark.parametrize("name", CASES)
FAMILY_NAMES = [name for name in CASES if " " not in name]
"""Without the variants that have the same distribution."""
FAMILIES = pytest.mark.parametrize("name", FAMILY_NAMES)
FEW = pytest.mark.parametrize("name", ["discretized_logistic", "poisson"])


def likelihood_of(case, params=None):
    return case.module(jnp.float32(case.params if params is None else params))


@cache
def each_scorer(name):
    """Log-densities of values [N, 3], one by one."""
    module = CASES[name].module
    return jax.jit(lambda params, x: log_prob(module(params).base_dist, x))


def each_log_p(name, params, x):
    x = np.broadcast_to(np.asarray(x)[:, None], (len(x), SIZE))
    return each_scorer(name)(jnp.float32(params), jnp.float32(x))


def test_every_name_is_checked():
    assert {*get_args(LikelihoodName)} == {name.split()[0] for name in CASES} - {"student_t of 3"}
    for name in get_args(LikelihoodName):
        count = 4 if name == "categorical" else None
        assert isinstance(CASES[name].module, type(make_likelihood(name, count)))


@ALL
def test_shapes_and_features_follow_the_protocol(name):
    case = CASES[name]
    assert isinstance(case.module, likelihoods.Likelihood)
    assert case.module.num_params == len(case.params)
    p = likelihood_of(case)
    assert isinstance(p, dist.Independent)
    assert (p.event_shape, p.batch_shape, p.base_dist.event_shape) == ((SIZE,), (), ())
    x = case.inside[:SIZE] if len(case.inside) >= SIZE else np.resize(case.inside, SIZE)
    features = case.module.features(jnp.float32(x))
    np.testing.assert_allclose(features, case.features(x), rtol=1e-6)
    assert features.shape == feature_shape(case.module, (SIZE,))
    images = jnp.zeros((case.module.num_params, 2, 2))
    if "by place" not in name:
        assert case.module(images).event_shape == (2, 2)


def check_values(name, score, rtol=5e-6):
    """float32 within 5e-6 (relative, and absolute below 1) of float64 by another library."""
    case = CASES[name]
    x = np.float64(np.float32(case.inside))
    exact = case.log_p(case.params, x[:, None])
    np.testing.assert_allclose(score(name, case.params, x), exact, rtol=rtol, atol=rtol)


@ALL
def test_values_are_those_of_another_library(name):
    check_values(name, each_log_p)


@ALL
def test_check_of_values_rejects(name):
    def without_normaliser(name, params, x):
        log_p = each_log_p(name, params, x)
        return log_p - log_p[:1]

    def shifted(name, params, x):
        return each_log_p(name, params + 1e-2, x)

    def half(name, params, x):
        return each_log_p(name, params, x) / 2

    shift_free = name == "categorical"  # its logits can all be shifted alike
    for twin in (without_normaliser, half, *(() if shift_free else (shifted,))):
        with pytest.raises(AssertionError):
            check_values(name, twin)


def check_mass(name, score):
    """Sums over everything with mass, or quadrature of a density: 1 within 2e-6 or 1e-4."""
    case = CASES[name]
    match case.module.support:
        case constraints.unit_interval | Levels() | constraints.boolean:
            x, weight = (GREY, 1.0) if name.startswith("disc") else (np.array([0.0, 1.0]), 1.0)
            if not case.module.support.is_discrete:
                x = np.linspace(0, 1, 2001)
                weight = integrate.simpson(np.eye(2001), x=x)[:, None]
        case constraints.real:
            v = np.linspace(-8, 8, 8001)
            x = 2 * np.sinh(v)
            weight = (2 * np.cosh(v) * (v[1] - v[0]))[:, None]
        case constraints.nonnegative_integer:
            x, weight = np.arange(2000.0), 1.0
        case _ if name == "categorical":
            x, weight = np.arange(4.0), 1.0
        case _:
            v = np.linspace(-15, 15, 3001)  # beta, by the logit of x
            x = special.expit(v)
            weight = (x * special.expit(-v) * (v[1] - v[0]))[:, None]
    log_p = np.float64(score(name, case.params, x))
    tolerance = 5e-6 if case.module.support.is_discrete else 1e-4
    np.testing.assert_allclose(np.sum(np.exp(log_p) * weight, axis=0), 1, atol=tolerance)


@ALL
def test_mass_is_one(name):
    check_mass(name, each_log_p)


@ALL
def test_check_of_mass_rejects_a_constant(name):
    with pytest.raises(AssertionError):
        check_mass(name, lambda *args: each_log_p(*args) + 1e-3)


def test_check_of_mass_rejects_outer_levels_without_their_tails():
    def open_ended(name, params, x):
        mean, scale = 0.5 + params[0], np.exp(log_scale(params[1]))
        logistic = stats.logistic(mean, scale)
        x = np.asarray(x)[:, None]
        return np.log(logistic.cdf(x + 0.5 / 255) - logistic.cdf(x - 0.5 / 255))

    with pytest.raises(AssertionError):
        check_mass("discretized_logistic", open_ended)


@FAMILIES
def test_support_is_the_stated_one(name):
    case = CASES[name]
    p = likelihood_of(case)
    assert case.module.support == p.base_dist.support
    for values, expected in ((case.inside, True), (case.outside, False)):
        assert np.all(np.asarray(case.module.support(jnp.float32(values))) == expected), values
    z = draws(name)
    assert z.shape[1:] == (SIZE,)
    assert z.dtype == (jnp.int32 if name == "bernoulli" else jnp.float32)
    assert bool(jnp.all(case.module.support(jnp.float32(z))))
    if len(case.outside) and name != "bernoulli":
        # The Bernoulli's formula is used of values in between on purpose.
        assert np.all(np.isneginf(each_log_p(name, case.params, case.outside)))


def moments(z, centre):
    return np.concatenate([z, (z - centre) ** 2], axis=-1)


def check_samples(name, z):
    """Means of samples and of their squares; false alarm 1e-6."""
    mean, variance = stated_moments(name)
    z = np.float64(z)
    if name.startswith("student_t"):  # whose squares have no variance, or no useful one
        assert_mean(z, mean, rounding=1e-5)
    else:
        assert_mean(moments(z, mean), [*mean, *variance], rounding=1e-5)


def stated_moments(name):
    p = likelihood_of(CASES[name])
    return np.float64(p.mean), np.float64(p.variance)


@cache
def drawer(name):
    module = CASES[name].module

    @jax.jit
    def draw(params):
        with numpyro_promotion():
            return module(params).sample(jax.random.key(2), (20_000,))

    return draw


@cache
def draws(name):
    return drawer(name)(jnp.float32(CASES[name].params))


@FAMILIES
def test_samples_have_the_stated_moments(name):
    check_samples(name, draws(name))


@FAMILIES
def test_check_of_samples_rejects_samples_of_another(name):
    """Of parameters that lie next to these."""
    params = np.array(CASES[name].params)
    params[-1 if name.startswith(("cat", "zero")) else 0] += 0.3
    with pytest.raises(AssertionError):
        check_samples(name, drawer(name)(jnp.float32(params)))


@ALL
def test_stated_moments_are_exact(name):
    case = CASES[name]
    mean, variance = stated_moments(name)
    if case.moments is not None:
        expected = case.moments(case.params)
    else:
        x = GREY if name.startswith("disc") else np.arange(4.0 if name == "categorical" else 2000.0)
        p = np.exp(case.log_p(case.params, x[:, None]))
        expected = p.T @ x, p.T @ x**2 - (p.T @ x) ** 2
    np.testing.assert_allclose(mean, expected[0], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(variance, expected[1], rtol=2e-4, atol=2e-6)


def extremes(case):
    """Every parameter at +200, at -200, in turn, and at 0: [5, P, 3]."""
    signs = (-1.0) ** np.arange(case.params.size).reshape(case.params.shape)
    ones = np.ones_like(signs)
    return jnp.float32(np.stack([200 * ones, -200 * ones, 200 * signs, -200 * signs, 0 * ones]))


def check_extremes(name, score):
    """Value and gradients finite, in the output of the decoder and in what is learned beside it."""
    case = CASES[name]
    value_and_grad = jax.value_and_grad(score, argnums=(0, 1))
    far = [200.0, -200.0] if case.module.support == constraints.real else []
    xs = jnp.stack([jnp.full(SIZE, value) for value in np.float32([*case.inside, *far])])
    over_xs = jax.vmap(value_and_grad, in_axes=(None, None, 0))
    over_params = jax.jit(jax.vmap(over_xs, in_axes=(None, 0, None)))
    for leaf in jax.tree.leaves(over_params(case.module, extremes(case), xs)):
        assert np.all(np.isfinite(leaf)), leaf


def score_of(module, params, x):
    return log_prob(module(params), x)


@pytest.mark.parametrize(
    "name", slow_but(CASES, "bernoulli", "gaussian", "discretized_logistic", "beta")
)
def test_value_and_gradient_are_finite_at_200(name):
    check_extremes(name, score_of)


@FEW
def test_check_of_extremes_rejects_probabilities(name):
    def twin(module, params, x):
        return jnp.log(2 * jnp.exp(score_of(module, params, x)))

    with pytest.raises(AssertionError):
        check_extremes(name, twin)


class Fixed(NamedTuple):
    """A model whose likelihood does not look at z."""

    module: Any
    params: Any

    def prior(self):
        return dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)

    def posterior(self, x):
        return dist.Normal(x[:1], jnp.ones(1)).to_event(1)

    def likelihood(self, z):
        return self.module(self.params)


BAD = (np.nan, np.inf, -3.5)


MASKS = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def check_masks(name, bind):
    """Only what is observed counts, whatever is stored elsewhere; values and gradients."""
    case = CASES[name]
    x = np.float32(np.resize(case.inside[1:], SIZE))
    masks = np.repeat(MASKS, len(BAD), axis=0)
    stored = np.where(masks > 0, x[None], np.tile(BAD, len(MASKS))[:, None])

    def score(params, x, mask):
        return log_prob(bind(Fixed(case.module, params), mask).likelihood(jnp.zeros(1)), x)

    def each(params):
        return log_prob(case.module(params).base_dist, jnp.asarray(x))

    def both(params):
        """With each mask; and each value's own, whose slopes stand side by side in their sum's."""
        over_x = jax.vmap(jax.value_and_grad(score), in_axes=(None, 0, 0))
        observed = over_x(params, jnp.float32(stored), jnp.float32(masks))
        return observed, (each(params), jax.grad(lambda params: jnp.sum(each(params)))(params))

    params = jnp.concatenate([jnp.float32(case.params)[None], extremes(case)])
    (value, gradient), (exact, slope) = jax.jit(jax.vmap(both))(params)
    exact, slope = np.float64(exact), np.float64(slope)
    for i, mask in enumerate(masks):
        seen = mask > 0
        kept = np.sum(np.where(seen, exact, 0), axis=1)
        np.testing.assert_allclose(value[:, i], kept, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient[:, i], np.where(seen, slope, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    slow_but(FAMILY_NAMES, "bernoulli", "gaussian", "poisson", "categorical", "negative_binomial"),
)
def test_masks_leave_out_what_is_not_observed(name):
    check_masks(name, Observed)


class Multiplied(NamedTuple):
    """The twin: log-densities times the mask, which NaN survives."""

    model: Any
    mask: Any

    def likelihood(self, z):
        base = self.model.likelihood(z).base_dist
        mask = self.mask

        class Times(dist.Distribution):
            def log_prob(self, value):
                return base.log_prob(value) * mask

        return Times(base.batch_shape).to_event(1)


class Complement(NamedTuple):
    """The twin: mask and its complement confused."""

    model: Any
    mask: Any

    def likelihood(self, z):
        return Observed(self.model, 1 - self.mask).likelihood(z)


@FEW
def test_check_of_masks_rejects(name):
    for twin in (Multiplied, Complement):
        with pytest.raises(AssertionError):
            check_masks(name, twin)


@FAMILIES
def test_a_mask_of_ones_changes_no_bit(name):
    case = CASES[name]
    x = jnp.float32(np.resize(case.inside, SIZE))
    plain = likelihood_of(case)
    masked = Observed(Fixed(case.module, jnp.float32(case.params)), jnp.ones(SIZE)).likelihood(
        jnp.zeros(1)
    )
    assert masked.event_shape == plain.event_shape
    assert log_prob(masked, x) == log_prob(plain, x)


@FAMILIES
def test_a_mask_of_another_shape_is_refused(name):
    case = CASES[name]
    with refused("mask", "(3,)", "(2,)"):
        Observed(Fixed(case.module, jnp.float32(case.params)), jnp.ones(2)).likelihood(jnp.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*get_args(LikelihoodName)} - {"categorical"}))
def test_names_make_a_vae_with_gradients_everywhere(name):
    model = models.vae(jax.random.key(0), (SIZE,), latent_dim=2, hidden=(), likelihood=name)
    x = jnp.float32(np.resize(CASES[name].inside[1:], SIZE))

    @jax.jit
    @jax.grad
    def gradient_of(model):
        z = model.posterior(x).mean + 0.3
        return log_prob(model.likelihood(z), x)

    gradient = gradient_of(model)
    for path, leaf in jax.tree.leaves_with_path(gradient.output):
        assert bool(jnp.all(leaf != 0)), jax.tree_util.keystr(path)
    kernel = gradient.encoder.layers[0].kernel[...]
    assert bool(jnp.all(jnp.isfinite(kernel)))
    assert bool(jnp.any(kernel != 0))


def test_refusals():
    with refused("likelihood", "bernoulli", "continuous_bernoulli", "'poison'"):
        make_likelihood("poison")
    with refused("likelihood", "3"):
        make_likelihood(3)
    with refused("num_categories", "categorical", "Categorical(num_categories)"):
        make_likelihood("categorical")
    for count in (1, 2.0, True, "4"):
        with refused("num_categories", repr(count)):
            make_likelihood("categorical", num_categories=count)
    for given in ("poisson", likelihoods.Categorical(4)):
        with refused("num_categories", "4", "poisson" if given == "poisson" else "Categorical"):
            make_likelihood(given, num_categories=4)
    for variance in (0, -1.0, float("nan"), float("inf"), True, "1"):
        with refused("variance", repr(variance)):
            likelihoods.FixedGaussian(variance)
    with refused("df", "2"):
        likelihoods.StudentT(df=2.0)
    with refused("num_levels", "1"):
        likelihoods.DiscretizedLogistic(num_levels=1)
    with refused("num_components", "0"):
        likelihoods.DiscretizedLogisticMixture(num_components=0)
    for module in (likelihoods.NegativeBinomial, likelihoods.ZeroInflatedNegativeBinomial):
        with refused("event_shape", "(0,)"):
            module((0,))
        with refused("log_inverse_dispersion", "(3,)", "(2,)"):
            module((2,))(jnp.zeros((2, 3)))
    own = likelihoods.Categorical(3)
    assert make_likelihood(own) is own
    assert make_likelihood("categorical", num_categories=3).num_params == 3
