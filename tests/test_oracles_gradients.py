"""Estimators sample by sample: their gradients in closed form, given the latents that were drawn.

Of the linear-Gaussian model, with `r = (x - W z - b) / s^2` and `u = (z - mean) / scale^2`,

    d log p(x|z) / db = r,  d log p(x, z) / dz = W' r - z,  d log q(z|x) / dz = -u,  d log q(z|x) / dc = u

for the decoder's bias b and the encoder's offset c, along which z moves as c does. Discrete latents are
enumerated; relaxed ones are integrated over their noise. False-alarm rate of a z-test: 1e-6.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import jaxvae as jv
from jaxvae import bounds, gradients, log_weights, relaxations
from tests.support import oracles
from tests.support.statistics import assert_mean
from tests.test_gradients import ALL_STATES, Bits, X

K, OUTER = 6, 3
renyi = partial(bounds.renyi, alpha=0.4)
OBJECTIVES = {
    "pathwise": partial(jv.iwae, gradient="pathwise"),
    "stl": partial(jv.iwae, gradient="stl"),
    "dreg": partial(jv.iwae, gradient="dreg"),
    "score": partial(jv.iwae, gradient="score"),
    "vimco": partial(jv.iwae, gradient="vimco"),
    "rws": partial(jv.iwae, gradient="rws"),
    "elbo, score": partial(jv.elbo, kl="monte_carlo", gradient="score", baseline=-3.0),
    "renyi": partial(jv.importance_weighted, bound=renyi),
    "renyi, dreg": partial(jv.importance_weighted, bound=renyi, gradient="dreg"),
    "multiply_iwae": lambda *args, num_samples: jv.multiply_iwae(
        *args, num_outer=OUTER, num_samples=num_samples // OUTER
    ),
    "partially_iwae": lambda *args, num_samples: jv.partially_iwae(
        *args, num_outer=OUTER, num_samples=num_samples // OUTER
    ),
    "separate": partial(jv.iwae, gradient=partial(gradients.separate, encoder_bound=bounds.elbo)),
}


@cache
def found():
    """The latents of one key, and of every objective its value and gradients in b and c."""
    model = oracles.linear_gaussian(0)
    x = jnp.asarray(oracles.draw_x(model, 5, 1)[0])

    def one(model, objective):
        value, gradient = jax.value_and_grad(
            lambda m: objective(jax.random.key(2), m, x, num_samples=K).objective
        )(model)
        return value, gradient.bias[...], gradient.offset[...]

    @jax.jit
    def all_of_them(model):
        z = log_weights.draw(jax.random.key(2), model, x, K).z
        return z, {name: one(model, objective) for name, objective in OBJECTIVES.items()}

    return oracles.parameters(model), np.float64(x), *all_of_them(model)


def log_mean_exp(a):
    return special.logsumexp(a, axis=-1) - np.log(a.shape[-1])


@cache
def exact():
    """Value and gradients in b and c of every objective, float64."""
    p, x, z, _ = found()
    z = np.float64(z)
    mean, scale = p.encoder @ x + p.offset, np.exp(p.log_diagonal)
    noise = np.exp(p.log_scale)
    residual = x - z @ p.weight.T - p.bias
    log_w = stats.norm.logpdf(residual, 0, noise).sum(1) + stats.norm.logpdf(z).sum(1)
    log_w -= stats.norm.logpdf(z, mean, scale).sum(1)
    r, u = residual / noise**2, (z - mean) / scale**2
    g = r @ p.weight - z  # along the path log q does not move, since z moves with its mean
    v, even = special.softmax(log_w), np.full(K, 1 / K)
    groups = special.softmax(log_w.reshape(OUTER, -1), axis=1).reshape(-1) / OUTER
    iwae, elbo = log_mean_exp(log_w), log_w.mean()
    tilted = special.softmax(0.6 * log_w)
    bound = log_mean_exp(0.6 * log_w) / 0.6
    others = [(log_w.sum() - each) / (K - 1) for each in log_w]
    without = [log_mean_exp(np.where(np.arange(K) == k, others[k], log_w)) for k in range(K)]
    return {
        "pathwise": (iwae, v @ r, v @ g),
        "stl": (iwae, v @ r, v @ (g + u)),
        "dreg": (iwae, v @ r, v**2 @ (g + u)),
        "score": (iwae, v @ r, (iwae - v) @ u),
        "vimco": (iwae, v @ r, (iwae - np.array(without) - v) @ u),
        "rws": (iwae, v @ r, v @ u),
        "elbo, score": (elbo, even @ r, ((log_w + 3) / K - even) @ u),
        "renyi": (bound, tilted @ r, tilted @ g),
        # c = v - d v / d log_w of v = softmax(0.6 log_w)
        "renyi, dreg": (bound, tilted @ r, (tilted - 0.6 * tilted * (1 - tilted)) @ (g + u)),
        "multiply_iwae": (log_mean_exp(log_w.reshape(OUTER, -1)).mean(), groups @ r, groups @ g),
        "partially_iwae": (iwae, v @ r, groups @ g),
        "separate": (iwae, v @ r, even @ g),
    }


def check_estimator(name, result):
    """Value and both gradients, to float32."""
    for mine, theirs in zip(result, exact()[name], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_estimators_are_their_formulas_on_the_samples(name):
    check_estimator(name, found()[3][name])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_check_of_estimators_rejects_all_others(name):
    for other in set(OBJECTIVES) - {name}:
        with pytest.raises(AssertionError):
            check_estimator(name, found()[3][other])


# Of one bound: its derivatives, and a value with another's gradient.

LOG_W = np.array([0.3, -1.0, 2.0, 1.1])


ALPHAS = (0.0, 0.4)


def check_sensitivity(found):
    """For the Renyi bound `v = softmax((1 - alpha) log_w)` and `(1 - alpha) v (1 - v)`; IWAE at 0."""
    for alpha, (first, second) in zip(ALPHAS, found, strict=True):
        v = special.softmax((1 - alpha) * LOG_W)
        np.testing.assert_allclose(first, v, rtol=2e-5)
        np.testing.assert_allclose(second, (1 - alpha) * v * (1 - v), rtol=2e-5, atol=1e-6)


def test_sensitivities_are_the_derivatives_of_the_formula():
    each = [partial(bounds.renyi, alpha=alpha) for alpha in ALPHAS]
    call = jax.jit(lambda log_w: [gradients.sensitivity(bound, log_w) for bound in each])
    found = call(jnp.float32(LOG_W))
    check_sensitivity(found)
    for twin in (
        lambda first, second: (first, 0 * second),  # a whole row of the Hessian sums to 0
        lambda first, second: (first, first * (1 - first)),
        lambda first, second: (first, -second),
        lambda first, second: (second, first),
    ):
        with pytest.raises(AssertionError):
            check_sensitivity([twin(*pair) for pair in found])


def check_bend(function):
    value, slope = jax.value_and_grad(lambda a: function(a**2, jnp.sin(a)))(jnp.float32(0.7))
    np.testing.assert_allclose([value, slope], [0.49, np.cos(0.7)], rtol=1e-6)


def test_a_bent_value_has_the_gradient_of_the_other():
    check_bend(gradients.bend)
    for twin in (lambda a, b: a, lambda a, b: b, lambda a, b: a + b - jax.lax.stop_gradient(b)):
        with pytest.raises(AssertionError):
            check_bend(twin)


# Two latent bits.


def bits_of():
    """Logits of q, of p, W and the bias of the decoder, float64."""
    model = Bits()
    logits = np.float64(model.encoder[...]) @ X + np.float64(model.offset[...])
    rest = model.prior_logits, model.weight, model.bias
    return model, logits, *(np.float64(each[...]) for each in rest)


def log_bernoulli(z, logits):
    return np.sum(z * logits - np.logaddexp(0, logits), axis=-1)


def check_enumeration(estimator):
    """`sum_z q(z) log w(z)` and its slope in the logits a of q, `sum_z q(z) (z - sigmoid(a)) log w(z)`."""
    model, logits, prior, weight, bias = bits_of()
    z = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    log_w = log_bernoulli(X, z @ weight.T + bias) + log_bernoulli(z, prior)
    log_q = log_bernoulli(z, logits)
    log_w = log_w - log_q
    slope = (np.exp(log_q) * log_w) @ (z - special.expit(logits))

    def value(model):
        task = log_weights.problem(
            jax.random.key(0), model, jnp.asarray(X), num_samples=1, bound=bounds.elbo
        )
        return estimator(task)[1]

    got, gradient = jax.jit(jax.value_and_grad(value))(model)
    np.testing.assert_allclose(got, np.exp(log_q) @ log_w, rtol=1e-5)
    np.testing.assert_allclose(gradient.offset[...], slope, rtol=1e-5, atol=1e-6)


def alike(problem):
    s, _ = relaxations.enumerate_latents(problem)
    s = s._replace(weight=jnp.full(4, 0.25))
    return s, problem.value(s)


def with_held_weights(problem):
    s, _ = relaxations.enumerate_latents(problem)
    s = s._replace(weight=jax.lax.stop_gradient(s.weight))
    return s, problem.value(s)


def test_enumeration_is_the_sum_over_all_states():
    check_enumeration(relaxations.enumerate_latents)
    for twin in (alike, with_held_weights):
        with pytest.raises(AssertionError):
            check_enumeration(twin)


def check_states(states, bit_logits):
    """All states once, and the logits with which they have mass one and mean sigmoid(a)."""
    model, logits, *_ = bits_of()
    q = model.posterior(jnp.asarray(X))
    z = states(q)
    np.testing.assert_array_equal(z[np.lexsort(z.T[::-1])], ALL_STATES)
    a = np.float64(bit_logits(q))
    mass = np.exp(log_bernoulli(z, a))
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(mass @ z, special.expit(logits), rtol=1e-5)


def test_states_and_logits_of_bits():
    check_states(relaxations.states, relaxations.bit_logits)
    for twin in (
        (lambda q: relaxations.states(q)[[0, 1, 1, 3]], relaxations.bit_logits),
        (relaxations.states, lambda q: -relaxations.bit_logits(q)),
    ):
        with pytest.raises(AssertionError):
            check_states(*twin)


TEMPERATURE = 0.7


def relaxed(logit, noise, temperature):
    """The relaxed bit and its slope in the logit."""
    s = special.expit((logit + noise) / temperature)
    return s, s * (1 - s) / temperature


@cache
def exact_slope(name, temperature=TEMPERATURE):
    """`d E[log p(x|z)] / d logits - d KL / d logits`, z relaxed, or hard with the slope of the relaxed.

    Gumbel-softmax: both noises by Gauss-Legendre over their quantiles. Straight-through: the slope at
    each of the four states, times the mean slope of the relaxed bit where it falls on that side.
    """
    _, logits, prior, weight, bias = bits_of()

    def pull(z):
        """`d log p(x|z) / dz`."""
        return (X - special.expit(z @ weight.T + bias)) @ weight

    if name == "gumbel_softmax":
        nodes, mass = np.polynomial.legendre.leggauss(200)
        noise, mass = special.logit((nodes + 1) / 2), mass / 2
        each = [relaxed(a, noise, temperature) for a in logits]
        z = np.stack(np.meshgrid(each[0][0], each[1][0], indexing="ij"), axis=-1)
        slopes = np.stack(np.meshgrid(each[0][1], each[1][1], indexing="ij"), axis=-1)
        likelihood = np.einsum("ijd,i,j->d", pull(z) * slopes, mass, mass)
    else:
        likelihood = np.zeros(2)
        for z in np.ndindex(2, 2):
            for d, a in enumerate(logits):
                start, end = (-a, 60) if z[d] else (-60, -a)
                of_side = integrate.quad(
                    lambda n, a=a: relaxed(a, n, temperature)[1] * stats.logistic.pdf(n),
                    start,
                    end,
                    limit=200,
                )[0]
                other = log_bernoulli(np.array(z[1 - d]), logits[1 - d : 2 - d])
                likelihood[d] += np.exp(other) * of_side * pull(np.array(z))[d]
    on = special.expit(logits)
    return likelihood - (logits - prior) * on * (1 - on)


@cache
def slopes():
    """Of 20,000 keys, both estimators' gradients in the encoder's offset, [draws, 2] each."""
    model = Bits()

    def one(key, name):
        objective = partial(jv.elbo, gradient=name, temperature=TEMPERATURE)
        gradient = jax.grad(lambda m: objective(key, m, jnp.asarray(X)).objective)
        return gradient(model).offset[...]

    names = ("gumbel_softmax", "straight_through")
    call = jax.jit(jax.vmap(lambda key: {name: one(key, name) for name in names}))
    return call(jax.random.split(jax.random.key(7), 20_000))


def check_relaxation(rows, slope):
    assert_mean(rows, slope, rounding=1e-5, what="slope")


@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through"])
def test_relaxations_have_the_slope_of_the_relaxed_model(name):
    check_relaxation(slopes()[name], exact_slope(name))
    other = {"gumbel_softmax", "straight_through"} - {name}
    for wrong in (exact_slope(*other), exact_slope(name, 1.0), 0.9 * exact_slope(name)):
        with pytest.raises(AssertionError, match="slope"):
            check_relaxation(slopes()[name], wrong)
