"""IDX files: the format itself, MNIST's four, and every way in which they come broken."""

import gzip
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxvae.data import load
from jaxvae.data.idx import parse_idx
from tests.support.refusals import refusal

_CODES = {"|u1": 8, "|i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}
_TRAIN_X, _TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_TEST_X, _TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def _idx(array) -> bytes:
    code = _CODES[array.dtype.newbyteorder(">").str]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    hnp.arrays(
        st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_round_trip(array):
    parsed = parse_idx(_idx(array), "bytes")
    assert parsed.dtype == array.dtype
    np.testing.assert_array_equal(parsed, array)


@given(hnp.arrays("u1", hnp.array_shapes(max_dims=3, max_side=5)), st.data())
def test_a_cut_is_always_noticed(array, data):
    whole = _idx(array)
    length = data.draw(st.integers(0, len(whole) - 1))
    with refusal(match=r"^bytes: ") as caught:
        parse_idx(whole[:length], "bytes")
    assert "\n" not in str(caught.value)


def test_mnist_is_the_published_one(idx_mnist):
    train, test = idx_mnist.splits["train"], idx_mnist.splits["test"]
    assert list(idx_mnist.splits) == ["train", "test"]
    assert train["x"].shape == (60000, 28, 28)
    assert test["x"].shape == (10000, 28, 28)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(test["label"]), counts)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(train["label"]), counts)
    # The mean that every MNIST script normalises with.
    assert math.isclose(train["x"].mean() / 255, 0.1307, abs_tol=5e-5)
    assert idx_mnist.support_name == "unit_interval"
    assert idx_mnist.scale == 255
    assert idx_mnist.num_classes == 10


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for images, labels, count in ((_TRAIN_X, _TRAIN_Y, 30), (_TEST_X, _TEST_Y, 12)):
        pixels = rng.integers(0, 256, (count, 4, 5)).astype(np.uint8)
        (tmp_path / images).write_bytes(_idx(pixels))
        classes = rng.integers(0, 20, count).astype(np.uint8)
        (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(_idx(classes)))
    return tmp_path


def test_plain_and_gzipped_files(folder):
    data = load(folder)
    sizes = {split: arrays["x"].shape for split, arrays in data.splits.items()}
    assert sizes == {"train": (27, 4, 5), "valid": (3, 4, 5), "test": (12, 4, 5)}
    assert data.num_classes is not None
    assert data.num_classes > 10


def test_missing_files(folder, refused):
    (folder / _TRAIN_X).unlink()
    (folder / f"{_TEST_Y}.gz").unlink()
    message = refused(folder, str(folder), "missing", _TRAIN_X, _TEST_Y)
    assert _TEST_X not in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[:-1], ("cut short", "600", "599")),
        (lambda b: b[:9], ("cut short",)),
        (lambda b: b[:3], ("IDX header", "00 00 08")),
        (lambda b: b"", ("IDX header", "got no bytes")),
        (lambda b: b + b"\0\0", ("trailing bytes", "600", "602")),
        (lambda b: b"\x89PNG" + b[4:], ("IDX header", "89 50 4e 47")),
        (lambda b: b"\0\0\x07\x03" + b[4:], ("IDX header",)),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], ("cut short",)),
        (lambda b: _idx(np.zeros(30, np.uint8)), ("expected images", "swapped")),
        (lambda b: _idx(np.zeros((30, 4, 5), np.int32)), ("expected images", "int32")),
        (lambda b: _idx(np.zeros((29, 4, 5), np.uint8)), ("29 images", "30 labels")),
        (lambda b: _idx(np.zeros((0, 4, 5), np.uint8)), ("0 images", "30 labels")),
    ],
)
def test_broken_images(folder, refused, change, words):
    path = folder / _TRAIN_X
    path.write_bytes(change(path.read_bytes()))
    refused(folder, "train-", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[:-1], ("damaged",)),
        (lambda b: b[: len(b) // 2], ("damaged",)),
        (lambda b: b[:20] + bytes([b[20] ^ 0xFF]) + b[21:], ("damaged",)),
        (gzip.decompress, ("damaged", "gzip")),
        (lambda b: gzip.compress(_idx(np.zeros((30, 4, 5), np.uint8))), ("expected labels",)),
    ],
)
def test_broken_labels(folder, refused, change, words):
    path = folder / f"{_TRAIN_Y}.gz"
    path.write_bytes(change(path.read_bytes()))
    refused(folder, path.name, *words)


def test_empty_splits(folder, refused):
    (folder / _TEST_X).write_bytes(_idx(np.zeros((0, 4, 5), np.uint8)))
    (folder / _TEST_Y).write_bytes(_idx(np.zeros(0, np.uint8)))
    refused(folder, str(folder), "test", "empty split")
