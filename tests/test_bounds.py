import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from jaxvae import bounds
from tests.support import twins
from tests.support.refusals import refused

log_weights = st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=12).map(np.float32)


def check_elbo(bound):
    for log_w in ([-3.5], [-2.0, -4.0], [1.0, 2.0, 6.0]):
        np.testing.assert_allclose(bound(jnp.array(log_w)), np.mean(log_w), rtol=1e-6)


def check_iwae(bound):
    """Against float64, also where exp would overflow or underflow; float32 error 1e-6 relative."""
    for log_w in ([-3.5], [0.0, np.log(3)], [-1000.0, -1001.0], [1000.0, 998.0, 0.0], [5.0] * 7):
        exact = special.logsumexp(log_w) - np.log(len(log_w))
        np.testing.assert_allclose(bound(jnp.float32(np.array(log_w))), exact, rtol=1e-6)


def test_elbo():
    check_elbo(bounds.elbo)


def test_iwae():
    check_iwae(bounds.iwae)


@pytest.mark.parametrize("twin", [bounds.iwae, twins.largest, jnp.sum])
def test_check_of_elbo_rejects(twin):
    with pytest.raises(AssertionError):
        check_elbo(twin)


@pytest.mark.parametrize(
    "twin",
    [
        twins.mean_not_logsumexp,
        twins.missing_log_k,
        twins.self_normalised,
        twins.largest,
        twins.weights_without_log,
    ],
)
def test_check_of_iwae_rejects(twin):
    with pytest.raises(AssertionError):
        check_iwae(twin)


@given(log_weights, st.randoms(use_true_random=False))
def test_order_of_the_samples_does_not_matter(log_w, random):
    shuffled = list(log_w)
    random.shuffle(shuffled)
    for bound in (bounds.elbo, bounds.iwae):
        a, b = (float(bound(jnp.asarray(w))) for w in (log_w, np.float32(shuffled)))
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-4)


@given(log_weights, st.floats(-50, 50, width=32))
def test_a_shift_of_the_log_weights_shifts_the_bound_and_jensen_holds(log_w, shift):
    log_w = jnp.asarray(log_w)
    for bound in (bounds.elbo, bounds.iwae):
        np.testing.assert_allclose(bound(log_w + shift), bound(log_w) + shift, atol=1e-4)
    assert float(bounds.elbo(log_w)) <= float(bounds.iwae(log_w)) + 1e-4
    assert float(bounds.iwae(log_w)) <= float(jnp.max(log_w)) + 1e-4


def test_gradient_of_iwae_is_the_normalised_weights():
    log_w = np.array([-1000.0, -999.0, -1003.0])
    gradient = jax.grad(bounds.iwae)(jnp.float32(log_w))
    np.testing.assert_allclose(gradient, special.softmax(log_w), rtol=1e-5)


def test_one_impossible_sample_counts_as_weight_zero():
    np.testing.assert_allclose(bounds.iwae(jnp.array([0.0, -jnp.inf])), -np.log(2), rtol=1e-6)


def check_refuses_other_shapes(bound):
    for shape in ((), (0,), (3, 4), (0, 4)):
        with refused("log_w", str(shape), "vmap"):
            bound(jnp.zeros(shape))


@pytest.mark.parametrize("bound", [bounds.elbo, bounds.iwae])
def test_other_shapes_are_refused(bound):
    check_refuses_other_shapes(bound)


def test_check_of_shapes_rejects_a_leaked_batch_axis():
    with pytest.raises(pytest.fail.Exception):
        check_refuses_other_shapes(lambda log_w: jax.nn.logsumexp(log_w) - jnp.log(log_w.size))
