"""Arrays from files: what their values are, and every file that is refused."""

import pickle

import numpy as np
import pytest
from numpyro.distributions import constraints

from jaxvae.data import load


def _x(dtype, high=2, count=20):
    return np.random.default_rng(0).integers(0, high, (count, 3)).astype(dtype)


@pytest.fixture
def save(tmp_path):
    def save(name="a.npz", x=None, **arrays):
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, x)
        else:
            np.savez(path, **arrays, **({} if x is None else {"x": x}))
        return path

    return save


@pytest.mark.parametrize(
    ("x", "support", "dtype", "scale"),
    [
        (_x(bool), constraints.boolean, np.uint8, 1),
        (_x(np.float64), constraints.boolean, np.uint8, 1),
        (_x(np.int64), constraints.boolean, np.uint8, 1),
        (_x(np.uint8) * np.uint8(255), constraints.boolean, np.uint8, 1),
        (_x(np.uint8, 256), constraints.unit_interval, np.uint8, 255),
        (_x(np.uint16, 9), constraints.nonnegative_integer, np.uint16, 1),
        (_x(np.int64, 2**20), constraints.nonnegative_integer, np.int32, 1),
        (_x(">f8", 9) / 8, constraints.unit_interval, np.float32, 1),
        (_x(np.float16, 9) - 4, constraints.real, np.float32, 1),
    ],
)
def test_npy_contents(save, x, support, dtype, scale):
    data = load(save("a.npy", x))
    assert data.support is support
    assert data.scale == scale
    assert data.event_shape == (3,)
    assert data.num_classes is None
    assert [len(data.splits[split]["x"]) for split in ("train", "valid", "test")] == [16, 2, 2]
    assert all(a["x"].dtype == dtype and set(a) == {"x"} for a in data.splits.values())
    shown = np.concatenate([data.observe(None, row)[None] for row in data.splits["train"]["x"]])
    full = x.max() if support is constraints.boolean else scale
    expected = x.astype(np.float32) / np.float32(full)
    for row in shown:
        assert np.isclose(row, expected, rtol=2e-7, atol=0).all(1).any()


def test_npz_with_its_own_splits_is_kept_whole(save):
    x = _x(np.uint8, 256)
    data = load(save(x_train=x, valid=x[:5], x_test=x[:4], y_train=np.arange(20) % 7))
    np.testing.assert_array_equal(data.splits["train"]["x"], x)
    np.testing.assert_array_equal(data.splits["valid"]["x"], x[:5])
    assert data.splits["train"]["label"].dtype == np.int32
    assert "label" not in data.splits["test"]
    assert data.num_classes == 7


def test_labels_follow_their_rows(save):
    x = np.arange(60, dtype=np.uint16).reshape(20, 3)
    data = load(save(x=x, y=np.arange(20)))
    for arrays in data.splits.values():
        np.testing.assert_array_equal(arrays["x"][:, 0], arrays["label"] * 3)


def test_real_counts(real_data, save):
    stored = np.load(real_data / "single_cell" / "mouse_brain_neurons_10x_10000x1000_counts.npz")
    data = load(save("cells.npy", stored["counts"]))
    assert data.support is constraints.nonnegative_integer
    assert data.event_shape == (1000,)
    total = sum(int(arrays["x"].sum()) for arrays in data.splits.values())
    assert total == int(stored["counts"].sum())


def test_stored_arrays_cannot_be_written(save):
    data = load(save(x=_x(bool)))
    with pytest.raises(ValueError, match="read-only"):
        data.splits["train"]["x"][0] = 1


_GOOD = _x(np.float32) + np.float32(0.5)


def _with(value, at=(7, 2)):
    x = _GOOD.copy()
    x[at] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": _with(np.nan)}, ("got 1", "index (7, 2)", "nan")),
        ({"x": _with(np.inf)}, ("got 1", "index (7, 2)", "inf")),
        ({"x": _with(np.nan, slice(2, 5)), "y": np.arange(20)}, ("got 9", "index (2, 0)")),
        ({"x": _GOOD.astype(np.float64) * 1e39}, ("finite float32",)),
        ({"x": -_x(np.int32, 9)}, ("counts", "float32")),
        ({"x": _x(np.int64, 2**40)}, ("16,777,216",)),
        ({"x": _GOOD.astype(complex)}, ("complex128",)),
        ({"x": _GOOD.astype("U3")}, ("dtype <U3",)),
        ({"x": _GOOD[:, 0]}, ("[N, *event]", "(20,)", "[N, 1]")),
        ({"x": np.float32(3)}, ("[N, *event]", "()")),
        ({"x": _GOOD[:0]}, ("empty split", "(0, 3)")),
        ({"x": _GOOD[:9]}, ("empty split", "at least 10", "got 9")),
        ({"x_train": _GOOD, "x_test": _GOOD[:0]}, ("test", "empty split")),
        ({"x_train": _GOOD[:5], "x_test": _GOOD}, ("empty split", "valid_size")),
        ({"x_train": _GOOD, "x_test": _GOOD[:, :2]}, ("train (3,)", "test (2,)")),
        ({"x_train": _GOOD, "x_test": _x(np.uint8, 9)}, ("float32", "uint8")),
        ({"x_train": _GOOD}, ("no array 'x_test'",)),
        ({"x_test": _GOOD}, ("no array 'x_train'",)),
        ({"y": np.arange(20)}, ("no array 'x'",)),
        ({"x_train": _GOOD, "x_test": _GOOD, "y_valid": np.arange(3)}, ("no array 'x_valid'",)),
        ({"x": _GOOD, "x_train": _GOOD}, ("both forms",)),
        ({"train": _GOOD, "x_train": _GOOD, "x_test": _GOOD}, ("both 'train' and 'x_train'",)),
        ({"images": _GOOD}, ("'images'", "'x_train'")),
        ({"x": _GOOD, "y": np.arange(19)}, ("labels", "20 examples", "(19,)")),
        ({"x": _GOOD, "y": np.ones(20)}, ("labels", "integers", "float64")),
        ({"x": _GOOD, "y": np.arange(20) - 1}, ("labels", "from 0 up", "-1")),
        ({"x": np.array([{}] * 20)}, ("pickle", "never loaded")),
        ({}, ("no array 'x_train'",)),
    ],
)
def test_bad_arrays(save, refused, arrays, words):
    path = save(**arrays)
    refused(path, str(path), *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"", ("cut short",)),
        ("a.npy", pickle.dumps([1, 2]), ("pickle", "never loaded")),
        ("a.npy", b"x,y\n1,2\n", ("expected an .npy", "78 2c 79 0a")),
        ("a.npz", b"PK\x03\x04 and no more", ("damaged",)),
        ("a.csv", b"x,y\n1,2\n", ("got a file .csv", "numpy.savez")),
    ],
)
def test_files_of_another_kind(tmp_path, refused, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, str(path), *words)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_files_cut_short(save, refused, name, part):
    path = save(name, x=_GOOD)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    refused(path, str(path), "cut short or damaged")


def test_a_damaged_byte_in_an_npz(save, refused):
    path = save(x=_GOOD)
    damaged = bytearray(path.read_bytes())
    damaged[300] ^= 1
    path.write_bytes(damaged)
    refused(path, str(path), "CRC", "damaged")


@pytest.mark.parametrize("name", ["missing.npy", "missing.npz"])
def test_no_such_file(tmp_path, refused, name):
    refused(tmp_path / name, "no such file", name)


def test_options_without_effect(save, refused):
    refused(save(x=_GOOD), "data_dir", "no effect", data_dir="anywhere")
