import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import stats

from jaxvae.distributions import (
    InverseAutoregressive,
    Planar,
    SplineCoupling,
    can_score,
    log_prob,
    made_masks,
    sample,
    sample_with_log_prob,
    splines,
)
from jaxvae.models.conditioners import ContextMLP, MaskedMLP
from jaxvae.networks import autoregressive
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import FALSE_ALARM, assert_mean

BINS, CONTEXT = 5, 2
NAMES = ["planar", "iaf", "iaf reversed", "spline", "spline odd"]
INVERTIBLE = NAMES[1:]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def make(name, size=3, *, gain=2.0):
    """A flow with random parameters `gain` times as large as those it would start from."""
    rng = np.random.default_rng(0)
    context, rngs = jnp.asarray(rng.normal(size=CONTEXT), jnp.float32), nnx.Rngs(jax.random.key(3))
    if name == "planar":
        w, u = (jnp.asarray(rng.normal(size=size), jnp.float32) for _ in "wu")
        return Planar(gain * w, -gain * jnp.abs(u) * jnp.sign(w), jnp.asarray(0.3))
    if name.startswith("iaf"):
        net = MaskedMLP(size, CONTEXT, (8, 7), reverse="reversed" in name, rngs=rngs)
        flow = InverseAutoregressive(net, context)
    else:
        net = ContextMLP(size, CONTEXT, (8,), size * (3 * BINS - 1), rngs=rngs)
        flow = SplineCoupling(net, context, parity=int("odd" in name))
        gain = 3 * gain
    return jax.tree.map(lambda leaf: gain * leaf, flow)


def doubled(flow):
    return jax.tree.map(lambda leaf: jnp.asarray(np.float64(leaf)), flow)


def points(size, count=20):
    # Some lie beyond the bound of the splines, where the tails are.
    return 3 * np.random.default_rng(1).normal(size=(count, size))


class Twin:
    """A flow with another forward pass."""

    def __init__(self, flow, forward):
        self.flow, self.forward = flow, lambda x: forward(flow, x)

    def backward(self, y):
        return self.flow.backward(y)


def negative(flow, x):
    y, log_det = flow.forward(x)
    return y, -log_det


def without_tail(flow, x):
    kept, spline = flow._kept_and_spline(x)
    y, log_slope = splines.forward(spline, jnp.clip(x, -flow.bound, flow.bound))
    return jnp.where(kept, x, y), jnp.sum(jnp.where(kept, 0, log_slope))


def check_log_det(flow, size=3):
    """Within 1e-10 of slogdet of the Jacobian, in float64."""
    xs = jnp.asarray(points(size))
    jacobians = jax.vmap(jax.jacobian(lambda x: flow.forward(x)[0]))(xs)
    signs, log_dets = np.linalg.slogdet(jacobians)
    assert np.all(signs == 1)
    np.testing.assert_allclose(jax.vmap(flow.forward)(xs)[1], log_dets, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_log_det_is_that_of_the_jacobian(name, size, float64):
    check_log_det(doubled(make(name, size)), size)


@pytest.mark.parametrize("name", NAMES)
def test_check_of_log_det_rejects_the_wrong_sign(name, float64):
    with pytest.raises(AssertionError):
        check_log_det(Twin(doubled(make(name)), negative))


def test_check_of_log_det_rejects_a_missing_tail(float64):
    with pytest.raises(AssertionError):
        check_log_det(Twin(doubled(make("spline")), without_tail))


def test_check_of_log_det_rejects_a_planar_flow_that_folds(float64):
    def unconstrained(flow, x):
        bend = jnp.tanh(flow.w @ x + flow.b)
        return x + flow.u * bend, jnp.log(jnp.abs(1 + flow.w @ flow.u * (1 - bend**2)))

    with pytest.raises(AssertionError):
        check_log_det(Twin(doubled(make("planar")), unconstrained))


def check_inverse(flow, xs, atol=1e-9):
    there_and_back = jax.jit(jax.vmap(lambda x: flow.backward(flow.forward(x)[0])))
    np.testing.assert_allclose(there_and_back(jnp.asarray(xs)), xs, rtol=atol, atol=atol)


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("size", [1, 3])
def test_inverse_undoes_the_flow(name, size, float64):
    check_inverse(doubled(make(name, size)), points(size))


def test_check_of_inverse_rejects_a_missing_tail_and_a_pass_too_few(float64):
    with pytest.raises(AssertionError):
        check_inverse(Twin(doubled(make("spline")), without_tail), points(3))
    flow = doubled(make("iaf"))
    once = Twin(flow, lambda flow, x: flow.forward(x))
    once.backward = lambda y: (lambda shift, gate: (y - (1 - gate) * shift) / gate)(
        *flow._shift_and_gate(jnp.zeros_like(y))
    )
    with pytest.raises(AssertionError):
        check_inverse(once, points(3))


@pytest.mark.parametrize("name", INVERTIBLE)
def test_inverse_in_float32(name):
    check_inverse(make(name, gain=1.0), np.float32(points(3)), atol=2e-5)


def check_order(net, *, reverse):
    """Entry d of the output moves with the entries before it, with them only, and with context."""
    x, context = jnp.asarray(points(4, 1)[0], jnp.float32), jnp.array([0.4, -0.9])
    before = np.tril(np.ones((4, 4), bool), -1)
    before = before.T if reverse else before
    for output in range(2):
        by_x, by_context = jax.jacobian(lambda x, c: net(x, c)[output], argnums=(0, 1))(x, context)  # noqa: B023
        np.testing.assert_array_equal(by_x != 0, before)
        assert np.all(by_context != 0)


@pytest.mark.parametrize("reverse", [False, True])
def test_masks_make_the_network_autoregressive(reverse):
    net = MaskedMLP(4, CONTEXT, (9, 8), reverse=reverse, rngs=nnx.Rngs(jax.random.key(0)))
    check_order(net, reverse=reverse)


@pytest.mark.parametrize(
    "twin",
    [
        lambda masks: [*masks[:-1], np.ones_like(masks[-1])],
        lambda masks: [*masks[:-1], masks[-1][:, ::-1]],
        lambda masks: [masks[0][::-1], *masks[1:]],
        lambda masks: [np.zeros_like(masks[0]), *masks[1:]],
    ],
    ids=["sees itself", "wrong order of outputs", "wrong order of inputs", "blind"],
)
def test_check_of_masks_rejects(monkeypatch, twin):
    monkeypatch.setattr(autoregressive, "made_masks", lambda *a, **k: twin(made_masks(*a, **k)))
    net = MaskedMLP(4, CONTEXT, (9, 8), rngs=nnx.Rngs(jax.random.key(0)))
    with pytest.raises(AssertionError):
        check_order(net, reverse=False)


def test_zeros_make_the_spline_the_identity(float64):
    spline = splines.make_spline(jnp.zeros((7, 3 * BINS - 1)), 2.0)
    x = jnp.linspace(-3, 3, 7)
    y, log_slope = splines.forward(spline, x)
    np.testing.assert_allclose(y, x, atol=1e-12)
    np.testing.assert_allclose(log_slope, 0, atol=1e-12)


def test_spline_is_smooth_at_its_knots(float64):
    raw = jnp.asarray(np.random.default_rng(2).normal(size=(1, 3 * BINS - 1)))
    spline = splines.make_spline(raw, 2.0)
    for knot in spline.x_knots[0]:
        (below, above) = (splines.forward(spline, (knot + e)[None]) for e in (-1e-9, 1e-9))
        np.testing.assert_allclose(below[0], above[0], atol=1e-7)
        np.testing.assert_allclose(below[1], above[1], atol=1e-5)


def posterior(flows, size):
    base = dist.Normal(jnp.linspace(-0.5, 0.7, size), jnp.linspace(1.3, 0.8, size)).to_event(1)
    return dist.TransformedDistribution(base, flows)


@pytest.mark.slow
@pytest.mark.parametrize("name", INVERTIBLE)
def test_density_in_one_dimension_integrates_to_one_and_samples_follow_it(name):
    q = posterior([make(name, 1, gain=1.0), make(name, 1)], 1)
    grid = np.linspace(-14, 14, 20_001)
    density = np.exp(np.float64(jax.vmap(lambda z: log_prob(q, z))(jnp.float32(grid[:, None]))))
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    np.testing.assert_allclose(cdf[-1], 1, atol=2e-5)
    keys = jax.random.split(jax.random.key(0), 4000)
    z = np.float64(jax.vmap(lambda key: sample(q, key))(keys))[:, 0]
    assert stats.kstest(z, lambda z: np.interp(z, grid, cdf)).pvalue > FALSE_ALARM
    assert stats.kstest(1.05 * z + 0.3, lambda z: np.interp(z, grid, cdf)).pvalue < FALSE_ALARM


def check_mass(q, forward, atol=2e-3):
    """The density times the areas that a grid of the base is carried to sums to 1, and to the
    means of the samples; no inverse is needed. False alarm 1e-6."""
    base, n = q.base_dist, 401
    axis = jnp.linspace(-8.0, 8.0, n)
    corners = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1)
    middle = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    y = np.float64(jax.vmap(jax.vmap(lambda x: forward(x)[0]))(corners))
    diagonals = y[1:, 1:] - y[:-1, :-1], y[1:, :-1] - y[:-1, 1:]
    areas = np.abs(_cross(*diagonals)) / 2
    z, log_det = jax.vmap(jax.vmap(forward))(middle)
    mass = areas * np.exp(np.float64(jax.vmap(jax.vmap(base.log_prob))(middle) - log_det))
    np.testing.assert_allclose(mass.sum(), 1, atol=atol)
    exact = np.einsum("ij,ijk->k", mass, features(np.float64(z)))
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = features(np.float64(jax.vmap(lambda key: sample_with_log_prob(q, key)[0])(keys)))
    assert_mean(draws, exact, rounding=atol)


def features(z):
    return np.concatenate([z, z**2, z[..., :1] * z[..., 1:], np.cos(z)], axis=-1)


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_density_in_two_dimensions_integrates_to_one_and_samples_follow_it(name):
    flow = make(name, 2, gain=1.0)
    check_mass(posterior([flow], 2), flow.forward)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_check_of_mass_rejects_the_wrong_sign(name):
    flow = make(name, 2, gain=1.0)
    with pytest.raises(AssertionError):
        check_mass(posterior([flow], 2), lambda x: negative(flow, x))


@pytest.mark.parametrize("name", NAMES)
def test_density_with_the_sample_is_the_density_of_the_sample(name):
    q = posterior([make(name, gain=1.0), make(name)], 3)
    z, log_q = sample_with_log_prob(q, jax.random.key(4))
    np.testing.assert_array_equal(z, sample(q, jax.random.key(4)))
    if name == "planar":
        assert not can_score(q)
        with refused("distribution", "Planar", "no inverse", "sample_with_log_prob"):
            log_prob(q, z)
    else:
        assert can_score(q)
        np.testing.assert_allclose(log_q, log_prob(q, z), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_finite_at_parameters_of_200(name):
    for sign in (200.0, -200.0):
        flow = jax.tree.map(lambda leaf, sign=sign: jnp.full_like(leaf, sign), make(name))

        def value(flow, x):
            y, log_det = flow.forward(x)
            return jnp.sum(y) + log_det

        for x in (jnp.array([0.5, -1.0, 3.0]), jnp.zeros(3)):
            result, gradient = jax.value_and_grad(value, argnums=(0, 1))(flow, x)
            for leaf in jax.tree.leaves((result, gradient)):
                assert np.all(np.isfinite(leaf)), (sign, leaf)


def test_planar_flow_is_finite_at_zero_and_stays_one_to_one_far_out():
    zero = jnp.zeros(2)
    gradient = jax.grad(lambda w: Planar(w, jnp.ones(2), jnp.ones(())).forward(zero)[0].sum())(zero)
    assert np.all(np.isfinite(gradient))
    for push in (-1.0, -50.0, -1e4):
        flow = Planar(jnp.array([1.0, 0.0]), jnp.array([push, 0.0]), jnp.zeros(()))
        line = jnp.linspace(-3, 3, 101)
        y, log_det = jax.vmap(lambda a, flow=flow: flow.forward(jnp.stack([a, 0 * a])))(line)
        assert np.all(np.diff(y[:, 0]) > 0)
        assert np.all(np.isfinite(log_det))


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(NAMES, "planar", "iaf", "spline odd"))
def test_flows_are_pytrees_and_map_over_leading_axes(name):
    flow = make(name)
    xs = jnp.asarray(points(3, 6), jnp.float32).reshape(2, 3, 3)
    y, log_det = jax.jit(lambda flow, xs: flow.call_with_intermediates(xs))(flow, xs)
    assert y.shape == (2, 3, 3)
    assert log_det.shape == (2, 3)
    np.testing.assert_allclose(y[1, 2], flow.forward(xs[1, 2])[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(flow.log_abs_det_jacobian(xs, y, log_det), log_det)
    stopped = jax.lax.stop_gradient(flow)
    np.testing.assert_array_equal(stopped(xs), flow(xs))
