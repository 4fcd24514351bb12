"""Missing values drawn from what was observed: a linear-Gaussian model knows the answer."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxvae as jv
from jaxvae.binding import Observed
from jaxvae.distributions import FloatCategorical
from jaxvae.evaluation.imputation import _impute
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

impute = jv.evaluation.impute
RNG = np.random.default_rng(0)
WEIGHT, BIAS, SCALE = RNG.normal(size=(4, 2)), np.array([0.5, -1.0, 2.0, 0.0]), 0.7
X, MASK = np.array([1.6, -0.3, 1.5, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])
SEEN, MISSING = MASK > 0, MASK == 0
COPIES, K = 4000, 400


class Linear(NamedTuple):
    """`x = W z + b + noise`, `z ~ N(0, I)`; q(z|x) is wide, and not where the posterior is."""

    weight: Any
    shift: Any = 0.0

    def prior(self):
        return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

    def posterior(self, x):
        return dist.Normal(0.1 * x[:2], jnp.ones(2)).to_event(1)

    def likelihood(self, z):
        mean = self.weight @ z + jnp.float32(BIAS) + self.shift
        return dist.Normal(mean, jnp.full(4, SCALE)).to_event(1)


class ByLabel(NamedTuple):
    """A model of x given a label, which moves x."""

    weight: Any

    def given(self, y):
        return Linear(self.weight, y.astype(jnp.float32))


def linear():
    return Linear(jnp.float32(WEIGHT))


def conditional(shift=0.0):
    """Mean and covariance of the missing values given the observed ones, float64."""
    covariance = WEIGHT @ WEIGHT.T + SCALE**2 * np.eye(4)
    gain = covariance[np.ix_(MISSING, SEEN)] @ np.linalg.inv(covariance[np.ix_(SEEN, SEEN)])
    mean = BIAS[MISSING] + shift + gain @ (X - BIAS - shift)[SEEN]
    rest = covariance[np.ix_(MISSING, MISSING)]
    return mean, rest - gain @ covariance[np.ix_(SEEN, MISSING)]


def copies(x=X, size=COPIES):
    """The same example many times, each of which is drawn for by itself; NaN where it is missing."""
    stored = np.where(SEEN, x, np.nan).astype(np.float32)
    return {"x": np.tile(stored, (size, 1)), "mask": np.tile(MASK, (size, 1))}


def check(result, shift=0.0):
    """Mean and second moments of one draw for each copy, and the mean of the weighted means.

    The bias of K = 400 weights is of the order of 1 / K of a standard deviation, a tenth of the
    error of 4,000 copies.
    """
    mean, covariance = conditional(shift)
    draws = np.float64(result.draws[0][:, MISSING])
    assert_mean(draws, mean, what="draws")
    rest = draws - mean
    outer = rest[:, :, None] * rest[:, None, :]
    assert_mean(outer[:, *np.triu_indices(2)], covariance[np.triu_indices(2)], what="covariance")
    assert_mean(result.mean[:, MISSING], mean, what="mean")
    for values in (*result.draws, result.mean):
        np.testing.assert_array_equal(values[:, SEEN], np.tile(np.float32(X[SEEN]), (COPIES, 1)))


@cache
def imputed():
    return impute(jax.random.key(0), linear(), copies(), num_draws=2, num_samples=K)


def test_draws_and_mean_are_of_the_conditional():
    check(imputed())
    assert imputed().draws.shape == (2, COPIES, 4)
    assert np.all((imputed().ess > 1) & (imputed().ess < K))


def test_draws_of_one_example_differ():
    """Two draws of one example share its latents, of which each takes one by itself."""
    first, second = imputed().draws[..., MISSING]
    correlation = np.corrcoef(first[:, 0], second[:, 0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(COPIES) + 1 / imputed().ess.mean()


class Peeking(Observed):
    """Weights from all of x, the missing values included."""

    def likelihood(self, z):
        return self.model.likelihood(z)


def without_weights():
    return impute(jax.random.key(0), linear(), copies(), num_samples=1)


def weights_that_peek():
    model = Peeking(linear(), jnp.float32(MASK))
    sizes = {"num_draws": 1, "num_samples": K, "chunk_size": K}
    one = partial(_impute, model, x=jnp.float32(X), **sizes)
    draws, mean, ess = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), COPIES))
    return jv.evaluation.Imputation(np.moveaxis(draws, 1, 0), np.asarray(mean), ess)


def observed_values_overwritten():
    result = imputed()
    noise = np.random.default_rng(1).normal(size=result.draws.shape)
    return result._replace(draws=np.where(SEEN, result.draws + SCALE * noise, result.draws))


def reconstructions_without_noise():
    """E[x|z] in place of a draw of p(x|z)."""
    return imputed()._replace(draws=imputed().mean[None])


@pytest.mark.parametrize(
    "twin",
    [
        without_weights,
        weights_that_peek,
        observed_values_overwritten,
        reconstructions_without_noise,
    ],
)
def test_check_rejects(twin):
    with pytest.raises(AssertionError):
        check(twin())


def test_ess_is_that_of_the_weights():
    """Against the estimate of the likelihood, which has the same weights from the same keys."""
    batch = copies(size=7)
    likelihood = jv.evaluation.log_likelihood(jax.random.key(0), linear(), batch, num_samples=K)
    np.testing.assert_allclose(imputed().ess[:7], likelihood.ess, rtol=1e-4)


@pytest.mark.slow
def test_no_result_depends_on_batch_or_chunk():
    run = partial(impute, jax.random.key(0), linear(), copies(size=7), num_draws=2, num_samples=K)
    for chunk_size, batch_size in ((K, None), (7, 3)):
        for got, expected in zip(
            run(chunk_size=chunk_size, batch_size=batch_size),
            (imputed().draws[:, :7], imputed().mean[:7], imputed().ess[:7]),
            strict=True,
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_label_is_bound():
    label = np.ones(COPIES, np.int32)
    batch = {**copies(), "label": label}
    result = impute(jax.random.key(0), ByLabel(jnp.float32(WEIGHT)), batch, num_samples=K)
    check(result, shift=1.0)
    with pytest.raises(AssertionError):
        check(result, shift=0.0)
    with refused("label"):
        impute(jax.random.key(0), ByLabel(jnp.float32(WEIGHT)), copies())


def test_an_example_that_is_observed_whole_stays_what_it_is():
    x = np.float32(X)[None]
    result = impute(jax.random.key(0), linear(), {"x": x, "mask": np.ones((1, 4))}, num_draws=3)
    np.testing.assert_array_equal(result.draws, np.tile(x, (3, 1, 1)))
    np.testing.assert_array_equal(result.mean, x)


class Classes:
    """x of two values in classes 0, 1 and 2."""

    family = FloatCategorical

    def prior(self):
        return dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)

    def posterior(self, x):
        return dist.Normal(x[:1], jnp.ones(1)).to_event(1)

    def likelihood(self, z):
        return self.family(jnp.stack([z, 2 * z, 3 * z], axis=1) * jnp.ones((2, 1))).to_event(1)


class NoMean(FloatCategorical):
    @property
    def mean(self):
        raise NotImplementedError


class WithoutMean(Classes):
    family = NoMean


def test_classes_are_drawn_and_have_a_mean_only_where_it_is_known():
    batch = {"x": np.array([[2.0, 0.0]], np.float32), "mask": np.array([[1, 0]])}
    for model in (Classes(), WithoutMean()):
        result = impute(jax.random.key(0), model, batch, num_draws=50)
        assert set(np.unique(result.draws[:, 0, 1])) == {0.0, 1.0, 2.0}
        assert np.all(result.draws[:, 0, 0] == 2)
        assert result.draws.dtype == np.float32
        if isinstance(model, WithoutMean):
            assert result.mean is None
        else:
            assert 0 < result.mean[0, 1] < 2


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (np.ones((2, 4)), ("mask", "nothing is missing")),
        ({"x": np.ones((2, 4))}, ("mask", "nothing is missing")),
        ({"x": np.ones((2, 4)), "mask": np.ones(2)}, ("mask", "nothing is missing")),
        ({"x": np.ones((2, 4)), "mask": np.ones((2, 3))}, ("mask", "(2, 4)", "(2, 3)")),
    ],
)
def test_masks_are_checked(batch, words):
    with refused(*words):
        impute(jax.random.key(0), linear(), batch)


@pytest.mark.parametrize("name", ["num_draws", "num_samples", "chunk_size", "batch_size"])
def test_sizes_are_checked(name):
    with refused(name):
        impute(jax.random.key(0), linear(), copies(size=2), **{name: 0})


def test_an_int_is_no_key():
    with refused("key"):
        impute(0, linear(), copies(size=2))
