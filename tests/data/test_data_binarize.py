"""Binarisation: what each way draws, and when it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import stats

from jaxvae.data import load
from jaxvae.data.binarize import _CHUNK
from jaxvae.data.dataset import bernoulli
from tests.support.refusals import refusal

_DRAWS = 4000
_FALSE_ALARM = 1e-6


def _frequencies_agree(bits, probabilities):
    """Pearson's chi-square over pixels that are neither 0 nor 1; refuses with _FALSE_ALARM."""
    inside = (probabilities > 0) & (probabilities < 1)
    p, mean = probabilities[inside], bits.mean(0)[inside]
    statistic = (len(bits) * (mean - p) ** 2 / (p * (1 - p))).sum()
    sure = (bits.mean(0) == probabilities)[~inside].all()
    return bool(sure) and stats.chi2.sf(statistic, inside.sum()) > _FALSE_ALARM


@pytest.fixture(scope="module")
def digits():
    return load("digits", binarize="dynamic")


def test_dynamic_frequencies_are_the_pixels(digits):
    x = digits.splits["train"]["x"][3]
    keys, other_keys = jax.random.split(jax.random.key(0), (2, _DRAWS))
    bits = np.asarray(jax.jit(jax.vmap(digits.observe, (0, None)))(keys, x))
    assert bits.dtype == np.float32
    assert np.unique(bits).tolist() == [0, 1]
    assert _frequencies_agree(bits, x / 16)
    # Broken twins: a scale that is a little off, a threshold, one draw for all.
    wrong_scale = jax.vmap(lambda key: bernoulli(key, jnp.asarray(x / 17, jnp.float32)))(other_keys)
    assert not _frequencies_agree(np.asarray(wrong_scale), x / 16)
    assert not _frequencies_agree(np.tile(x > 8, (_DRAWS, 1, 1)), x / 16)
    assert not _frequencies_agree(np.tile(bits[:1], (_DRAWS, 1, 1)), x / 16)


def test_dynamic_is_exactly_uniform_below_x(digits):
    x = digits.splits["train"]["x"][3]
    expected = jax.random.uniform(jax.random.key(4), (8, 8)) < jnp.asarray(x / 16, jnp.float32)
    np.testing.assert_array_equal(digits.observe(jax.random.key(4), x), expected)
    assert digits.support is constraints.boolean
    assert digits.scale == 16


@pytest.mark.parametrize("key", [None, 0, jax.random.PRNGKey(0)])
def test_dynamic_needs_a_typed_key(digits, key):
    with refusal("key: expected"):
        digits.observe(key, digits.splits["train"]["x"][0])


def test_threshold_is_exact():
    grey, bits = load("digits"), load("digits", binarize="threshold")
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(bits.splits[split]["x"], grey.splits[split]["x"] > 8)
    assert bits.splits["train"]["x"].dtype == np.uint8
    assert bits.support is constraints.boolean
    assert bits.scale == 1


def test_static_frequencies_are_the_pixels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (1, 5, 5)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=np.tile(x, (_DRAWS, 1, 1)), x_test=x)
    data = load(tmp_path / "a.npz", binarize="static", key=jax.random.key(1), valid_size=0)
    assert _frequencies_agree(data.splits["train"]["x"], x[0] / 255)
    assert not _frequencies_agree(data.splits["train"]["x"], x[0] / 200)


@pytest.fixture
def numbered(tmp_path):
    """Grey images, their row numbers as labels; more of them than are drawn at once."""
    rng, count = np.random.default_rng(0), _CHUNK + 100
    x = rng.integers(0, 256, (count, 2, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(count), x_test=x[:7])
    np.savez(tmp_path / "shorter.npz", x_train=x[:5], x_test=x)
    return tmp_path, x


def _by_row(data):
    held = [data.splits[split] for split in ("train", "valid") if split in data.splits]
    x = np.concatenate([arrays["x"] for arrays in held])
    return x[np.argsort(np.concatenate([arrays["label"] for arrays in held]))]


def test_static_bits_depend_on_key_split_and_row_only(numbered):
    folder, x = numbered
    key = jax.random.key(3)

    def static(name, key=key, valid_size=0):
        return load(folder / name, binarize="static", key=key, valid_size=valid_size)

    data = static("a.npz")
    np.testing.assert_array_equal(_by_row(data), _by_row(static("a.npz")))
    np.testing.assert_array_equal(_by_row(data), _by_row(static("a.npz", valid_size=999)))
    shorter = static("shorter.npz").splits["train"]["x"]
    np.testing.assert_array_equal(data.splits["train"]["x"][:5], shorter)
    other = _by_row(static("a.npz", key=jax.random.key(4)))
    assert 0.2 < (other != _by_row(data)).mean() < 0.5
    for split, number, row in (("train", 0, _CHUNK + 3), ("test", 2, 6)):
        folded = jax.random.fold_in(jax.random.fold_in(key, number), row)
        expected = jax.random.uniform(folded, (2, 3)) < x[row] / 255
        np.testing.assert_array_equal(data.splits[split]["x"][row], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"binarize": "stochastic"}, ("binarize", '"none", "dynamic", "static", "threshold"')),
        ({"binarize": None}, ("binarize", "got None")),
        ({"binarize": "static"}, ("key", "jax.random.key")),
        ({"binarize": "static", "key": 0}, ("key", "int")),
        ({"key": jax.random.key(0)}, ("key", "no effect", "'none'")),
        ({"binarize": "threshold", "key": jax.random.key(0)}, ("key", "no effect")),
        ({"binarize": "dynamic", "key": jax.random.key(0)}, ("key", "no effect", "observe")),
    ],
)
def test_options_refused(refused, options, words):
    refused("digits", *words, **options)


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.eye(20), "bits already"),
        (np.eye(20) - 0.5, "the data are real"),
        (np.eye(20, dtype=np.int32) * 7, "the data are nonnegative_integer"),
    ],
)
def test_what_is_no_grey_level(tmp_path, refused, binarize, x, words):
    np.save(tmp_path / "a.npy", x)
    key = jax.random.key(0) if binarize == "static" else None
    refused(tmp_path / "a.npy", "binarize", words, binarize=binarize, key=key)


def test_reals_in_the_unit_interval_can_be_binarised(tmp_path):
    np.save(tmp_path / "a.npy", np.full((20, 2), 0.75))
    data = load(tmp_path / "a.npy", binarize="threshold")
    assert data.splits["train"]["x"].all()
