"""`Dataset`: splits, observe, the record, the description, and what importing costs."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxvae.data import describe, embedded, load
from jaxvae.data.splits import permutation
from tests.support.refusals import refusal


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_scikit_learns_each_once(digits):
    sizes = {split: arrays["x"].shape for split, arrays in digits.splits.items()}
    assert sizes == {"train": (1297, 8, 8), "valid": (250, 8, 8), "test": (250, 8, 8)}
    source = load_digits()
    expected = sorted(
        (int(y), x.astype(np.uint8).tobytes())
        for x, y in zip(source.images, source.target, strict=True)
    )
    found = sorted(
        (int(y), x.tobytes())
        for arrays in digits.splits.values()
        for x, y in zip(arrays["x"], arrays["label"], strict=True)
    )
    assert found == expected
    assert "1,297 train, 250 valid, 250 test" in digits.source
    assert (digits.scale, digits.num_classes, digits.event_shape) == (16, 10, (8, 8))


def test_the_permutation_never_changes():
    assert permutation(10).tolist() == [9, 7, 3, 6, 0, 2, 5, 1, 4, 8]
    assert sorted(permutation(1000)) == list(range(1000))


@pytest.mark.parametrize("valid_size", [0, 1, 100, 1546, np.int64(7)])
def test_valid_size(digits, valid_size):
    data = load("digits", valid_size=valid_size)
    sizes = {split: len(arrays["x"]) for split, arrays in data.splits.items()}
    expected = {"train": 1547 - valid_size, "valid": valid_size, "test": 250}
    assert sizes == {split: size for split, size in expected.items() if size}
    np.testing.assert_array_equal(data.splits["test"]["x"], digits.splits["test"]["x"])


@pytest.mark.parametrize(
    ("valid_size", "words"),
    [
        (-1, ("got -1",)),
        (1547, ("empty split", "1,547")),
        (0.1, ("got 0.1",)),
        ("10", ("got '10'",)),
        (True, ("got True",)),
    ],
)
def test_valid_size_refused(refused, valid_size, words):
    refused("digits", "valid_size", *words, valid_size=valid_size)


def test_data_dir_has_no_effect_on_digits(refused, tmp_path):
    refused("digits", "data_dir", "no effect", data_dir=tmp_path)


def test_observe_under_jit_and_vmap(idx_mnist):
    x = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 28, 28))
    shown = jax.jit(jax.vmap(idx_mnist.observe, (None, 0)))(None, x)
    assert shown.shape == (256, 28, 28)
    assert shown.dtype == jnp.float32
    np.testing.assert_allclose(shown[:, 0, 0], np.arange(256) / 255, rtol=2e-7)
    assert shown.min() == 0
    assert shown.max() == 1


def test_observe_takes_one_example(digits):
    with refusal(match=r"x_stored: .*\(8, 8\).*\(5, 8, 8\).*vmap"):
        digits.observe(None, digits.splits["train"]["x"][:5])


def test_observe_captures_no_arrays(digits):
    jaxpr = jax.make_jaxpr(digits.observe)(None, digits.splits["train"]["x"][0])
    assert not jaxpr.consts


def test_record_is_json_and_complete(digits):
    record = json.loads(json.dumps(digits.record()))
    assert record["sizes"] == {"train": 1297, "valid": 250, "test": 250}
    assert record["support"] == "unit_interval"
    assert record["event_shape"] == [8, 8]
    assert len(record["sha256"]) == 64
    assert record == load("digits").record()
    names = {field.name for field in dataclasses.fields(digits)} - {"splits"}
    assert names <= set(record)


def test_one_pixel_changes_the_fingerprint(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "a.npy", x)
    first = load(tmp_path / "a.npy").fingerprint
    x[17, 2, 1] ^= 1
    np.save(tmp_path / "a.npy", x)
    assert load(tmp_path / "a.npy").fingerprint != first


def test_a_dataset_is_frozen_and_short_in_words(digits):
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.scale = 2.0
    assert len(repr(digits)) < 120
    assert "\n" not in repr(digits)


def test_describe(digits):
    lines = describe(digits).splitlines()
    assert lines[0].split() == ["name", "digits"]
    assert "source       scikit-learn" in lines[1]
    train = digits.splits["train"]
    row = next(line for line in lines if line.startswith("train")).split()
    assert row[1:5] == ["1,297", f"{train['x'].mean() / 16:.4g}", "0", "1"]
    assert [int(count) for count in row[5:]] == np.bincount(train["label"]).tolist()


def test_import_is_light():
    heavy = ["tensorflow_datasets", "sklearn", "grain", "matplotlib", "orbax", "tensorflow"]
    code = f"import jaxvae.data, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_where_their_file_lies_elsewhere(digits, monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    assert load("digits").record() == digits.record()
