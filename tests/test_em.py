from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

import jaxvae as jv
from jaxvae.distributions import FloatBernoulli
from jaxvae.inference import em, expectation, free_energy
from jaxvae.models.factor_analysis import LinearGaussian
from jaxvae.training.em import make_em_step
from tests.support.linear import IRIS_MIXTURE, IRIS_PPCA, iris, total_log_evidence
from tests.support.refusals import refused


def key(seed=0):
    return jax.random.key(seed)


@cache
def ppca():
    model = jv.models.ppca(key(), (4,), latent_dim=2)
    return model.initialized(key(1), iris())


@cache
def mixture(covariance="full"):
    model = jv.models.gaussian_mixture(key(), (4,), num_components=3, covariance=covariance)
    return model.initialized(key(1), iris())


@cache
def factors():
    """600 draws of 6 values from 2 factors, values of unequal scales, and unequal noise."""
    rng = np.random.default_rng(0)
    weight, noise = rng.normal(size=(6, 2)), np.linspace(0.2, 1.5, 6)
    xs = rng.normal(size=(600, 2)) @ weight.T + rng.normal(size=(600, 6)) * noise
    return (xs * np.geomspace(0.1, 10, 6) + 3).astype(np.float32)


def assert_monotone(history, size):
    """No half step falls by more than float32 loses of sums of this many nats a point."""
    steps = np.array([[r.after_e, r.after_m, r.log_evidence] for r in history])
    slack = 2e-6 * np.maximum(np.abs(steps).max(), size)
    assert np.diff(steps.reshape(-1)).min() > -slack
    np.testing.assert_allclose(steps[1:, 0], steps[:-1, 2], rtol=1e-5)


def test_em_reaches_the_closed_form_of_ppca():
    model, history = em(ppca(), iris(), num_steps=400, tolerance=None)
    assert len(history) == 400
    assert_monotone(history, 150)
    assert abs(history[-1].log_evidence - IRIS_PPCA) / 150 < 1e-5
    np.testing.assert_allclose(
        history[-1].log_evidence, total_log_evidence(model, iris()), rtol=1e-6
    )
    elbo = jax.vmap(lambda x: jv.elbo(key(), model.principal(), x, kl="monte_carlo").bound)
    np.testing.assert_allclose(jnp.sum(elbo(jnp.asarray(iris()))), IRIS_PPCA, rtol=1e-5)


def test_em_of_a_mixture_reaches_the_known_maximum():
    """From the best of ten runs of k-means, full covariances."""
    model, history = em(mixture(), iris(), num_steps=200, tolerance=1e-7)
    assert len(history) < 200
    assert_monotone(history, 150)
    np.testing.assert_allclose(history[-1].log_evidence, IRIS_MIXTURE, rtol=1e-6)
    np.testing.assert_allclose(total_log_evidence(model, iris()), IRIS_MIXTURE, rtol=1e-6)


@pytest.mark.parametrize(("covariance", "sklearns"), [("diagonal", "diag"), ("spherical",) * 2])
def test_em_of_other_mixtures_is_scikit_learns(covariance, sklearns):
    start = mixture(covariance)
    _, history = em(start, iris(), num_steps=200, tolerance=1e-7)
    assert_monotone(history, 150)
    variances = np.exp(2 * np.float64(start.log_scale[...]))
    shares = np.exp(np.float64(start.logits[...]))
    theirs = GaussianMixture(
        3,
        covariance_type=sklearns,
        tol=1e-8,
        max_iter=500,
        reg_covar=0,
        weights_init=shares / shares.sum(),
        means_init=np.float64(start.means[...]),
        precisions_init=1 / variances,
    ).fit(np.float64(iris()))
    np.testing.assert_allclose(history[-1].log_evidence / 150, theirs.score(iris()), rtol=1e-5)


def test_em_of_factor_analysis_is_scikit_learns():
    """Which, from its own start, noise variances of 1, ends in a worse maximum of these data."""
    start = jv.models.factor_analysis(key(), (6,), latent_dim=2).initialized(key(1), factors())
    model, history = em(start, factors(), num_steps=500, tolerance=1e-7)
    assert_monotone(history, 600)
    theirs = FactorAnalysis(
        2, tol=1e-6, max_iter=5000, svd_method="lapack", noise_variance_init=factors().var(0)
    )
    theirs.fit(np.float64(factors()))
    best = theirs.score(np.float64(factors()))
    assert abs(history[-1].log_evidence / 600 - best) < 1e-4
    np.testing.assert_allclose(model.noise, theirs.noise_variance_, rtol=0.02)


def test_images_and_constant_pixels_are_no_trouble():
    """Digits have three pixels that never change: their noise stops at the floor."""
    xs = load_digits().images[:300].astype(np.float32)
    start = jv.models.factor_analysis(key(), (8, 8), latent_dim=3).initialized(key(1), xs)
    model, history = em(start, xs, num_steps=15)
    assert_monotone(history, 300)
    variance = xs.reshape(300, -1).var(0)
    floor = 1e-6 * np.where(variance > 0, variance, variance.mean())
    assert np.all(np.asarray(model.noise) >= 0.99 * floor)
    np.testing.assert_allclose(model.noise[variance == 0], floor[variance == 0], rtol=1e-4)


def test_a_component_on_one_point_stops_at_the_floor_and_an_empty_one_stays():
    rng = np.random.default_rng(0)
    xs = np.concatenate([rng.normal(size=(50, 2)), np.full((5, 2), 40.0)]).astype(np.float32)
    start = jv.models.gaussian_mixture(key(), (2,), num_components=3)
    start.means[...] = jnp.array([[0.0, 0.0], [40.0, 40.0], [-900.0, 900.0]])
    model, history = em(start, xs, num_steps=10, tolerance=None)
    assert_monotone(history[1:], 55)
    np.testing.assert_array_equal(model.means[2], start.means[2])
    floor = 1e-6 * np.mean(xs.var(0))
    np.testing.assert_allclose(np.exp(2 * model.log_scale[1]), floor, rtol=1e-3)


def test_a_weight_of_two_is_the_row_twice():
    xs, weights = iris()[:40], np.where(np.arange(40) < 10, 2.0, 1.0)
    twice = np.concatenate([xs, xs[:10]])
    start = ppca()
    a, history = em(start, xs, num_steps=5, weights=weights)
    b, same = em(start, twice, num_steps=5)
    np.testing.assert_allclose(a.weight[...], b.weight[...], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(history[-1], same[-1], rtol=1e-5)


class Plain(nnx.Module):
    """A model with the exact posterior of another, but no closed forms of EM."""

    def __init__(self, model, widen=1.0):
        self.model, self.widen = model, widen

    def prior(self):
        return self.model.prior()

    def posterior(self, x):
        return self.model.posterior(x)

    def likelihood(self, z):
        return self.model.likelihood(z)

    def exact_posterior(self, x):
        q = self.model.exact_posterior(x)
        if self.widen != 1.0:
            return dist.MultivariateNormal(q.loc, scale_tril=self.widen * q.scale_tril)
        return q


class Scored(Plain):
    def log_evidence(self, x):
        return self.model.log_evidence(x)


def test_the_free_energy_is_its_expectation():
    """At a q that is not exact: closed form, points, and the exact ELBO of scipy's moments agree."""
    model, x = ppca(), jnp.asarray(iris()[3])
    q = dist.MultivariateNormal(
        jnp.array([0.3, -1.0]), scale_tril=jnp.array([[0.5, 0.0], [0.4, 1.2]])
    )
    weight, offset, noise = (
        np.float64(v) for v in (model.weight[...], model.offset[...], model.noise)
    )
    mean, covariance = np.float64(q.loc), np.float64(q.covariance_matrix)
    residual = x - offset - weight @ mean
    squares = residual**2 + np.diag(weight @ covariance @ weight.T)
    log_likelihood = -0.5 * np.sum(np.log(2 * np.pi * noise) + squares / noise)
    cross = -0.5 * (2 * np.log(2 * np.pi) + np.trace(covariance) + mean @ mean)
    exact = log_likelihood + cross + stats.multivariate_normal(mean, covariance).entropy()
    for each in (model, Plain(model)):
        terms = jax.jit(free_energy)(each, q, x)
        np.testing.assert_allclose(terms.bound, exact, rtol=1e-5)
        np.testing.assert_allclose(terms.distortion, -log_likelihood, rtol=1e-5)
    assert float(terms.bound) < float(model.log_evidence(x)) - 0.1


@pytest.mark.parametrize("make", [ppca, mixture])
def test_the_gradient_at_the_exact_posterior_is_that_of_the_evidence(make):
    """Fisher's identity; at another q, the twin, it is not."""
    model, xs = make(), jnp.asarray(iris())

    def wrong(x):
        q = model.exact_posterior(x)
        if isinstance(q, dist.MultivariateNormal):
            return dist.MultivariateNormal(0.5 * q.loc, scale_tril=q.scale_tril)
        return type(q)(0.5 * q.logits)

    @jax.jit
    def gradients(model):
        exact = jax.grad(lambda m: jnp.sum(jax.vmap(m.log_evidence)(xs)))(model)
        ours = []
        energy = jax.vmap(free_energy, (None, 0, 0))
        for q in (model.exact_posterior, wrong):
            qs = jax.lax.stop_gradient(jax.vmap(q)(xs))
            ours.append(jax.grad(lambda m, qs=qs: jnp.sum(energy(m, qs, xs).bound))(model))
        return exact, *ours

    exact, ours, twin = (
        jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(nnx.state(g, nnx.Param))])
        for g in gradients(model)
    )
    size = jnp.linalg.norm(exact)
    assert float(jnp.linalg.norm(ours - exact)) < 1e-4 * float(size)
    assert float(jnp.linalg.norm(twin - exact)) > 1e-2 * float(size)


def test_gradient_m_steps_do_not_lower_the_free_energy():
    """Of a model without closed forms; what does not rise is not kept."""
    _, history = em(
        Plain(ppca()), iris(), num_steps=150, tolerance=None, optimizer=optax.adam(2e-2)
    )
    assert_monotone(history, 150)
    assert abs(history[-1].log_evidence - IRIS_PPCA) / 150 < 1e-2


def test_a_learning_rate_that_only_overshoots_is_refused():
    best = jv.models.fit_ppca(iris(), 2)
    with refused("optimizer", "lower the learning rate"):
        em(best, iris(), optimizer=optax.sgd(10.0), num_updates=2)


class ForgetsTheSpread(LinearGaussian):
    """An M-step on posterior means alone, as if the latents had been seen: the covariance is lost."""

    def m_step(self, qs, xs, weights):
        means = jax.vmap(lambda q: q.mean)(qs)
        tiny = jnp.broadcast_to(1e-4 * jnp.eye(2), (len(means), 2, 2))
        seen = jax.vmap(lambda m, c: dist.MultivariateNormal(m, scale_tril=c))(means, tiny)
        return super().m_step(seen, xs, weights)


def test_an_m_step_that_forgets_the_posterior_covariance_is_rejected():
    best = jv.models.fit_ppca(iris(), 2)
    wrong = jax.tree.unflatten(jax.tree.structure(best), jax.tree.leaves(best))
    wrong.__class__ = ForgetsTheSpread
    with refused("m_step", "free energy", "M-step 1"):
        em(wrong, iris(), num_steps=20)
    with refused("m_step", "free energy"):
        em(
            best,
            iris(),
            m_step=lambda m, *_: m.with_decoder(0.5 * m.weight[...], m.offset[...], m.noise),
        )


def test_an_e_step_that_is_not_exact_is_rejected():
    wrong = Scored(ppca(), widen=1.2)
    with refused("exact_posterior", "log_evidence"):
        em(wrong, iris(), optimizer=optax.adam(1e-2))
    em(Scored(ppca()), iris(), num_steps=1, optimizer=optax.adam(1e-2))


def test_expectations_are_exact_sums():
    normal = dist.Normal(jnp.array([0.5, -2.0]), jnp.array([1.0, 0.3])).to_event(1)
    cubic = lambda z: z[0] ** 3 + z[0] * z[1] ** 2 - z[1]  # noqa: E731
    exact = (0.125 + 3 * 0.5) + 0.5 * (4 + 0.09) + 2
    np.testing.assert_allclose(expectation(normal, cubic), exact, rtol=1e-5)
    bits = FloatBernoulli(jnp.array([0.0, 200.0, -1.0])).to_event(1)
    np.testing.assert_allclose(
        expectation(bits, lambda z: z[0] + 2 * z[1] + 4 * z[2]),
        2.5 + 4 / (1 + np.e),
        rtol=1e-5,
    )
    with refused("exact_posterior", "Laplace"):
        expectation(dist.Laplace(jnp.zeros(2), 1.0).to_event(1), cubic)


def test_the_training_step_is_em():
    """The same numbers as `em`, in the state, loop and metrics of a gradient run."""
    xs, start = iris(), ppca()
    dataset = SimpleNamespace(splits={"train": {"x": xs}}, observe=lambda key, x: x)
    state = jv.training.init(key(3), start, optax.identity())
    state, history = jv.training.fit(
        state,
        make_em_step(start),
        dataset,
        batch_size=len(xs),
        total_steps=6,
        eval_every_steps=1,
    )
    _, records = em(start, xs, num_steps=6, tolerance=None)
    assert int(state.step) == 6
    for ours, theirs in zip(history, records, strict=True):
        train = ours["train"]
        np.testing.assert_allclose(-150 * train["loss"], theirs.after_e, rtol=1e-5)
        np.testing.assert_allclose(150 * train["after_m"], theirs.after_m, rtol=1e-5)
        np.testing.assert_allclose(train["bound"], -train["distortion"] - train["rate"], rtol=1e-5)


def test_the_training_step_takes_an_optimizer_and_weights():
    optimizer, start = optax.adam(1e-2), ppca()
    step = jax.jit(make_em_step(start, optimizer=optimizer, num_updates=3))
    state = jv.training.init(key(), start, optimizer)
    batch = {"x": jnp.asarray(iris()), "weight": jnp.where(jnp.arange(150) < 50, 1.0, 0.0)}
    after, metrics = step(state, batch)
    exact = np.mean(jax.vmap(start.log_evidence)(batch["x"][:50]))
    np.testing.assert_allclose(-metrics["loss"], exact, rtol=1e-5)
    assert float(metrics["after_m"]) > float(metrics["bound"])
    assert jax.tree.structure(after) == jax.tree.structure(state)
    with refused("batch", "mask"):
        step(state, {"x": batch["x"], "mask": jnp.ones((150, 4))})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"xs": np.ones(3)}, ("xs", "(3,)")),
        ({"xs": np.full((3, 4), np.nan)}, ("xs", "NaN")),
        ({"xs": np.ones((3, 5))}, ("x:", "(4,)", "(5,)")),
        ({"num_steps": 0}, ("num_steps", "0")),
        ({"tolerance": -1.0}, ("tolerance", "-1.0")),
        ({"weights": np.ones(3)}, ("weights", "(150,)", "(3,)")),
        ({"weights": np.zeros(150)}, ("weights", "0")),
        ({"num_updates": 3}, ("num_updates", "optimizer")),
        ({"m_step": lambda m, *_: m, "optimizer": optax.sgd(1.0)}, ("optimizer", "m_step")),
        ({"model": jv.models.ica(key(), (4,), latent_dim=2)}, ("model", "exact_posterior", "ICA")),
        ({"model": Plain(ppca())}, ("m_step", "Plain", "optax")),
        ({"model": SimpleNamespace(exact_posterior=0)}, ("m_step", "SimpleNamespace")),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, words):
    given = {"model": ppca(), "xs": iris()} | arguments
    with refused(*words):
        em(given.pop("model"), given.pop("xs"), **given)
