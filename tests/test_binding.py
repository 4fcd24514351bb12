"""What an example brings besides x: masks of its values, and its label."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import jaxvae as jv
from jaxvae.batching import over_batch, unpack
from jaxvae.binding import Observed, bind
from jaxvae.distributions import log_prob
from jaxvae.keys import example_keys
from jaxvae.types import Conditional
from tests.support.refusals import refused

MASKS = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4]
WEIGHT = np.random.default_rng(0).normal(size=(4, 2))
BIAS, SCALE = np.array([0.5, -1.0, 2.0, 0.0]), 0.7
X = np.array([1.0, -0.3, 0.5, 2.0])


class Linear(NamedTuple):
    """`x = W z + b + noise`, `z ~ N(0, I)`, whose evidence of any part of x is known; q = p."""

    weight: Any
    shift: Any = 0.0

    def prior(self):
        return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

    def posterior(self, x):
        mean = jnp.stack([jnp.sum(x), x[1]]) * 0.1
        return dist.Normal(mean, jnp.ones(2)).to_event(1)

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


def evidence(mask, x=X, shift=0.0):
    """`log N(x_observed; b, W W' + s^2 I)` of the rows that are observed, float64."""
    seen = np.array(mask) > 0
    if not seen.any():
        return 0.0
    w = WEIGHT[seen]
    covariance = w @ w.T + SCALE**2 * np.eye(len(w))
    return stats.multivariate_normal(BIAS[seen] + shift, covariance).logpdf(x[seen])


def quadrature_evidence(model, x):
    """`log integral p(z) p(x|z) dz` by the trapezoid rule, float32 densities."""
    axis = jnp.linspace(-7.0, 7.0, 201)
    zs = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_joint = jax.vmap(lambda z: log_prob(model.prior(), z) + log_prob(model.likelihood(z), x))(
        zs
    )
    return jax.nn.logsumexp(log_joint) + 2 * jnp.log(axis[1] - axis[0])


def check_evidence(observe):
    """What is integrated over z is the density of the observed values alone."""
    of_mask = jax.jit(lambda mask, x: quadrature_evidence(observe(linear(), mask), x))
    for mask in MASKS:
        stored = np.where(np.array(mask) > 0, X, np.nan)
        got = of_mask(jnp.float32(mask), jnp.float32(stored))
        np.testing.assert_allclose(got, evidence(mask), rtol=2e-5, atol=2e-5)


def test_values_that_were_not_observed_are_integrated_out():
    check_evidence(Observed)


class Imputed(NamedTuple):
    """The twin: zeros in the place of what was not observed."""

    model: Any
    mask: Any

    def prior(self):
        return self.model.prior()

    def likelihood(self, z):
        base, mask = self.model.likelihood(z), self.mask

        class Filled(dist.Distribution):
            def log_prob(self, value):
                return base.log_prob(jnp.where(mask > 0, value, jnp.zeros_like(value)))

        return Filled((), (4,))


def test_check_of_evidence_rejects_zeros_and_a_mask_that_is_not_used():
    for twin in (Imputed, lambda model, mask: model, lambda model, mask: Observed(model, 1 - mask)):
        with pytest.raises(AssertionError):
            check_evidence(twin)


def test_the_encoder_sees_zeros_where_nothing_was_observed():
    mask = jnp.float32([1.0, 0.0, 1.0, 0.0])
    hidden = Observed(linear(), mask).posterior(jnp.float32([1.0, np.nan, 3.0, np.inf]))
    plain = linear().posterior(jnp.float32([1.0, 0.0, 3.0, 0.0]))
    np.testing.assert_array_equal(hidden.mean, plain.mean)
    whole = Observed(linear(), jnp.ones(4)).posterior(jnp.float32(X))
    np.testing.assert_array_equal(whole.mean, linear().posterior(jnp.float32(X)).mean)


def test_bound_gradient_and_estimators_do_not_see_what_was_not_observed():
    mask = jnp.float32(MASKS[1])

    def value_and_grad(stored, gradient):
        x = jnp.where(mask > 0, jnp.float32(X), jnp.full(4, stored))

        def objective(model):
            bound = bind(model, mask=mask)
            return jv.iwae(jax.random.key(0), bound, x, num_samples=3, gradient=gradient).objective

        return jax.value_and_grad(objective)(linear())

    for gradient in ("pathwise", "dreg"):
        expected = value_and_grad(0.0, gradient)
        assert np.all(np.isfinite(expected[1].weight))
        np.testing.assert_array_equal(expected[1].weight[np.array([1, 3])], 0)
        for stored in (np.nan, np.inf, 1e30):
            got = value_and_grad(stored, gradient)
            np.testing.assert_array_equal(got[0], expected[0])
            np.testing.assert_array_equal(got[1].weight, expected[1].weight)


def test_a_batch_of_masks_is_each_example_with_its_own():
    masks, xs = jnp.float32(MASKS), jnp.stack([jnp.float32(X) * s for s in (1.0, 0.5, 2.0, 1.0)])
    keys = example_keys(jax.random.key(0), 0, jnp.arange(4))
    terms = jax.jit(lambda: over_batch(jv.elbo, keys, linear(), unpack({"x": xs, "mask": masks})))()
    for i in range(4):
        one = jv.elbo(keys[i], Observed(linear(), masks[i]), xs[i])
        np.testing.assert_allclose(terms.bound[i], one.bound, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(terms.distortion[3], 0, atol=1e-6)


def test_a_mask_and_a_label_go_together():
    mask, label = jnp.float32(MASKS[1]), jnp.int32(2)
    model = bind(ByLabel(jnp.float32(WEIGHT)), label, mask)
    got = jax.jit(quadrature_evidence)(model, jnp.float32(X))
    np.testing.assert_allclose(got, evidence(MASKS[1], shift=2.0), rtol=2e-5)
    assert abs(float(got) - evidence(MASKS[1], shift=1.0)) > 0.1


def test_what_needs_no_binding_stays_what_it_is():
    model, own = linear(), object()
    assert bind(model) is model
    assert bind(model, jnp.int32(1)) is model
    assert bind(own) is own
    assert isinstance(bind(ByLabel(model.weight), jnp.int32(1)), Linear)
    assert isinstance(ByLabel(model.weight), Conditional)


def test_a_bound_model_is_a_pytree():
    model = Observed(linear(), jnp.ones(4))
    stopped = jax.lax.stop_gradient(model)
    assert isinstance(stopped, jv.Model)
    assert len(jax.tree.leaves(stopped)) == len(jax.tree.leaves(model))


def test_a_model_of_labels_without_one_is_refused():
    with refused("label", "ByLabel", "given"):
        bind(ByLabel(jnp.float32(WEIGHT)))


class Correlated(NamedTuple):
    """A likelihood that does not factorise over x."""

    def likelihood(self, z):
        return dist.MultivariateNormal(jnp.zeros(4), jnp.eye(4))


class Rows(NamedTuple):
    """One that factorises over the rows of x alone."""

    def likelihood(self, z):
        return dist.MultivariateNormal(jnp.zeros((2, 4)), jnp.eye(4)).to_event(1)


def test_masks_that_cannot_be_used_are_refused():
    z = jnp.zeros(2)
    for shape in ((3,), (1, 4), ()):
        with refused("mask", "(4,)", str(shape)):
            Observed(linear(), jnp.ones(shape)).likelihood(z)
    with refused("mask", "factorises", "MultivariateNormal"):
        Observed(Correlated(), jnp.ones(4)).likelihood(z)
    with refused("mask", "factorises", "MultivariateNormal"):
        Observed(Rows(), jnp.ones((2, 4))).likelihood(z)
