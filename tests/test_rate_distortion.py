"""The curve of rate and distortion over beta: linear models on the frontier, which is known."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae.reports import figures
from jaxvae.testing import LinearGaussian
from tests.support.refusals import refused

EIGENVALUES, SCALE = np.array([4.0, 2.0, 0.5]), 0.5
BETAS = (0.5, 1.0, 3.0, 6.0, 12.0)


def frontier(beta):
    """Rate and distortion of the least `D + beta R`, by reverse water-filling, nats.

    Of x ~ N(0, diag(l)) under noise s^2 each component keeps the mean squared error min(l, beta s^2).
    """
    error = np.minimum(EIGENVALUES, beta * SCALE**2)
    rate = 0.5 * np.sum(np.log(EIGENVALUES / error))
    noise = 0.5 * len(EIGENVALUES) * np.log(2 * np.pi * SCALE**2)
    return rate, noise + np.sum(error) / (2 * SCALE**2)


def best_model(beta, *, off=0.0):
    """The linear VAE there: q(z|x) = N(a x, v), x = w z with a^2 l + v = 1, v = error / l, w = a l."""
    v = np.minimum(1, beta * SCALE**2 / EIGENVALUES)
    a = np.sqrt((1 - v) / EIGENVALUES)
    arrays = {
        "encoder": {"weight": np.diag(a), "bias": np.zeros(3), "log_scale": np.log(v) / 2},
        "decoder": {
            "weight": np.diag(a * EIGENVALUES) + off,
            "bias": np.zeros(3),
            "log_scale": np.log(SCALE),
        },
    }
    parameters = jax.tree.map(lambda value: nnx.Param(jnp.asarray(value, jnp.float32)), arrays)
    return LinearGaussian(**{name: nnx.Dict(part) for name, part in parameters.items()})


@cache
def examples():
    """Examples whose mean is 0 and whose covariance is diag(l) to rounding."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 3))
    rows -= rows.mean(axis=0)
    u, _, v = np.linalg.svd(rows, full_matrices=False)
    return np.float32(u @ v * np.sqrt(600 * EIGENVALUES))


def curve(models=None, **options):
    models = [(beta, best_model(beta)) for beta in BETAS] if models is None else models
    return jv.evaluation.rate_distortion_curve(
        jax.random.key(0), models, examples(), num_samples=100, batch_size=600, **options
    )


@cache
def on_frontier():
    return curve()


def check_frontier(points):
    """The rate to rounding, the distortion within the error of 600 x 100 samples of z."""
    exact = np.array([frontier(beta) for beta in points.beta])
    np.testing.assert_allclose(points.rate, exact[:, 0], atol=1e-4)
    np.testing.assert_allclose(points.distortion, exact[:, 1], atol=0.05)
    np.testing.assert_allclose(points.elbo, -(points.rate + points.distortion))
    low, high = -points.beta[1:], -points.beta[:-1]
    assert np.all((low - 0.05 < points.slope) & (points.slope < high + 0.05)), points.slope
    assert points.monotone
    assert points.convex
    assert not points.faults()


def test_the_oracle_has_the_slope_of_minus_beta():
    for beta in BETAS[:-1]:
        near = np.array([frontier(beta * (1 + h)) for h in (-1e-4, 1e-4)])
        (rate, distortion) = np.diff(near, axis=0)[0]
        np.testing.assert_allclose(distortion / rate, -beta, rtol=1e-6)


def test_the_frontier_is_found():
    check_frontier(on_frontier())
    assert np.argmax(on_frontier().elbo) == BETAS.index(
        1.0
    )  # at beta = 1 the bound is the objective


def test_the_order_of_the_models_does_not_matter():
    turned = curve([(beta, best_model(beta)) for beta in BETAS[::-1]])
    for got, expected in zip(turned, on_frontier(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_rates_of_samples_are_those_in_closed_form():
    sampled = curve(kl="monte_carlo")
    np.testing.assert_allclose(sampled.rate, on_frontier().rate, atol=0.05)
    assert not np.array_equal(sampled.rate, on_frontier().rate)


def test_a_model_that_is_not_trained_to_the_end_is_named():
    """The model of beta 3 with its decoder off: that of beta 1 does better, by what is known."""
    models = [(beta, best_model(beta, off=0.5 * (beta == 3.0))) for beta in BETAS]
    points = curve(models)
    (fault,) = points.faults()
    assert fault.startswith("beta 3: the model of beta")
    assert fault in str(points)
    costs = [frontier(beta)[1] + 3 * frontier(beta)[0] for beta in BETAS]
    behind = points.distortion[2] + 3 * points.rate[2] - min(np.delete(costs, 2))
    np.testing.assert_allclose(points.regret[2], behind, atol=0.05)
    with pytest.raises(AssertionError):
        check_frontier(points)


def test_betas_exchanged_are_named():
    mixed = [(0.5, best_model(6.0)), (6.0, best_model(0.5)), (3.0, best_model(3.0))]
    points = curve(mixed)
    assert not points.monotone
    assert not points.convex
    assert len(points.faults()) == 2


def test_a_shape_that_is_not_convex_is_seen():
    points = on_frontier()
    dented = points._replace(distortion=points.distortion + np.array([0, 0, 3.0, 0, 0]))
    assert not dented.convex


def test_regrets_are_paired():
    """The error is that of a difference on the same examples, below that of independent ones."""
    points = curve([(1.0, best_model(1.0, off=0.1)), (1.01, best_model(1.01))])
    assert points.best[0] == 1
    assert points.regret_error[0] < 0.5 * np.hypot(*points.distortion_error)
    assert points.beaten.tolist() == [True, False]


def test_the_figure_holds_the_points():
    points = on_frontier()
    axes = figures.rate_distortion_frontier(points).axes[0]
    drawn = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(drawn.get_xdata(), points.rate)
    np.testing.assert_allclose(drawn.get_ydata(), points.distortion)
    labels = [text.get_text() for text in axes.texts]
    assert [f"{beta:g}" for beta in BETAS] == [t for t in labels if not t.startswith("ELBO")]


MODEL = best_model(1.0)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], ("models", "two pairs")),
        ([(1.0, MODEL)], ("models", "[1.0]")),
        ([(1.0, MODEL), (1.0, MODEL)], ("models", "different")),
        ([(-1.0, MODEL), (1.0, MODEL)], ("models", "-1.0")),
        ([(float("nan"), MODEL), (1.0, MODEL)], ("models", "nan")),
    ],
)
def test_betas_are_checked(models, words):
    with refused(*words):
        curve(models)


def test_options_are_checked():
    models = [(1.0, MODEL), (2.0, MODEL)]
    with refused("kl", "'exact'"):
        curve(models, kl="exact")
    with refused("num_samples"):
        jv.evaluation.rate_distortion_curve(jax.random.key(0), models, examples(), num_samples=0)
    with refused("key"):
        jv.evaluation.rate_distortion_curve(0, models, examples())
