"""Every density that the library uses, against one contract: mass 1, samples, extremes, float64."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import integrate, special, stats

from jaxvae.distributions import log_prob, sample_with_log_prob
from jaxvae.models.likelihoods import make_likelihood
from jaxvae.models.posteriors import make_posterior
from tests.support.slow import slow_but
from tests.support.statistics import assert_mean

SIZE = 2


def posterior(name, size=SIZE):
    more = {"num_categories": 3} if name == "categorical" else {}
    return make_posterior(name, size, **more, rngs=nnx.Rngs(jax.random.key(0)))


class Density(NamedTuple):
    """A family, the parameters to test it at, a float64 reference, and its support if finite."""

    family: Any
    parameters: np.ndarray
    reference: Callable[[np.ndarray, np.ndarray], float] | None = None
    support: np.ndarray | None = None


def variance(raw):
    return np.logaddexp(0, raw) + 1e-8


def log_bits(logits, z):
    return -np.logaddexp(0, -(2 * z - 1) * logits).sum()


def log_normal(a, z):
    return stats.norm.logpdf(z, a[:2], np.sqrt(variance(a[2:]))).sum()


def log_laplace(a, z):
    return stats.laplace.logpdf(z, a[:2], np.sqrt(variance(a[2:]))).sum()


def log_full(a, z):
    tril = np.diag(np.sqrt(variance(a[2:4])))
    tril[1, 0] = a[4]
    return stats.multivariate_normal(a[:2], tril @ tril.T).logpdf(z)


def log_classes(a, z):
    return np.sum(z * special.log_softmax(a.reshape(2, 3), axis=-1).ravel())


BITS = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
ONE_HOT = np.array([np.concatenate(pair) for pair in itertools.product(np.eye(3), repeat=2)])


def densities():
    a = np.float64(np.float32(np.random.default_rng(0).normal(size=64)))
    flows = {
        name: Density(posterior(name), a[: posterior(name).num_outputs])
        for name in ("planar", "iaf", "spline")
    }
    unit = lambda a, z: stats.norm.logpdf(z, a, 1.0).sum()  # noqa: E731
    return flows | {
        "likelihood bernoulli": Density(
            lambda a: make_likelihood("bernoulli")(a[None]), a[:2], log_bits, BITS
        ),
        "likelihood gaussian": Density(lambda a: make_likelihood("gaussian")(a[None]), a[:2], unit),
        "diagonal": Density(posterior("diagonal"), a[:4], log_normal),
        "full_covariance": Density(posterior("full_covariance"), a[:5], log_full),
        "laplace": Density(posterior("laplace"), a[:4], log_laplace),
        "bernoulli": Density(posterior("bernoulli"), a[:2], log_bits, BITS),
        "categorical": Density(posterior("categorical"), a[:6], log_classes, ONE_HOT),
    }


DENSITIES = densities()
ALL = pytest.mark.parametrize("name", DENSITIES)
SCORED = [
    pytest.param(name, marks=pytest.mark.slow) if name == "spline" else name
    for name in DENSITIES
    if name != "planar"
]
TWINS = [name for name in DENSITIES if name not in ("planar", "spline")]
"""A grid of inverse splines takes most of a minute, three of them for a twin."""
REFERENCED = [name for name, density in DENSITIES.items() if density.reference]


def q_of(density):
    return density.family(jnp.float32(density.parameters))


def grid(count=601, half=9.0):
    axis = np.linspace(-half, half, count)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2), axis[1] - axis[0]


def masses(density, score):
    """Points and their probabilities, by enumeration or the trapezoid rule on a square."""
    points, step = (density.support, 1.0) if density.support is not None else grid()
    log_p = jax.jit(jax.vmap(lambda z: score(q_of(density), z)))(jnp.float32(points))
    return points, np.exp(np.float64(log_p)) * step**2


def moments(z):
    return np.concatenate([z, z**2, z[..., :1] * z[..., 1:2], np.abs(z - 0.3)], axis=-1)


def check_mass_and_samples(density, score, count=4000):
    """Mass within 1e-3 of 1; means of samples those of the density; false alarm 1e-6."""
    points, mass = masses(density, score)
    np.testing.assert_allclose(mass.sum(), 1, atol=1e-3)
    keys = jax.random.split(jax.random.key(0), count)
    z = jax.vmap(lambda key: sample_with_log_prob(q_of(density), key)[0])(keys)
    assert_mean(moments(np.float64(z)), mass @ moments(points), rounding=2e-3)


@pytest.mark.parametrize("name", SCORED)
def test_mass_is_one_and_samples_follow_the_density(name):
    check_mass_and_samples(DENSITIES[name], log_prob)


@pytest.mark.parametrize("name", TWINS)
def test_check_of_mass_rejects(name):
    twins = (
        lambda q, z: log_prob(q, z) / 2,
        lambda q, z: log_prob(q, z) + 0.01,
        lambda q, z: log_prob(q, z[::-1]),
    )
    for twin in twins:
        with pytest.raises(AssertionError):
            check_mass_and_samples(DENSITIES[name], twin)


def check_planar_in_one_dimension(log_density):
    """`integral of q(z) dz` over the images of a line, whose spacing knows no log-determinant."""
    family = posterior("planar", 1)
    q = family(jnp.linspace(-1, 1, family.num_outputs))
    xs = jnp.linspace(-12.0, 12.0, 8001)[:, None]
    z, log_q = jax.jit(jax.vmap(lambda x: log_density(q, x)))(xs)
    mass = integrate.trapezoid(np.exp(np.float64(log_q)), np.float64(z)[:, 0])
    np.testing.assert_allclose(mass, 1, atol=1e-4)


def along_planar(q, x, sign=1.0):
    log_q = q.base_dist.log_prob(x)
    for flow in q.transforms:
        x, log_det = flow.forward(x)
        log_q = log_q - sign * log_det
    return x, log_q


def test_planar_mass_is_one():
    check_planar_in_one_dimension(along_planar)
    with pytest.raises(AssertionError):
        check_planar_in_one_dimension(lambda q, x: along_planar(q, x, sign=-1.0))
    # What was integrated is what comes with a sample.
    q = q_of(DENSITIES["planar"])
    x = q.base_dist.sample(jax.random.key(3))
    z, log_q = sample_with_log_prob(q, jax.random.key(3))
    expected = along_planar(q, x)
    np.testing.assert_allclose(z, expected[0], rtol=1e-6)
    np.testing.assert_allclose(log_q, expected[1], rtol=1e-5)


def check_reference(density, score, rtol=5e-6):
    """float32 within 5e-6 (relative, and absolute below 1) of float64, at 50 points."""
    rng = np.random.default_rng(1)
    points = density.support
    points = np.float64(np.float32(3 * rng.normal(size=(50, 2)))) if points is None else points
    got = jax.vmap(lambda z: score(q_of(density), z))(jnp.float32(points))
    exact = [density.reference(density.parameters, z) for z in points]
    np.testing.assert_allclose(got, exact, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", REFERENCED)
def test_float32_is_close_to_float64(name):
    check_reference(DENSITIES[name], log_prob)


@pytest.mark.parametrize("name", REFERENCED)
def test_check_of_reference_rejects_rounding_to_half(name):
    def rounded(q, z):
        q = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), q)
        return log_prob(q, z)

    with pytest.raises(AssertionError):
        check_reference(DENSITIES[name], rounded)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iaf", "spline"])
def test_flows_in_float32_are_close_to_float64(name):
    density = DENSITIES[name]
    points = 2 * np.random.default_rng(2).normal(size=(50, 2))
    got = jax.vmap(lambda z: log_prob(q_of(density), z))(jnp.float32(points))
    with jax.enable_x64(True):
        family = jax.tree.map(lambda a: jnp.asarray(np.float64(a)), density.family)
        q = family(jnp.asarray(density.parameters))
        exact = jax.vmap(lambda z: log_prob(q, z))(jnp.asarray(np.float64(np.float32(points))))
        assert exact.dtype == jnp.float64
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def check_extremes(density, score):
    """Value and gradient finite with every parameter at +200 or -200, at each kind of point."""
    size = density.parameters.size
    inside = [[0.0, 1.0], [1.0, 1.0]] if density.support is None else density.support
    for parameters in (200.0, -200.0, 200.0 * (-1.0) ** np.arange(size)):
        a = jnp.broadcast_to(jnp.float32(parameters), (size,))
        for z in np.float32(inside):
            value = jax.value_and_grad(lambda a, z=z: score(density.family(a), jnp.asarray(z)))(a)
            assert all(np.all(np.isfinite(leaf)) for leaf in value), (parameters, z, value)


def own_sample(q, z):
    del z
    return sample_with_log_prob(q, jax.random.key(0))[1]


@pytest.mark.parametrize("name", slow_but(DENSITIES, "diagonal", "laplace", "categorical"))
def test_value_and_gradient_are_finite_at_200(name):
    density = DENSITIES[name]
    check_extremes(density, own_sample if name in ("planar", "iaf", "spline") else log_prob)
    check_extremes(density, own_sample)


@ALL
def test_check_of_extremes_rejects_exponentials(name):
    def twin(q, z):
        log_q = own_sample(q, z)
        leaves = [jnp.sum(leaf) for leaf in jax.tree.leaves(q)]
        return log_q + jnp.log(jnp.sum(jnp.exp(jnp.stack(leaves) * jnp.float32(1e3))))

    with pytest.raises(AssertionError):
        check_extremes(DENSITIES[name], twin)


def test_every_named_density_is_checked():
    from typing import get_args

    from jaxvae.models.likelihoods import LikelihoodName as Likelihood
    from jaxvae.models.posteriors import PosteriorName

    names = {f"likelihood {name}" for name in get_args(Likelihood)} | {*get_args(PosteriorName)}
    assert names >= set(DENSITIES)
    assert {*get_args(PosteriorName)} <= set(DENSITIES)
    assert isinstance(q_of(DENSITIES["planar"]), dist.TransformedDistribution)
