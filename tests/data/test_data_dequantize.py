"""Dequantisation: uniform in each cell, never on its edge; and grey levels as categories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import stats

from jaxvae.data import describe, load
from jaxvae.data.dataset import spread
from tests.support.refusals import refusal

_DRAWS = 4000
_FALSE_ALARM = 1e-6


def _uniform_in_cells(x, stored, levels):
    """Kolmogorov and Smirnov's test of `levels * x - stored` in [0, 1); all draws pooled."""
    place = np.asarray(x, np.float64) * levels - stored
    inside = bool(((place > 0) & (place < 1)).all())
    return inside and stats.kstest(place.ravel(), "uniform").pvalue > _FALSE_ALARM


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    x = np.random.default_rng(0).integers(0, 256, (30, 4)).astype(np.uint8)
    x[:2] = [[0, 255, 0, 255], [1, 254, 127, 128]]
    path = tmp_path_factory.mktemp("grey") / "a.npy"
    np.save(path, x)
    return path


def _draw(data, row, seed=0):
    keys = jax.random.split(jax.random.key(seed), _DRAWS)
    return np.asarray(jax.jit(jax.vmap(data.observe, (0, None)))(keys, row))


def test_each_level_is_spread_evenly_over_its_cell(grey):
    data = load(grey, dequantize=True)
    row = np.array([0, 255, 127, 200], np.uint8)
    x = _draw(data, row)
    assert x.dtype == np.float32
    assert _uniform_in_cells(x, row, 256)
    # Broken twins: the scale of grey levels, no draw at all, a draw for all examples, a triangle.
    assert not _uniform_in_cells(x * np.float32(256 / 255), row, 256)
    assert not _uniform_in_cells(np.tile(row / 256, (_DRAWS, 1)), row, 256)
    assert not _uniform_in_cells(np.tile(x[:1], (_DRAWS, 1)), row, 256)
    assert not _uniform_in_cells((x + _draw(data, row, 1)) / 2, row, 256)
    # Anew at every use, and values of one example apart from each other.
    assert abs(np.corrcoef(x.T) - np.eye(4)).max() < 6 / np.sqrt(_DRAWS)


def test_no_draw_reaches_an_edge_of_its_cell():
    stored = np.array([0, 1, 127, 128, 255], np.float32)
    keys = jax.random.split(jax.random.key(0), 100_000)
    drawn = np.asarray(jax.vmap(lambda key: spread(key, stored))(keys))
    assert bool((drawn > stored).all() & (drawn < stored + 1).all())
    assert bool((drawn / 256 < 1).all())
    # The broken twin: a float32 draw from [0, 1) is rounded up to the next level.
    u = jax.random.uniform(jax.random.key(0), (3_000_000,))
    assert bool((255 + u == 256).any())


def test_what_is_known_of_dequantised_data(grey):
    data = load(grey, dequantize=True)
    assert data.support_name == "open_unit_interval"
    assert bool(data.support(jnp.asarray(_draw(data, data.splits["train"]["x"][0]))).all())
    assert data.record()["dequantize"] is True
    assert "spread over its cell" in describe(data)
    assert "dequantize=True" in repr(data)
    assert load(grey).record()["dequantize"] is False
    assert data.fingerprint == load(grey).fingerprint
    with refusal(match=r"key: expected"):
        data.observe(None, data.splits["train"]["x"][0])


def test_other_numbers_of_levels():
    data = load("digits", dequantize=True)
    row = data.splits["train"]["x"][3]
    assert _uniform_in_cells(_draw(data, row), row, 17)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.eye(20), {}, ("boolean",)),
        (np.eye(20) * 0.5, {}, ("unit_interval", "float32")),
        (np.eye(20) * 7, {}, ("real",)),
        (np.eye(20, dtype=np.int32) * 7, {}, ("nonnegative_integer",)),
        (np.eye(20, dtype=np.uint8) * 7, {"binarize": "dynamic"}, ("binarize='dynamic'", "one of")),
        (np.eye(20, dtype=np.uint8) * 7, {"binarize": "threshold"}, ("binarize='threshold'",)),
    ],
)
def test_what_cannot_be_dequantised(tmp_path, refused, x, options, words):
    np.save(tmp_path / "a.npy", x)
    refused(tmp_path / "a.npy", "dequantize", *words, dequantize=True, **options)


def test_levels_as_categories(grey):
    data = load(grey)
    classes = data.as_categories()
    assert (classes.num_categories, classes.scale, classes.support_name) == (256, 1, "category")
    assert isinstance(classes.support, type(constraints.integer_interval(0, 255)))
    assert (classes.support.lower_bound, classes.support.upper_bound) == (0, 255)
    row = data.splits["train"]["x"][0]
    np.testing.assert_array_equal(classes.observe(None, row), row.astype(np.float32))
    assert classes.splits is data.splits
    assert classes.record()["num_categories"] == 256
    assert classes.as_categories().num_categories == 256
    assert load("digits", binarize="threshold").as_categories().num_categories == 2


def test_counts_as_categories_say_how_many(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(60, dtype=np.int64).reshape(20, 3))
    data = load(tmp_path / "a.npy")
    assert data.as_categories(60).num_categories == 60
    for num_categories in (None, 59, 60.0):
        with refusal(match="num_categories: expected an integer above 59"):
            data.as_categories(num_categories)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"binarize": "dynamic"}, "drawn at every use"), ({"dequantize": True}, "dequantised")],
)
def test_what_are_no_categories(options, words):
    with refusal(match=words) as caught:
        load("digits", **options).as_categories()
    assert "\n" not in str(caught.value)


def test_reals_are_no_categories(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((20, 3)))
    with refusal(match="float32"):
        load(tmp_path / "a.npy").as_categories()
