"""Data by TFDS name: the arrays, the cache, and the refusals."""

import shutil
import warnings

import numpy as np
import pytest
from numpyro.distributions import constraints

from jaxvae.data import load, named


def _rows(split):
    """Images with their labels, in an order of their own: TFDS shuffles what it prepares."""
    return sorted(
        x.tobytes() + bytes([label]) for x, label in zip(split["x"], split["label"], strict=True)
    )


@pytest.mark.slow
def test_mnist_is_the_one_in_idx_files(tfds_mnist, idx_mnist):
    assert tfds_mnist.event_shape == (28, 28)
    assert tfds_mnist.name == "mnist"
    assert tfds_mnist.num_classes == 10
    for split in ("train", "test"):
        # Not a bare assert on the lists: its report of 60,000 images would take minutes.
        same = _rows(tfds_mnist.splits[split]) == _rows(idx_mnist.splits[split])
        assert same, split


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(named, "_decode", fail)


@pytest.mark.slow
def test_cache_hit_is_identical_and_decodes_nothing(real_data, tfds_mnist, no_decoding):
    again = load("mnist", data_dir=real_data / "tfds", valid_size=0)
    assert again.fingerprint == tfds_mnist.fingerprint
    with pytest.raises(AssertionError, match="decoded again"):
        load("mnist", data_dir=real_data / "tfds", cache=False)


def _keep_first(count):
    """A decoder that stops early, so that tests of the cache are quick."""

    def decode(builder):
        records = builder.as_data_source(split="test").__getitems__(range(count))
        x = np.stack([record["image"][..., 0] for record in records])
        return {"x_train": x, "x_test": x}

    return decode


@pytest.fixture
def small(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(named, "_decode", _keep_first(50))
    return lambda: load("mnist", data_dir=real_data / "tfds", valid_size=0)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:1000], lambda b: b"", lambda b: b[:5000] + b"?" + b[5001:]]
)
def test_damaged_cache_is_made_anew(small, tmp_path, damage):
    first = small()
    (kept,) = (tmp_path / "cache").iterdir()
    sound = kept.read_bytes()
    kept.write_bytes(damage(sound))
    assert small().fingerprint == first.fingerprint
    assert kept.read_bytes() == sound
    assert list((tmp_path / "cache").iterdir()) == [kept]


def test_cache_folder_that_cannot_be_written_only_warns(small, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="JAXVAE_CACHE") as caught:
        assert len(small().splits["train"]["x"]) == 50
    assert "\n" not in str(caught[0].message)


def test_default_cache_folder(monkeypatch):
    from jaxvae.data.cache import cache_folder

    monkeypatch.delenv("JAXVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert str(cache_folder()) == "/elsewhere/jaxvae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_folder()) == "/home/someone/.cache/jaxvae"


@pytest.fixture
def prepared(real_data, tmp_path):
    """A copy of the smallest prepared data, to be damaged."""
    source = real_data / "tfds" / "binarized_mnist"
    shutil.copytree(source, tmp_path / "binarized_mnist", copy_function=shutil.copyfile)
    folder = tmp_path / "binarized_mnist" / "1.0.0"
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return tmp_path, folder / "binarized_mnist-train.array_record-00000-of-00001"


@pytest.mark.slow
def test_binarized_mnist_is_bits_with_its_own_validation(prepared, monkeypatch, refused):
    folder, shard = prepared
    kept = _decoded_tests_as_every_split(monkeypatch)
    data = load("binarized_mnist", data_dir=folder)
    assert data.support is constraints.boolean
    assert data.num_classes is None
    assert data.scale == 1
    assert set(data.splits) == {"train", "valid", "test"}
    assert kept == ["train", "validation", "test"]
    assert np.unique(data.splits["test"]["x"]).tolist() == [0, 1]
    refused("binarized_mnist", "valid_size", "10,000", data_dir=folder, valid_size=5)
    refused("binarized_mnist", "bits already", data_dir=folder, binarize="dynamic")
    with shard.open("ab") as file:  # another state of the shards is another entry of the cache
        file.write(b"\0")
    load("binarized_mnist", data_dir=folder)
    assert len(kept) == 6


def _decoded_tests_as_every_split(monkeypatch):
    decode_split, seen = named._decode_split, []

    def decode(builder, split):
        seen.append(split)
        return decode_split(builder, "test")

    monkeypatch.setattr(named, "_decode_split", decode)
    return seen


@pytest.mark.parametrize("size", [0, 500_000])
def test_shards_cut_short(prepared, refused, size):
    folder, shard = prepared
    shard.write_bytes(shard.read_bytes()[:size])
    refused("binarized_mnist", str(shard.parent), "prepare it again", data_dir=folder)


def test_missing_shard(prepared, refused):
    folder, shard = prepared
    shard.unlink()
    refused("binarized_mnist", shard.name, "prepare it again", data_dir=folder)


def test_not_prepared(tmp_path, refused):
    message = refused("fashion_mnist", "not prepared", "pip install tensorflow", data_dir=tmp_path)
    code = message.split("python -c ")[1].strip("'")
    compile(code, "command", "exec")
    assert f'tfds.builder("fashion_mnist", data_dir="{tmp_path}"' in code
    assert 'file_format="array_record").download_and_prepare()' in code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnits", ("no such file", "'digits'", ".npz", "TFDS name", "near it: mnist")),
        ("digit", ("near it: digits",)),
        ("nowhere/at_all", ("no such file", "'nowhere/at_all'")),
        ("a b", ("no such file", "'a b'")),
        ("mnist:9.9.9", ("9.9.9", "3.0.1")),
        ("mnist_corrupted/brightnes", ("not found", "brightness")),
        ("", ("expected a name or a path",)),
        (3, ("expected a name or a path", "got 3")),
    ],
)
def test_unknown_names(refused, name, words):
    refused(name, "name_or_path", *words)


def test_reading_is_quiet(real_data, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("JAXVAE_CACHE", str(tmp_path))
    _decoded_tests_as_every_split(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("binarized_mnist", data_dir=real_data / "tfds", valid_size=None)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_prepared_in_another_form(prepared, refused):
    folder, shard = prepared
    info = shard.parent / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    words = ("prepared as tfrecord", 'data_dir="another_folder"', "array_record")
    refused("binarized_mnist", *words, data_dir=folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [("imdb_reviews", "expected a feature 'image', got"), ("caltech101", "images of one size")],
)
def test_sets_that_are_no_images_of_one_size(tmp_path, monkeypatch, refused, name, words):
    monkeypatch.setattr(named, "_require_prepared", lambda *_: None)
    refused(name, words, ".npz", data_dir=tmp_path)
