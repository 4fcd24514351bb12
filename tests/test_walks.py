"""Walks and latent arithmetic against closed forms of linear decoders; their figure."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxvae as jv
from jaxvae.evaluation import analogy, interpolate, likelihood_means
from jaxvae.evaluation.walks import path
from jaxvae.reports import figures
from tests.support import oracles
from tests.support.refusals import refused

RNG = np.random.default_rng(0)
MODEL = oracles.linear_gaussian(2, event_size=4, latent_dim=3)
X_A, X_B = (oracles.draw_x(MODEL, seed, 5) for seed in (0, 1))


def means_of(xs):
    """E[z|x] of the linear encoder, float64."""
    p = oracles.parameters(MODEL)
    return np.float64(xs) @ p.encoder.T + p.offset


def decoded(zs):
    """E[x|z] of the linear decoder, float64."""
    p = oracles.parameters(MODEL)
    return zs @ p.weight.T + p.bias


def check_line(walk):
    """The decoder is linear, so a line of latents shows a line, with both reconstructions its ends."""
    found = walk(MODEL, X_A, X_B, num=5)
    a, b = decoded(means_of(X_A)), decoded(means_of(X_B))
    for i in range(5):
        np.testing.assert_allclose(found[:, i], a + i / 4 * (b - a), atol=1e-5)


def test_a_line_of_latents_is_decoded():
    check_line(interpolate)
    assert interpolate(MODEL, X_A, X_B).shape == (5, 8, 4)


def without_the_end(model, x_a, x_b, *, num):
    return interpolate(model, x_a, x_b, num=num + 1)[:, :-1]


def in_data_space(model, x_a, x_b, *, num):
    t = np.linspace(0, 1, num)[:, None]
    return (1 - t) * x_a[:, None] + t * x_b[:, None]


def backwards(model, x_a, x_b, *, num):
    return interpolate(model, x_b, x_a, num=num)


@pytest.mark.parametrize("twin", [without_the_end, in_data_space, backwards])
def test_check_of_lines_rejects(twin):
    with pytest.raises(AssertionError):
        check_line(twin)


def check_arc(walk):
    """Between latents of one norm: that norm, equal angles, in their plane; else the ends at least."""
    a, b = RNG.normal(size=(2, 6, 5))
    b *= np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1, keepdims=True)
    zs = np.float64(walk(a, b, num=9))
    norms = np.linalg.norm(zs, axis=2)
    np.testing.assert_allclose(norms, np.broadcast_to(norms[:, :1], norms.shape), rtol=1e-6)
    np.testing.assert_allclose(zs[:, [0, -1]], np.stack([a, b], 1), rtol=1e-6)
    units = zs / norms[:, :, None]
    cosines = np.sum(units[:, 1:] * units[:, :-1], axis=2)
    whole = np.sum(units[:, 0] * units[:, -1], axis=1)
    np.testing.assert_allclose(
        np.arccos(cosines) * 8, np.tile(np.arccos(whole)[:, None], 8), rtol=1e-3
    )
    longer = walk(a, 3 * b, num=3)
    np.testing.assert_allclose(longer[:, [0, -1]], np.stack([a, 3 * b], 1), rtol=1e-6)


def arc(a, b, *, num):
    return path(a, b, num=num, kind="spherical")


def line_on_the_sphere(a, b, *, num):
    """The right norms, at unequal angles."""
    zs = path(a, b, num=num)
    return zs / np.linalg.norm(zs, axis=2, keepdims=True) * np.linalg.norm(a, axis=1)[:, None, None]


def not_divided(a, b, *, num):
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return arc(a, b, num=num) * np.sin(np.arccos(cosine))[:, None, None]


def test_an_arc_keeps_the_norm():
    check_arc(arc)
    for twin in (path, line_on_the_sphere, not_divided):
        with pytest.raises(AssertionError):
            check_arc(twin)


@pytest.mark.parametrize("b", [[[2.0, 0.0]], [[1.0, 1e-9]], [[-1.0, 0.0]], [[0.0, 0.0]]])
def test_where_no_angle_tells_the_way_an_arc_is_the_line(b):
    a = np.array([[1.0, 0.0]])
    np.testing.assert_allclose(arc(a, np.array(b), num=4), path(a, np.array(b), num=4), atol=1e-6)


def test_arcs_are_decoded():
    found = interpolate(MODEL, X_A, X_B, num=4, kind="spherical")
    zs = arc(means_of(X_A), means_of(X_B), num=4)
    np.testing.assert_allclose(found, decoded(np.float64(zs)), atol=1e-5)
    assert np.abs(found - interpolate(MODEL, X_A, X_B, num=4)).max() > 1e-3


def check_analogy(function):
    """Every c moves by the difference of the mean latents of b and a."""
    c = oracles.draw_x(MODEL, 5, 5)
    z = means_of(c) + means_of(X_B).mean(0) - means_of(X_A).mean(0)
    np.testing.assert_allclose(function(MODEL, X_A, X_B, c), decoded(z), atol=1e-5)


def of_the_first(model, a, b, c):
    """The direction of one pair in the place of that of the groups."""
    return analogy(model, a[[0] * 5], b[[0] * 5], c)


def test_analogy():
    check_analogy(analogy)
    # What a is to b, a is to b.
    one, other = X_A[:1], X_B[:1]
    found = analogy(MODEL, one, other, one)
    np.testing.assert_allclose(found, decoded(means_of(other)), atol=1e-5)
    for twin in (
        of_the_first,
        lambda model, a, b, c: analogy(model, b, a, c),
        lambda model, a, b, c: analogy(model, a, b, b),
    ):
        with pytest.raises(AssertionError):
            check_analogy(twin)


def test_classes_are_shown_by_the_most_probable_one():
    model = jv.models.sequence_vae(
        jax.random.key(0), (7,), num_symbols=4, latent_dim=2, hidden=(5,)
    )
    assert jv.evaluation.how_shown(model) == "mode"
    zs = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    each = [np.argmax(model.likelihood(z).base_dist.logits, -1) for z in zs]
    np.testing.assert_array_equal(likelihood_means(model, zs), each)
    symbols = RNG.integers(0, 4, (2, 3, 7)).astype(np.float32)
    assert set(np.unique(interpolate(model, *symbols, num=3))) <= {0, 1, 2, 3}


def test_latents_are_decoded_whatever_the_batch_size():
    zs = RNG.normal(size=(7, 3)).astype(np.float32)
    for batch_size in (1, 3, 500):
        found = likelihood_means(MODEL, zs, batch_size=batch_size)
        np.testing.assert_allclose(found, decoded(np.float64(zs)), atol=1e-5)


class Flowing:
    """A posterior whose mean has no closed form here."""

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def posterior(self, x):
        shift = dist.transforms.AffineTransform(0.0, 1.0)
        return dist.TransformedDistribution(dist.Normal(x[:2], 0.1).to_event(1), [shift])

    def likelihood(self, z):
        return dist.Normal(jnp.concatenate([z, z]), 1.0).to_event(1)


def test_means_may_be_estimated():
    model = Flowing()
    with refused("num_samples"):
        interpolate(model, X_A, X_B)
    with refused("key", "num_samples=400"):
        interpolate(model, X_A, X_B, num_samples=400)
    found = interpolate(model, X_A, X_B, num=2, num_samples=400, key=jax.random.key(0))
    # The mean of 400 draws of sd 0.1: errors of 0.005, of which 40 lie within 5 sd.
    np.testing.assert_allclose(found[:, 0, :2], X_A[:, :2], atol=0.025)


def test_bad_input():
    with refused("x_b", "5 examples", "got 2"):
        interpolate(MODEL, X_A, X_B[:2])
    with refused("num", "at least 2", "got 1"):
        interpolate(MODEL, X_A, X_B, num=1)
    with refused("num", "2.5"):
        interpolate(MODEL, X_A, X_B, num=2.5)
    with refused("kind", '"spherical"', "'round'"):
        interpolate(MODEL, X_A, X_B, kind="round")
    bits = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,), posterior="bernoulli")
    with refused("model", "not discrete"):
        analogy(bits, X_A, X_B, X_A)
    labelled = jv.models.conditional_vae(
        jax.random.key(0), (4,), num_classes=3, latent_dim=2, hidden=(3,)
    )
    with refused("model", "model.given(y)"):
        interpolate(labelled, X_A, X_B)
    assert interpolate(labelled.given(1), X_A, X_B, num=2).shape == (5, 2, 4)


# The figure.


def image_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_the_figure_is_the_walk_between_its_examples():
    model = jv.models.vae(jax.random.key(0), (5, 4), latent_dim=2, hidden=(8,))
    a, b = RNG.integers(0, 2, (2, 3, 5, 4)).astype(np.float32)
    figure = figures.interpolations(model, a, b, num=4)
    drawn, walks = image_of(figure), interpolate(model, a, b, num=4)
    for row in range(3):
        tiles = [a[row], *walks[row], b[row]]
        for column, tile in enumerate(tiles):
            found = drawn[6 * row : 6 * row + 5, 5 * column : 5 * column + 4]
            np.testing.assert_allclose(found, tile, atol=1e-6)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["x_a", "0", "0.33", "0.67", "1", "x_b"]


def test_the_figure_of_vectors_is_lines():
    figure = figures.interpolations(MODEL, X_A, X_B, num=3, kind="spherical")
    panels = [axes for axes in figure.axes if axes.lines]
    walks = interpolate(MODEL, X_A, X_B, num=3, kind="spherical")
    assert len(panels) == 5
    for axes, walk in zip(panels, walks, strict=True):
        for line, means in zip(axes.lines, walk, strict=True):
            np.testing.assert_allclose(line.get_ydata(), means, atol=1e-6)
