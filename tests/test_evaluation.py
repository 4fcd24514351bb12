from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import special

import jaxvae as jv
from jaxvae.evaluation import mean_and_error
from tests.support import oracles
from tests.support.pareto import pareto_oracle
from tests.support.refusals import refusal, refused
from tests.support.statistics import assert_mean

log_likelihood = jv.evaluation.log_likelihood


def reference(key, model, xs, num_samples):
    """Estimate, error, ess and k-hat with all K log-weights at once, in float64 from log_w on."""

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0))
    @partial(jax.vmap, in_axes=(None, None, 0))
    def log_weight(model, x, key):
        q = model.posterior(x)
        z = q.sample(key)
        return model.likelihood(z).log_prob(x) + model.prior().log_prob(z) - q.log_prob(z)

    fold, rows, samples = jax.random.fold_in, jnp.arange(len(xs)), jnp.arange(num_samples)
    keys = jax.vmap(lambda i: jax.vmap(lambda k: fold(fold(key, i), k))(samples))(rows)
    log_w = np.float64(log_weight(model, jnp.asarray(xs), keys))
    estimate = special.logsumexp(log_w, axis=1) - np.log(num_samples)
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    error = w.std(axis=1, ddof=1) / np.sqrt(num_samples) / w.mean(axis=1)
    k_hat = [pareto_oracle(row) for row in log_w]
    return estimate, error, w.sum(axis=1) ** 2 / (w**2).sum(axis=1), k_hat


SIZES = [(1, 3), (5, 2), (29, 1), (100, 50), (4, None)]


def check_log_likelihood(function):
    """7 examples and 29 samples at sizes of which none divides, to 1e-5."""
    model = oracles.linear_gaussian()
    xs, key = oracles.draw_x(model, 0, 7), jax.random.key(5)
    expected = reference(key, model, xs, 29)
    for chunk_size, batch_size in SIZES:
        got = function(key, model, xs, num_samples=29, chunk_size=chunk_size, batch_size=batch_size)
        assert got.weight is None  # all rows count alike
        for name, value, exact in zip(got._fields[:-1], got[:-1], expected, strict=True):
            assert isinstance(value, np.ndarray)
            np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-5, err_msg=name)
        assert np.all((got.ess >= 1) & (got.ess <= 29))


@pytest.mark.slow
def test_estimate_is_the_plain_one_whatever_the_sizes():
    check_log_likelihood(log_likelihood)


def dropping_samples(key, model, xs, *, num_samples, chunk_size, batch_size):
    kept = max(chunk_size, num_samples // chunk_size * chunk_size)
    return log_likelihood(key, model, xs, num_samples=min(kept, num_samples), chunk_size=chunk_size)


def dropping_examples(key, model, xs, *, num_samples, chunk_size, batch_size):
    kept = len(xs) // (batch_size or 1) * (batch_size or 1) or len(xs)
    return log_likelihood(key, model, xs[:kept], num_samples=num_samples)


def one_key_a_batch(key, model, xs, *, num_samples, chunk_size, batch_size):
    size = min(batch_size or len(xs), len(xs))
    parts = [
        log_likelihood(key, model, xs[i : i + size], num_samples=num_samples)
        for i in range(0, len(xs), size)
    ]
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


@pytest.mark.parametrize("twin", [dropping_samples, dropping_examples, one_key_a_batch])
def test_check_of_estimates_rejects(twin):
    with pytest.raises(AssertionError):
        check_log_likelihood(twin)


@cache
def wide_posterior():
    """A model with q a fifth wider than the posterior, examples, and their estimates at K = 300.

    The weights are mild: the estimate's bias, half its variance, is 1% of its error.
    """
    model = oracles.with_exact_posterior(oracles.linear_gaussian(), widen=1.2)
    xs = oracles.draw_x(model, 0, 4096)
    result = log_likelihood(jax.random.key(0), model, xs, num_samples=300, batch_size=256)
    return model, xs, result


def check_coverage(estimate, error):
    """Over 4,096 examples (estimate - exact) / error has mean 0 and mean square 1."""
    model, xs, _ = wide_posterior()
    z = (np.float64(estimate) - oracles.log_evidence(model, xs)) / error
    assert_mean(z, 0.0, false_alarm=5e-7, what="z")
    assert_mean(z**2, 1.0, false_alarm=5e-7, what="z squared")


def test_estimates_are_exact_within_their_stated_error():
    _, _, result = wide_posterior()
    check_coverage(result.estimate, result.standard_error)


def test_check_of_coverage_rejects_another_scale_of_the_error_and_the_elbo():
    model, xs, result = wide_posterior()
    for scale in (0.9, 1.1, np.sqrt(300)):
        with pytest.raises(AssertionError):
            check_coverage(result.estimate, scale * result.standard_error)
    objective = partial(jv.elbo, kl="monte_carlo")
    bound = jv.evaluation.terms(jax.random.key(0), model, xs, objective=objective).bound
    with pytest.raises(AssertionError):
        check_coverage(bound, result.standard_error)


@pytest.mark.slow
def test_the_exact_posterior_has_no_error():
    model = oracles.with_exact_posterior(oracles.linear_gaussian())
    xs = oracles.draw_x(model, 0, 20)
    result = log_likelihood(jax.random.key(0), model, xs, num_samples=130)
    np.testing.assert_allclose(result.estimate, oracles.log_evidence(model, xs), atol=2e-5)
    # Float32 log-weights differ by 1e-6, and 1 - K / ess is the difference of numbers near 1.
    np.testing.assert_allclose(result.standard_error, 0, atol=2e-4)
    np.testing.assert_allclose(result.ess, 130, rtol=1e-5)


def test_a_discrete_latent_is_estimated_too():
    model = oracles.Discrete()
    xs = np.array(list(np.ndindex(2, 2, 2, 2)), np.float32)
    result = log_likelihood(jax.random.key(0), model, xs, num_samples=4000, chunk_size=1000)
    z = (result.estimate - oracles.discrete_log_evidence(model, xs)) / result.standard_error
    assert np.all(np.abs(z) < 5.5), f"max |z| of 16: {np.abs(z).max():.2f}, false alarm 6e-7"
    with refusal():
        jv.iwae(jax.random.key(0), model, xs[0], num_samples=3)


def test_one_sample_has_no_error_to_tell():
    model = oracles.linear_gaussian()
    result = log_likelihood(jax.random.key(0), model, oracles.draw_x(model, 0, 2), num_samples=1)
    assert np.all(np.isnan(result.standard_error))
    np.testing.assert_array_equal(result.ess, 1)


def test_mean_and_error():
    values = np.array([1.0, 2.0, 6.0])
    np.testing.assert_allclose(mean_and_error(values), (3.0, np.std(values, ddof=1) / np.sqrt(3)))
    assert np.isnan(mean_and_error(np.ones(1))[1])


def test_progress_counts_the_examples_that_are_done():
    model, seen = oracles.linear_gaussian(), []
    xs = oracles.draw_x(model, 0, 7)
    log_likelihood(
        jax.random.key(0), model, xs, num_samples=2, batch_size=3, on_progress=seen.append
    )
    assert seen == [3, 6, 7]


# Terms, active units, moments.


def test_terms_do_not_depend_on_the_batch_size():
    model = oracles.linear_gaussian()
    xs, key = jnp.asarray(oracles.draw_x(model, 0, 7)), jax.random.key(0)
    each = jax.jit(jv.elbo)
    keys = [jax.random.fold_in(key, i) for i in range(7)]
    expected = np.stack([each(k, model, x) for k, x in zip(keys, xs, strict=True)], axis=1)
    for batch_size in (1, 3, 7, 500):
        got = jv.evaluation.terms(key, model, xs, batch_size=batch_size)
        assert isinstance(got, jv.Terms)
        np.testing.assert_allclose(np.stack(got), expected, rtol=2e-6, atol=1e-6)
    scalar = jv.evaluation.terms(key, model, xs, objective=lambda k, m, x: jv.elbo(k, m, x).rate)
    np.testing.assert_allclose(scalar, expected[3], rtol=2e-6)


def planted(dead):
    """A linear-Gaussian model in which the posterior mean of the dead latents ignores x."""
    model = oracles.linear_gaussian(2, event_size=4, latent_dim=3)
    model.encoder[...] = model.encoder[...].at[jnp.array(dead, int)].set(0.0)
    return model


@pytest.mark.parametrize("dead", [[0, 1, 2], [0, 2], [1]])
def test_active_units_are_those_that_were_planted(dead):
    model = planted(dead)
    xs = oracles.draw_x(model, 0, 50)
    result = jv.evaluation.active_units(model, xs, batch_size=7)
    means = np.float64(xs) @ np.float64(model.encoder[...]).T
    np.testing.assert_allclose(result.variance, means.var(axis=0, ddof=1), rtol=1e-4, atol=1e-10)
    assert list(np.flatnonzero(~result.active)) == dead
    assert result.count == 3 - len(dead)
    high = jv.evaluation.active_units(model, xs, threshold=1e3)
    assert high.count == 0


def test_the_posterior_variance_does_not_make_a_unit_active():
    model = planted([0, 1, 2])
    model.log_diagonal[...] = jnp.array([-3.0, 0.0, 3.0])
    assert jv.evaluation.active_units(model, oracles.draw_x(model, 0, 50)).count == 0


def test_moments_are_those_of_the_posterior():
    model = oracles.linear_gaussian()
    xs = oracles.draw_x(model, 0, 7)
    moments = jv.evaluation.posterior_moments(model, xs, batch_size=3)
    p = oracles.parameters(model)
    np.testing.assert_allclose(moments.mean, xs @ p.encoder.T + p.offset, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        moments.variance, np.broadcast_to(np.exp(2 * p.log_diagonal), (7, 2)), rtol=1e-5
    )


def check_kl_per_latent(function):
    model = oracles.linear_gaussian()
    xs = oracles.draw_x(model, 0, 7)
    p = oracles.parameters(model)
    rates = [oracles.elbo(p, np.float64(x)).rate for x in xs]
    got = function(model, xs)
    assert got.shape == (2,)
    np.testing.assert_allclose(got.sum(), np.mean(rates), rtol=1e-5)


def test_kl_per_latent_sums_to_the_mean_rate():
    check_kl_per_latent(jv.evaluation.kl_per_latent)
    with pytest.raises(AssertionError):
        check_kl_per_latent(lambda model, xs: jv.evaluation.kl_per_latent(model, xs) / 2)


# Refusals.


def normal(size):
    return dist.Normal(jnp.zeros(size), jnp.ones(size))


class Own(nnx.Module):
    def __init__(self, prior, posterior):
        self._prior, self._posterior = nnx.data(prior), nnx.data(posterior)

    def prior(self):
        return self._prior

    def posterior(self, x):
        return self._posterior

    def likelihood(self, z):
        return dist.Normal(jnp.broadcast_to(jnp.sum(z), (3,)), jnp.ones(3)).to_event(1)


@pytest.mark.parametrize(
    ("prior", "posterior", "words"),
    [
        (normal(2), normal(2).to_event(1), ("prior", "(2,)", ".to_event(1)")),
        (normal(2).to_event(1), normal(2), ("posterior", "(2,)", ".to_event(1)")),
        (normal(3).to_event(1), normal(1).to_event(1), ("(3,)", "(1,)")),
    ],
    ids=["prior without to_event", "posterior without to_event", "latents of two sizes"],
)
def test_models_that_break_the_protocol_are_refused(prior, posterior, words):
    with refused(*words):
        log_likelihood(jax.random.key(0), Own(prior, posterior), np.zeros((2, 3)), num_samples=2)


@pytest.mark.parametrize("name", ["num_samples", "chunk_size", "batch_size"])
@pytest.mark.parametrize("bad", [0, True, 2.5])
def test_sizes_are_checked(name, bad):
    sizes = {"num_samples": 2, "chunk_size": 2, "batch_size": 2, name: bad}
    with refused(name, repr(bad)):
        log_likelihood(jax.random.key(0), oracles.linear_gaussian(), np.zeros((2, 3)), **sizes)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 5)])
def test_examples_of_another_shape_are_refused(shape):
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    with refused("x"):
        log_likelihood(jax.random.key(0), model, np.zeros(shape, np.float32), num_samples=2)


class Plain:
    """A model that is no pytree, so a constant of compiled code."""

    def prior(self):
        return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

    def posterior(self, x):
        return dist.Normal(0.1 * x[:2], jnp.ones(2)).to_event(1)

    def likelihood(self, z):
        return dist.Normal(jnp.concatenate([z, z]), jnp.ones(4)).to_event(1)


def test_a_model_that_is_no_pytree_is_compiled_once_a_call():
    traced = []

    class Counted(Plain):
        def posterior(self, x):
            traced.append(1)
            return super().posterior(x)

    model, xs = Counted(), np.ones((3, 4), np.float32)
    first = log_likelihood(jax.random.key(0), model, xs, num_samples=5)
    count = len(traced)
    again = log_likelihood(jax.random.key(0), model, xs, num_samples=5, batch_size=1)
    assert len(traced) == 2 * count  # what it holds may have changed; of three batches it cannot
    np.testing.assert_allclose(first.estimate, again.estimate, rtol=1e-6)
