"""Masks, weights and counts: how they are named, checked, stored, and follow their rows."""

import jax
import numpy as np
import pytest
from numpyro.distributions import constraints

from jaxvae.batching import unpack
from jaxvae.data import describe, load

_RNG = np.random.default_rng(0)
_X = _RNG.normal(size=(40, 3)).astype(np.float32)
_MASK = _RNG.random((40, 3)) < 0.7
_MASK[0] = [True, False, True]
_WEIGHT = np.linspace(0.5, 2, 40)
_HOLED = np.where(_MASK, _X, np.nan).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return tmp_path / "a.npz"

    return save


def _follows(data, x, mask, weight):
    """Whether every row of every split carries the mask and the weight that it had."""
    for arrays in data.splits.values():
        fields = (arrays[name] for name in ("x", "mask", "weight"))
        for row, row_mask, row_weight in zip(*fields, strict=True):
            home = np.flatnonzero((np.where(mask, x, 0) == row).all(axis=1))
            if len(home) != 1 or (mask[home[0]] != row_mask).any():
                return False
            if row_weight != np.float32(weight[home[0]]):
                return False
    return True


def test_fields_follow_their_rows_through_the_split(save):
    data = load(save(x=_HOLED, mask=_MASK, weight=_WEIGHT, y=np.arange(40) % 4))
    assert {f: a.dtype for f, a in data.splits["train"].items()} == {
        "x": np.float32,
        "label": np.int32,
        "mask": np.uint8,
        "weight": np.float32,
    }
    assert [len(a["weight"]) for a in data.splits.values()] == [32, 4, 4]
    assert _follows(data, _X, _MASK, _WEIGHT)
    # Broken twins: weights of other rows, a mask upside down.
    assert not _follows(data, _X, _MASK, np.roll(_WEIGHT, 1))
    assert not _follows(data, _X, ~_MASK, _WEIGHT)
    assert data.support is constraints.real
    assert f"{(~_MASK).sum()} of 120 values missing" in data.source
    assert "missing" in describe(data)
    assert "weight" in describe(data)


def test_a_split_with_fields_is_a_batch(save):
    data = load(save(x=_HOLED, mask=_MASK, weight=_WEIGHT))
    examples = unpack(dict(data.splits["train"]))
    assert examples.mask.shape == (32, 3)
    assert examples.weight.shape == (32,)


def test_what_lies_behind_the_mask_changes_nothing(save):
    kept = load(save(x=_HOLED, mask=_MASK)).fingerprint
    other = np.where(_MASK, _X, 1e30).astype(np.float32)
    assert load(save(x=other, mask=_MASK)).fingerprint == kept
    assert load(save(x=_X, mask=_MASK.astype(float))).fingerprint == kept
    assert load(save(x=_X, mask=np.ones_like(_MASK))).fingerprint != kept


@pytest.mark.parametrize(
    ("hidden", "support"),
    [(np.int32(-9), "nonnegative_integer"), (np.uint8(7), "boolean"), (np.nan, "unit_interval")],
)
def test_support_is_that_of_observed_values(save, hidden, support):
    x = {
        "boolean": _RNG.integers(0, 2, (40, 3)).astype(np.uint8),
        "unit_interval": _RNG.random((40, 3)),
        "nonnegative_integer": _RNG.integers(0, 9, (40, 3), dtype=np.int32),
    }[support]
    data = load(save(x=np.where(_MASK, x, hidden), mask=_MASK))
    assert data.support_name == support
    assert sum(int(a["x"][a["mask"] == 0].astype(bool).sum()) for a in data.splits.values()) == 0


def test_own_splits_have_fields_of_their_own(save):
    data = load(save(x_train=_HOLED, mask_train=_MASK, x_test=_X[:7], weight_test=np.ones(7)))
    assert set(data.splits["test"]) == {"x", "weight"}
    assert set(data.splits["train"]) == set(data.splits["valid"]) == {"x", "mask"}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mask": _MASK[:, :2]}, ("mask", "(40, 3)", "(40, 2)")),
        ({"mask": _MASK[:, 0]}, ("mask", "(40, 3)", "(40,)")),
        ({"mask": _MASK * 2.0}, ("mask", "1 where a value was observed", "0.0 to 2.0")),
        ({"mask": _MASK.astype("U5")}, ("mask", "<U5")),
        ({"mask": np.zeros((40, 3))}, ("mask", "zeros only")),
        (
            {"x": np.where(np.isin(_X, _X[5, 1]), np.nan, _X), "mask": _X > -9},
            ("index (5, 1)", "nan"),
        ),
        ({"x": _HOLED}, ("finite", "'mask'")),
        ({"weight": _WEIGHT[:39]}, ("weight", "40 examples", "(39,)")),
        ({"weight": _WEIGHT[:, None]}, ("weight", "(40, 1)")),
        ({"weight": _WEIGHT - 0.5}, ("weight", "positive", "0.0 to 1.5")),
        ({"weight": _WEIGHT * np.nan}, ("weight", "positive")),
        ({"weight": _WEIGHT * 1e300}, ("weight", "positive finite")),
        ({"weight": _WEIGHT > 1}, ("weight", "bool")),
        ({"mask_test": _MASK}, ("both forms",)),
        ({"masks": _MASK}, ("'masks'", "'mask'")),
    ],
)
def test_bad_fields(save, refused, arrays, words):
    path = save(**{"x": _X, **arrays})
    refused(path, str(path), *words)


_COUNTS = _RNG.integers(0, 5, (40, 6)).astype(np.uint8)
_COUNTS[:, [1, 4]] = 0
_COUNTS[[3, 30, 31]] = 0


def test_counts_are_counts_whatever_their_dtype(save):
    names = np.array(["a"] * 6)
    data = load(save(counts=_COUNTS, batch=np.arange(40) % 3, gene=names))
    assert data.support is constraints.nonnegative_integer
    assert (data.event_shape, data.num_classes, data.scale) == ((6,), 3, 1)
    assert "not used: gene" in data.source
    stored = np.concatenate([arrays["x"] for arrays in data.splits.values()])
    assert sorted(stored.sum(1)) == sorted(_COUNTS.sum(1))
    assert load(save(counts=_COUNTS.clip(0, 1))).support is constraints.nonnegative_integer


def test_empty_rows_and_columns_are_dropped_when_asked(save):
    path = save(counts=_COUNTS, y=np.arange(40), mask=np.ones((40, 6)))
    data = load(path, drop_empty=True)
    assert data.event_shape == (4,)
    assert "2 empty columns and 3 empty rows dropped" in data.source
    assert sum(len(arrays["x"]) for arrays in data.splits.values()) == 37
    for arrays in data.splits.values():
        np.testing.assert_array_equal(arrays["x"], _COUNTS[arrays["label"]][:, [0, 2, 3, 5]])
        assert arrays["mask"].shape == arrays["x"].shape
    assert load(path).event_shape == (6,)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"counts": _X}, {}, ("integer array", "float32", "astype")),
        ({"counts": _COUNTS.astype(float)}, {}, ("integer array", "float64", "astype")),
        ({"counts": _COUNTS.astype(int) - 1}, {}, ("from 0 up", "got -1")),
        ({"counts": _COUNTS, "x": _X}, {}, ("'counts' and 'x'",)),
        ({"counts": _COUNTS, "x_train": _X}, {}, ("'counts' and 'x_train'",)),
        ({"counts": _COUNTS, "y": _X, "batch": _X}, {}, ("'batch'", "'y'")),
        ({"counts": _COUNTS, "batch": np.array(["a"] * 40)}, {}, ("labels", "integers")),
        ({"x": _X}, {"drop_empty": True}, ("drop_empty", "counts", "real")),
        ({"counts": _COUNTS[:, None]}, {"drop_empty": True}, ("drop_empty", "(1, 6)")),
        (
            {"x_train": _COUNTS.astype(int), "x_test": _COUNTS.astype(int) * 0},
            {"drop_empty": True},
            ("drop_empty", "empty split", "test"),
        ),
    ],
)
def test_bad_counts(save, refused, arrays, options, words):
    refused(save(**arrays), *words, **options)


def test_real_cells(data_folder):
    path = data_folder / "single_cell" / "mouse_brain_neurons_10x_10000x1000_counts.npz"
    whole, dropped = load(path), load(path, drop_empty=True)
    assert whole.support is dropped.support is constraints.nonnegative_integer
    assert (whole.event_shape, dropped.event_shape) == ((1000,), (715,))
    assert "285 empty columns and 1 empty rows dropped" in dropped.source
    assert [len(a["x"]) for a in dropped.splits.values()] == [8001, 999, 999]
    totals = [sum(int(a["x"].sum()) for a in data.splits.values()) for data in (whole, dropped)]
    assert totals[0] == totals[1]
    shown = dropped.observe(jax.random.key(0), dropped.splits["train"]["x"][0])
    assert shown.dtype == np.float32
