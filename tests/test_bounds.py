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


# Other bounds: special cases, order, hand values.

many = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12).map(np.float32)


@pytest.mark.slow
@given(many)
def test_renyi_falls_in_its_order_and_meets_the_others(log_w):
    log_w = jnp.asarray(log_w)
    orders = [-50.0, -2.0, -0.5, 0.0, 0.5, 0.999, 1.0, 2.0, 5.0]
    values = np.array([bounds.renyi(log_w, alpha) for alpha in orders])
    assert np.all(np.diff(values) <= 1e-3), values  # float32: 1e-3 nats at |log w| <= 30, near 1
    np.testing.assert_allclose(bounds.renyi(log_w, 0.0), bounds.iwae(log_w), rtol=1e-5, atol=1e-5)
    assert bounds.renyi(log_w, 1.0) == bounds.elbo(log_w)
    assert bounds.renyi(log_w, -50.0) <= bounds.vr_max(log_w) + 1e-4


@pytest.mark.slow
@given(many)
def test_bounds_of_the_same_samples_are_in_order(log_w):
    log_w, betas = jnp.asarray(log_w), jnp.linspace(0, 1, 9)[:-1]
    elbo, iwae = bounds.elbo(log_w), bounds.iwae(log_w)
    left, right = (bounds.thermodynamic(log_w, betas, side=side) for side in ("left", "right"))
    ordered = [elbo, left, iwae, right, bounds.vr_max(log_w)]
    assert np.all(np.diff(np.array(ordered)) >= -1e-4), ordered
    mixed = bounds.combination_iwae(log_w, 0.3)
    np.testing.assert_allclose(mixed, 0.3 * elbo + 0.7 * iwae, rtol=1e-5, atol=1e-5)
    assert bounds.chi_upper(log_w, 2.0) >= iwae - 1e-4


def test_thermodynamic_sums_close_on_the_integral():
    log_w = jnp.asarray([0.0, 1.0, -2.0, 3.0])
    fine = jnp.linspace(0, 1, 1001)[:-1]
    for side in ("left", "right"):
        np.testing.assert_allclose(
            bounds.thermodynamic(log_w, fine, side=side), bounds.iwae(log_w), atol=3e-3
        )
    one = bounds.thermodynamic(log_w, jnp.zeros(1), side="right")
    np.testing.assert_allclose(one, np.dot(special.softmax(log_w), log_w), rtol=1e-6)


def check_multiply_iwae(bound):
    log_w = np.float32(np.random.default_rng(0).normal(size=(3, 5)) * 3)
    exact = np.mean([special.logsumexp(row) - np.log(5) for row in np.float64(log_w)])
    np.testing.assert_allclose(bound(jnp.asarray(log_w)), exact, rtol=1e-6)


def test_multiply_iwae():
    check_multiply_iwae(bounds.multiply_iwae)
    with pytest.raises(AssertionError):
        check_multiply_iwae(lambda log_w: bounds.multiply_iwae(log_w.T))  # the wrong axis of (M, K)
    with pytest.raises(AssertionError):
        check_multiply_iwae(lambda log_w: bounds.iwae(log_w.reshape(-1)))


def test_renyi_and_chi_by_hand():
    log_w = jnp.log(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(bounds.renyi(log_w, 2.0), -np.log((1 + 1 / 3) / 2), rtol=1e-6)
    np.testing.assert_allclose(bounds.chi_upper(log_w, 2.0), np.log((1 + 9) / 2) / 2, rtol=1e-6)


def test_renyi_toy():
    """p = N(0, I2), q = N([1, 1], I2): D_alpha(q || p) = alpha, so the exact bound is -alpha."""
    z = np.random.default_rng(0).normal(size=(200_000, 2)) + 1
    log_w = jnp.asarray(0.5 * ((z - 1) ** 2 - z**2).sum(axis=1), jnp.float32)
    for alpha in (0.5, 1.0, 1.5):
        w = np.exp((1 - alpha) * np.float64(log_w))
        error = w.std() / w.mean() / np.sqrt(len(w)) / abs(1 - alpha) if alpha != 1 else 0.004
        assert abs(float(bounds.renyi(log_w, alpha)) + alpha) < 5 * error  # false alarm 6e-7 each


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("alpha", lambda w: bounds.renyi(w, float("inf"))),
        ("beta", lambda w: bounds.combination_iwae(w, 1.5)),
        ("order", lambda w: bounds.chi_upper(w, 0.5)),
        ("side", lambda w: bounds.thermodynamic(w, jnp.zeros(1), side="middle")),
        ("betas", lambda w: bounds.thermodynamic(w, jnp.zeros(0))),
        ("[M, K]", bounds.multiply_iwae),
        ("log_w", lambda w: bounds.vr_max(w[None])),
    ],
)
def test_unusable_options_of_bounds_are_refused(name, call):
    with refused(name):
        call(jnp.zeros(3))
