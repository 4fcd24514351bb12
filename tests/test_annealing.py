from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxvae as jv
from jaxvae.distributions import (
    Chain,
    ClassConditional,
    FloatBernoulli,
    OneHotCategorical,
    Planar,
    sample,
)
from jaxvae.evaluation import chains, hmc
from jaxvae.evaluation.hmc import Point
from jaxvae.evaluation.streams import _batch
from jaxvae.testing import draw_examples, gaussian_mixture, in_float64, linear_gaussian
from tests.support import oracles
from tests.support.refusals import refused
from tests.support.statistics import assert_mean, assert_mean_exceeds

ais, bdmc = jv.evaluation.ais, jv.evaluation.bdmc

# The kernel by itself, on Gaussians: exact samples must stay exact samples.

PULL = np.array([[4.0, 1.5], [1.5, 1.0]])
CENTRE = np.array([1.0, -0.5])


def base_density(z):
    return -jnp.sum(z**2) / 2


def slope_density(z):
    away = z - jnp.asarray(CENTRE, jnp.float32)
    return -away @ jnp.asarray(PULL, jnp.float32) @ away / 2


def gaussian_path(z):
    base, slope = jax.value_and_grad(base_density)(z), jax.value_and_grad(slope_density)(z)
    return Point(z, base[0], slope[0], base[1], slope[1])


class Bug(NamedTuple):
    """What a textbook transition may get wrong, as numbers, so that one compilation serves all."""

    kick: float = 1.0
    """Sign of the force."""
    first: float = 0.5
    """Share of each kick that comes before the drift."""
    test: float = 1.0
    """0 accepts whatever comes, and infinity nothing."""
    far: float = 0.0
    """1 tests at the temperature 1."""


BUGS = {
    "no Metropolis test": Bug(test=0.0),
    "force of the wrong sign": Bug(kick=-1.0),
    "no half kicks": Bug(first=1.0),
    "tested at another temperature": Bug(far=1.0),
    "stays where it is": Bug(test=np.inf),
}


def textbook(key, point, t, step_size, *, evaluate, num_leapfrog, bug=Bug()):  # noqa: B008
    """The transition as books have it, with a deliberate bug."""
    of_momentum, of_test = jax.random.split(key)
    momentum = jax.random.normal(of_momentum, point.z.shape)

    def energy(at, momentum):
        return jnp.sum(momentum**2) / 2 - at.base - (t + bug.far * (1 - t)) * at.slope

    def leapfrog(_, state):
        at, momentum = state
        momentum = momentum + bug.kick * bug.first * step_size * at.gradient(t)
        at = evaluate(at.z + step_size * momentum)
        return at, momentum + bug.kick * (1 - bug.first) * step_size * at.gradient(t)

    at, end = jax.lax.fori_loop(0, num_leapfrog, leapfrog, (point, momentum))
    rate = jnp.exp(jnp.minimum(energy(point, momentum) - energy(at, end), 0.0))
    accepted = bug.test * jax.random.uniform(of_test) < rate
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), at, point), rate


PRECISION = np.eye(2) + 0.6 * PULL
MEAN, WHITEN = np.linalg.solve(PRECISION, 0.6 * PULL @ CENTRE), np.linalg.cholesky(PRECISION).T


def run_kernel(transition, **options):
    """Starts [3, N, 2], their ends after 30 transitions at t = 0.6, and acceptance rates [3, N].

    They start as exact samples, far away, and as exact samples with small steps.
    """
    noise = np.random.default_rng(0).normal(size=(4096, 2))
    exact = MEAN + noise @ np.linalg.inv(WHITEN).T
    starts = np.stack([exact, np.full_like(exact, 5.0), exact])
    steps = np.broadcast_to(np.array([[0.75], [0.75], [0.02]]), starts.shape[:2])

    def chain(z, step_size, key):
        def one(point, j):
            return transition(
                jax.random.fold_in(key, j),
                point,
                jnp.float32(0.6),
                step_size,
                evaluate=gaussian_path,
                num_leapfrog=3,
                **options,
            )

        point, rates = jax.lax.scan(one, gaussian_path(z), jnp.arange(30))
        return point.z, jnp.mean(rates)

    keys = jax.random.split(jax.random.key(1), starts.shape[:2])
    each = jax.vmap(jax.vmap(chain))
    return each(jnp.asarray(starts, jnp.float32), jnp.asarray(steps, jnp.float32), keys)


def check_stationary(ends, rates):
    """4,096 exact samples stay exact in mean and covariance; so are those that began far away."""
    white = (np.float64(ends[:2]) - MEAN) @ WHITEN.T
    first, second = white[..., 0], white[..., 1]
    moments = np.concatenate([first, second, first**2, second**2, first * second])
    assert_mean(moments.T, np.repeat([0, 0, 1, 1, 0], 2), what="moments")
    assert 0.3 < rates[0].mean() < 0.95  # or it would not show what the Metropolis test is for
    assert rates[2].mean() > 0.995  # small steps keep the energy


def test_transitions_keep_the_density_and_reach_it():
    check_stationary(*jax.jit(lambda: run_kernel(hmc.transition))())


@cache
def twins():
    """Ends and rates of the textbook's transition, then of each bug."""
    bugs = jax.tree.map(lambda *each: jnp.array(each), Bug(), *BUGS.values())
    return jax.device_get(jax.jit(jax.vmap(lambda bug: run_kernel(textbook, bug=bug)))(bugs))


def test_check_of_transitions_passes_the_textbook():
    check_stationary(*(value[0] for value in twins()))


@pytest.mark.parametrize("bug", BUGS)
def test_check_of_transitions_rejects(bug):
    with pytest.raises(AssertionError):
        check_stationary(*(value[1 + list(BUGS).index(bug)] for value in twins()))


# Weights of mean p(x), and of mean 1 / p(x) in reverse.


class TwoLayers:
    """h2 ~ N(0, 1), h1 ~ N(h2, 1 / 4), x ~ N([h1, h1 - h2], 1 / 4); z = [h1, h2] is a chain."""

    weight = np.array([[1.0, 0.0], [1.0, -1.0]], np.float32)

    def prior(self):
        top = dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)
        below = jax.tree_util.Partial(lambda h: dist.Normal(h, jnp.full(1, 0.5)).to_event(1))
        return Chain(top, [below], sizes=(1, 1), order=(1, 0))

    def posterior(self, x):
        return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.weight @ z, jnp.full(2, 0.5)).to_event(1)

    def log_evidence(self, x):
        latent = np.array([[1.25, 1.0], [1.0, 1.0]])
        covariance = self.weight @ latent @ self.weight.T + 0.25 * np.eye(2)
        covariance = jnp.asarray(covariance, jnp.float32)
        return dist.MultivariateNormal(jnp.zeros(2), covariance).log_prob(x)


X = {"two_layers": jnp.array([1.0, -0.5]), "other": jnp.array([1.0, -0.5, 0.3])}
STEPS = jnp.full(19, 0.5)


def _log_weights(x, *, run, model, start, size):
    base, evaluate = chains.path(model, x, start)
    keys = jax.random.split(jax.random.key(3), 3)
    begins, signs = [base], [1]
    if start == "prior" and hasattr(model, "exact_posterior"):
        begins, signs = [base, model.exact_posterior(x), base], [1, -1, -1]
    z = jnp.stack(
        [
            jax.vmap(partial(sample, begin))(jax.random.split(key, size))
            for begin, key in zip(begins, keys, strict=False)
        ]
    )
    up = chains.ladder("linear", 20)
    ts = jnp.stack([jnp.asarray(up[::sign]) for sign in signs])
    keys = jax.random.split(jax.random.key(4), len(signs))

    def one(key, z, ts):
        return run(key, jax.vmap(evaluate)(z), ts, STEPS, evaluate, 4)[0]

    return jax.vmap(one)(keys, z, ts), jnp.array(signs), model.log_evidence(x)


def log_weights(model, x, *, run=chains.anneal, start="prior", size=8192):
    """log w of 8,192 chains of 20 temperatures, less the log of their exact mean.

    Of a solvable model from its prior there are three rows: up; down from the exact posterior; and,
    as a twin, down from the prior.
    """
    weights = partial(_log_weights, run=run, model=model, start=start, size=size)
    log_w, signs, log_p = jax.device_get(jax.jit(weights)(x))
    return np.float64(log_w) - np.outer(signs, log_p)


@cache
def linear_gaussian_weights():
    return log_weights(linear_gaussian(), X["other"])


def check_weights(log_w):
    """E w = p(x), or 1 / p(x); and E log w at most the log of it. Z-tests at 1e-6 each.

    Where weights are far too large now and then, the second has the power that the first loses.
    """
    assert_mean(np.exp(log_w), 1.0, what="weight / exact")
    assert_mean(log_w, 0.0, side="above", what="log (weight / exact)")


def test_weights_of_a_linear_gaussian():
    up, down, _ = linear_gaussian_weights()
    check_weights(up)
    check_weights(down)


def test_weights_of_a_mixture_from_its_posterior():
    check_weights(log_weights(gaussian_mixture(), X["other"], start="posterior")[0])


def test_weights_of_a_chain_of_latents():
    check_weights(log_weights(TwoLayers(), X["two_layers"])[0])


def test_check_of_weights_rejects_reverse_chains_from_the_prior():
    with pytest.raises(AssertionError):
        check_weights(linear_gaussian_weights()[2])


def incremented_after(key, points, ts, step_sizes, evaluate, num_leapfrog):
    """The twin: the increment is that of the state after the move to the new temperature."""

    def at(carry, now):
        points, log_w = carry
        j, change, t = now
        key_now = jax.random.fold_in(key, j)
        points, _ = chains.move(key_now, points, t, step_sizes[0], evaluate, num_leapfrog)
        return (points, log_w + change * points.slope), None

    steps = jnp.arange(len(ts) - 1), ts[1:] - ts[:-1], ts[1:]
    return jax.lax.scan(at, (points, jnp.zeros_like(points.slope)), steps)[0][1], None


def test_check_of_weights_rejects_increments_after_the_move():
    for log_w in log_weights(linear_gaussian(), X["other"], run=incremented_after)[:2]:
        with pytest.raises(AssertionError):
            check_weights(log_w)


def test_the_ladder_climbs_from_0_to_1():
    for schedule in ("sigmoid", "linear"):
        ts = chains.ladder(schedule, 1000)
        assert (ts[0], ts[-1], len(ts)) == (0, 1, 1001)
        assert np.all(np.diff(ts) > 0)
    exact = 1 / (1 + np.exp(-np.linspace(-4, 4, 1001)))
    exact = (exact - exact[0]) / (exact[-1] - exact[0])
    np.testing.assert_allclose(chains.ladder("sigmoid", 1000), exact, atol=1e-7)


def check_drift():
    """5,000 increments of a constant log p(x|z): the sum is that constant to the last digits."""

    def evaluate(z):
        return Point(z, jnp.zeros(()), jnp.float32(-541.37), jnp.zeros(1), jnp.zeros(1))

    points = jax.vmap(evaluate)(jnp.zeros((2, 1)))
    ts = jnp.stack([chains.ladder(schedule, 5000) for schedule in ("linear", "sigmoid")])
    each = jax.vmap(lambda key, ts: chains.anneal(key, points, ts, jnp.ones(4999), evaluate, 1)[0])
    log_w = jax.jit(each)(jax.random.split(jax.random.key(0)), ts)
    np.testing.assert_allclose(log_w, -541.37, atol=1.5e-4)


def test_sums_do_not_drift():
    check_drift()


def test_check_of_drift_rejects_plain_float32_sums(monkeypatch):
    monkeypatch.setattr(chains, "add", lambda total, value: (total[0] + value, total[1]))
    with pytest.raises(AssertionError):
        check_drift()


# AIS of many examples, half of them with missing values.


class Case(NamedTuple):
    model: jv.Model
    batch: dict
    exact: np.ndarray


OPTIONS = {"num_chains": 50, "num_temperatures": 40, "num_leapfrog": 3}


@cache
def half_observed():
    """256 examples of a linear-Gaussian model, and log p of their observed values."""
    model = linear_gaussian()
    xs = np.asarray(draw_examples(jax.random.key(0), model, 256))
    masks = np.ones_like(xs)
    masks[::2, 1] = 0
    p, exact = model.decoder, []
    weight, variance = np.float64(p.weight[...]), np.exp(2 * np.float64(p.log_scale[...]))
    for x, mask in zip(xs, masks, strict=True):
        seen = mask > 0
        covariance = weight[seen] @ weight[seen].T + variance * np.eye(seen.sum())
        away = np.float64(x - p.bias[...])[seen]
        square = away @ np.linalg.solve(covariance, away)
        exact.append(-(square + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2)
    batch = {"x": np.where(masks > 0, xs, np.nan).astype(np.float32), "mask": masks}
    return Case(model, batch, np.array(exact))


@cache
def estimated():
    case = half_observed()
    return ais(jax.random.key(1), case.model, case.batch, batch_size=128, **OPTIONS)


def check_coverage(estimate, error):
    """(estimate - exact) / error of 256 examples: mean 0 and mean square 1, but for a few % at K = 50."""
    z = (np.float64(estimate) - half_observed().exact) / error
    assert_mean(z, 0.0, what="z")
    assert_mean(z**2, 1.0, what="z squared")


def test_estimates_are_exact_within_their_stated_error():
    found = estimated()
    assert np.all(found.standard_error < 0.3)
    check_coverage(found.estimate, found.standard_error)
    assert np.all((found.ess > 1) & (found.ess <= 50))
    mean, error = found.mean()
    np.testing.assert_allclose(mean, np.mean(np.float64(found.estimate)))
    np.testing.assert_allclose(error, np.std(np.float64(found.estimate), ddof=1) / np.sqrt(256))


def test_check_of_coverage_rejects_other_errors():
    found = estimated()
    for scale in (0.5, 2.0, np.sqrt(50)):
        with pytest.raises(AssertionError):
            check_coverage(found.estimate, scale * found.standard_error)


def test_the_pilot_finds_steps_of_the_target_acceptance():
    assert abs(estimated().acceptance.mean() - 0.65) < 0.08


@pytest.mark.slow
def test_one_temperature_is_importance_sampling_and_the_batch_size_changes_nothing():
    # Chains of many transitions amplify the rounding, which does depend on the batch.
    model = oracles.with_exact_posterior(oracles.linear_gaussian(), widen=1.2)
    xs, found, seen = oracles.draw_x(model, 0, 5), [], []
    options = {"num_chains": 100, "num_temperatures": 1, "start": "posterior"}
    for batch_size in (2, 5):
        sizes = {"batch_size": batch_size, "on_progress": seen.append}
        found.append(ais(jax.random.key(1), model, xs, **sizes, **options))
    assert seen == [2, 4, 5, 5]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_allclose(one, other, rtol=1e-4)
    estimate, error, _, acceptance = found[0][:4]
    assert np.all(np.abs(estimate - oracles.log_evidence(model, xs)) < 6 * error)
    assert np.all(error < 0.1)
    assert np.all(np.isnan(acceptance))


def test_one_compilation_serves_all_calls():
    case, found = half_observed(), estimated()
    count = _batch._cache_size()
    other = ais(jax.random.key(2), linear_gaussian(7), case.batch, batch_size=128, **OPTIONS)
    assert _batch._cache_size() <= count  # less where a long session has evicted some
    assert np.all(other.estimate != found.estimate)


# The sandwich.


@cache
def between():
    """Both bounds on 128 examples of a linear-Gaussian model, and log p(x)."""
    model = linear_gaussian(1)
    found = bdmc(jax.random.key(0), model, num_examples=128, num_temperatures=200, num_leapfrog=4)
    exact = in_float64(lambda model, xs: jax.vmap(model.log_evidence)(xs), model, found.xs)
    return found, exact


def check_sandwich(lower, upper, exact):
    """E lower <= log p(x) <= E upper, weights of the right mean, and a gap beyond doubt below 0.1."""
    assert_mean(lower - exact, 0.0, side="above", what="lower")
    assert_mean(upper - exact, 0.0, side="below", what="upper")
    assert_mean(np.exp(lower - exact), 1.0, what="weights up")
    assert_mean(np.exp(exact - upper), 1.0, what="weights down")
    assert_mean_exceeds(lower - upper, -0.1, what="gap")


@pytest.mark.slow
def test_the_evidence_lies_between_the_bounds():
    found, exact = between()
    lower, upper = (np.float64(side.estimate) for side in (found.lower, found.upper))
    check_sandwich(lower, upper, exact)
    np.testing.assert_allclose(found.gap, jv.evaluation.mean_and_error(upper - lower), atol=1e-6)
    assert np.all(found.lower.standard_error > 0)
    assert "gap" in str(found)
    assert f"{found.lower.mean()[0]:.2f}" in str(found)


@pytest.mark.slow
def test_check_of_the_sandwich_rejects():
    found, exact = between()
    lower, upper = (np.float64(side.estimate) for side in (found.lower, found.upper))
    for twin in ((upper + 0.1, upper), (lower, -upper), (lower - 0.2, upper), (lower, lower - 0.1)):
        with pytest.raises(AssertionError):
            check_sandwich(*twin, exact)


@pytest.mark.slow
def test_examples_are_those_of_the_model():
    found, _ = between()
    model = linear_gaussian(1)
    weight, bias = np.float64(model.decoder.weight[...]), np.float64(model.decoder.bias[...])
    covariance = weight @ weight.T + np.exp(2 * float(model.decoder.log_scale[...])) * np.eye(3)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (np.float64(found.xs) - bias).T).T
    assert_mean(np.concatenate([white, white**2], 1), [0, 0, 0, 1, 1, 1], what="moments of x")


# Refusals.


def calls(model, **options):
    """Both public functions, on four values an example."""
    xs = np.zeros((2, 4), np.float32)
    return (
        partial(ais, jax.random.key(0), model, xs, **options),
        partial(bdmc, jax.random.key(0), model, num_examples=2, **options),
    )


class Own:
    """A model of four values, q(z|x) = p(z)."""

    def __init__(self, prior, likelihood=dist.Normal):
        self.of_z, self.of_x = prior, likelihood

    def prior(self):
        return self.of_z

    def posterior(self, x):
        return self.of_z

    def likelihood(self, z):
        return self.of_x(jnp.broadcast_to(z[0], 4), jnp.ones(4)).to_event(1)


def normal(size=2):
    return dist.Normal(jnp.zeros(size), jnp.ones(size)).to_event(1)


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (FloatBernoulli(jnp.zeros(2)).to_event(1), ("FloatBernoulli", "log_likelihood")),
        (OneHotCategorical(jnp.zeros((1, 3))), ("OneHotCategorical", "given(y)")),
        (
            ClassConditional(jnp.zeros(3), jnp.zeros((3, 2)), jnp.ones((3, 2))),
            ("class", "given(y)"),
        ),
        (dist.LogNormal(jnp.zeros(2), jnp.ones(2)).to_event(1), ("LogNormal", "real")),
    ],
    ids=["bits", "classes", "a class and reals", "positive"],
)
def test_latents_that_cannot_move_are_refused(prior, words):
    for call in calls(Own(prior)):
        with refused("model.prior()", *words):
            call()


class Unsampled(dist.Normal):
    def sample(self, key, sample_shape=()):
        raise NotImplementedError


def test_a_likelihood_that_cannot_be_sampled_is_refused():
    with refused("likelihood", "Unsampled", "jv.evaluation.ais"):
        bdmc(jax.random.key(0), Own(normal(), Unsampled), num_examples=2)


class Labelled:
    def given(self, y):
        return Own(normal())


def test_a_model_without_its_label_is_refused():
    for call in calls(Labelled()):
        with refused("label", "given(y)"):
            call()


class OneWay(Own):
    """Its q has no inverse."""

    def posterior(self, x):
        planar = Planar(jnp.ones(2), jnp.ones(2), jnp.zeros(()))
        return dist.TransformedDistribution(normal(), [planar])


def test_a_posterior_without_a_density_cannot_be_the_start():
    for call in calls(OneWay(normal()), start="posterior"):
        with refused("start", '"prior"', "Planar"):
            call()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("num_chains", 0),
        ("num_temperatures", 2.5),
        ("num_leapfrog", True),
        ("start", "encoder"),
        ("schedule", "cosine"),
        ("target_acceptance", 1.0),
        ("step_size", 0.0),
        ("batch_size", 0),
    ],
)
def test_options_are_checked(name, bad):
    for call in calls(Own(normal()), **{name: bad}):
        with refused(name, repr(bad)):
            call()
