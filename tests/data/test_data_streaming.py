"""Rows that stay on disk: the same rows as in memory, what is refused, and what is read when."""

import shutil

import numpy as np
import pytest
from numpyro.distributions import constraints

from jaxvae.data import Dataset, describe, load, require_support, scan, splits, streaming
from jaxvae.data.on_disk import AllBut, NpyFile, OnDisk
from jaxvae.data.raw import Raw
from jaxvae.data.records import Records
from tests.support.refusals import refusal

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (60, 3, 2), dtype=np.uint8)
MASK = RNG.random(GREY.shape) < 0.7
SOURCES = {
    "grey": {"x": GREY},
    "bits": {"x": GREY > 100},
    "ends": {"x": np.where(GREY > 100, 255, 0).astype(np.uint8)},
    "counts": {"x": RNG.poisson(3.0, (60, 4))},
    "unit": {"x": RNG.random((60, 4))},
    "reals": {"x": RNG.normal(size=(60, 4)).astype(np.float32)},
    "big-endian": {"x": RNG.normal(size=(60, 4)).astype(">f8")},
    "everything": {
        "x": np.where(MASK, RNG.normal(size=GREY.shape), np.nan),
        "y": RNG.integers(0, 5, 60),
        "mask": MASK,
        "weight": RNG.random(60) + 0.1,
        "factors": RNG.integers(0, 3, (60, 2)),
    },
    "own splits": {
        "x_train": GREY,
        "y_train": RNG.integers(0, 4, 60),
        "x_test": GREY[:20],
        "y_test": RNG.integers(0, 4, 20),
    },
    "all splits": {"train": GREY, "valid": GREY[:7], "test": GREY[:20]},
    "named counts": {"counts": RNG.poisson(3.0, (60, 4)), "batch": RNG.integers(0, 2, 60)},
}


@pytest.fixture
def save(tmp_path):
    def save(arrays):
        folder = tmp_path / "set"
        folder.mkdir()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return folder

    return save


def check_same(streamed: Dataset, in_memory: Dataset):
    """Every row, every fact."""
    assert isinstance(streamed.splits["train"], OnDisk)
    assert list(streamed.splits) == list(in_memory.splits)
    for split, expected in in_memory.splits.items():
        found = streamed.splits[split]
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert found[name].shape == array.shape
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name][:], array)
    then, now = in_memory.record(), streamed.record()
    for name in set(then) - {"sha256", "source"}:
        assert now[name] == then[name], name


@pytest.mark.parametrize("name", SOURCES)
def test_the_rows_are_those_of_the_set_in_memory(name, save, monkeypatch):
    folder = save(SOURCES[name])
    in_memory = load(folder)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 100)
    check_same(load(folder, stream=True), in_memory)


def test_a_single_file_options_and_sizes_held_out(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, GREY)
    for options in (
        {"binarize": "dynamic", "valid_size": 0},
        {"binarize": "threshold", "valid_size": 17},
        {"dequantize": True},
    ):
        check_same(load(path, stream=True, **options), load(path, **options))
    with pytest.raises(AssertionError):
        check_same(load(path, stream=True, valid_size=7), load(path, valid_size=8))


@pytest.mark.parametrize("held", [[], [0], [59], [0, 1, 2, 30, 31, 59]])
def test_all_but(held):
    left = AllBut(60, np.array(held, int))
    expected = np.delete(np.arange(60), held)
    assert left.size == len(expected)
    np.testing.assert_array_equal(left(np.arange(left.size)), expected)


def test_all_but_is_not_a_shift_by_all_that_are_held_out_before_the_number():
    """The twin counts those below the row's number among the rest, not among all."""
    held = np.array([0, 1, 2, 30])
    twin = np.arange(56) + np.searchsorted(held, np.arange(56), side="right")
    assert not np.array_equal(twin, np.delete(np.arange(60), held))


@pytest.mark.parametrize("sizes", [{"all": 60}, {"train": 60, "test": 5}])
@pytest.mark.parametrize("valid_size", [None, 0, 13])
def test_at_most_so_many_are_held_out_and_else_those_of_divide(sizes, valid_size):
    raw = Raw("", "here", "", {split: {"x": np.arange(n)[:, None]} for split, n in sizes.items()})
    expected, said = splits.divide(raw, raw.splits, valid_size)
    held, streamed_said = splits.held_out(raw, sizes, valid_size, most=100)
    assert said.startswith(streamed_said)
    for split, rows in held.items():
        np.testing.assert_array_equal(rows, expected[split]["x"][:, 0])
    few, _ = splits.held_out(raw, sizes, None, most=2)
    assert {split: len(rows) for split, rows in few.items()} == dict.fromkeys(few, 2)
    assert not set(few["valid"]) & set(few.get("test", ()))


def test_messages_of_blocks_are_those_of_whole_arrays(save, refused, monkeypatch):
    x = RNG.normal(size=(60, 4))
    x[41, 2], x[50, 1] = np.inf, np.nan
    folder = save({"x": x})
    expected = refused(folder, "2 that are not", "(inf) at index (41, 2)")
    monkeypatch.setattr(scan, "BLOCK_BYTES", 100)
    assert refused(folder, stream=True) == expected


# What is known without reading.


def test_columns_know_their_shape_and_bounds(save):
    data = load(save(SOURCES["own splits"]), stream=True, valid_size=5)
    x, label = data.splits["train"]["x"], data.splits["train"]["label"]
    assert (len(x), x.ndim, x.shape, label.shape) == (55, 3, (55, 3, 2), (55,))
    assert (x.min(), x.max()) == (GREY.min(), GREY.max())
    assert (label.min(), label.max()) == (0, 3)
    assert x[3].shape == (3, 2)
    np.testing.assert_array_equal(x[[4, 2, 4]], np.stack([x[4], x[2], x[4]]))
    assert data.as_categories().num_categories == 256
    require_support(data, constraints.real)
    with refusal(match="dequantize"):
        require_support(data, constraints.open_interval(0.0, 1.0))
    assert "on disk" in describe(data)
    assert "train stays on disk" in data.source
    for whole in (np.asarray, list, lambda column: np.round(column)):
        with refusal(match="stays on disk, and all of it is needed in memory"):
            whole(x)


def test_a_sample_is_in_memory_and_evenly_spaced(save):
    folder = save(SOURCES["grey"])
    data, in_memory = load(folder, stream=True), load(folder)
    train = data.sampled(6).splits["train"]
    np.testing.assert_array_equal(
        train["x"], in_memory.splits["train"]["x"][[0, 8, 16, 24, 32, 40]]
    )
    assert in_memory.sampled(6) is in_memory


def test_fingerprint(save, monkeypatch):
    folder = save(SOURCES["grey"])
    monkeypatch.setattr("jaxvae.data.on_disk.FINGERPRINT_ROWS", 4)
    first = load(folder, stream=True, valid_size=0)
    assert load(folder, stream=True, valid_size=0).fingerprint == first.fingerprint
    row = int(np.flatnonzero((first.splits["train"]["x"][0] == GREY).all((1, 2)))[0])
    changed = GREY.copy()
    changed[row, 0, 0] ^= 1
    np.save(folder / "x.npy", changed)
    assert load(folder, stream=True, valid_size=0).fingerprint != first.fingerprint
    np.save(folder / "x.npy", np.concatenate([GREY, GREY[:1]]))
    assert load(folder, stream=True, valid_size=0).fingerprint != first.fingerprint
    rows = []
    read = first.splits["train"].read
    first.splits["train"].read = lambda numbers: rows.append(len(numbers)) or read(numbers)
    assert first.splits["train"].fingerprint
    assert rows == [4]


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop_empty": True}, ("stream", "drop_empty")),
        ({"valid_size": 60}, ("valid_size", "54")),
    ],
)
def test_options_that_need_all_rows(save, refused, options, words):
    refused(save(SOURCES["counts"]), *words, stream=True, **options)


def test_bits_that_are_drawn_once(save, refused):
    import jax

    words = ("stream", "binarize='static'", "in memory")
    refused(save(SOURCES["grey"]), *words, stream=True, binarize="static", key=jax.random.key(0))


def test_sources_that_cannot_be_streamed(tmp_path, refused, real_data):
    np.savez(tmp_path / "x.npz", x=GREY)
    (tmp_path / "a.fasta").write_text(">a\nAC\n")
    refused(tmp_path / "x.npz", "stream", ".npy", "one folder", stream=True)
    refused(tmp_path / "a.fasta", "stream", ".npy", stream=True)
    refused(real_data / "mnist", "stream", ".npy", stream=True)
    refused("digits", "stream", "no effect", stream=True)
    refused(tmp_path / "none.npy", "no such file", stream=True)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b[:200], "cut short"),
        (lambda b: b"", "cut short"),
        (lambda b: b[:20] + b"?" + b[21:], "damaged"),
        (lambda b: b"PK" + b, "damaged"),
    ],
)
def test_damaged_files(save, refused, damage, words):
    folder = save(SOURCES["grey"])
    path = folder / "x.npy"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, str(path), words, stream=True)


def test_files_of_another_kind(save, refused):
    folder = save({"x": np.asfortranarray(GREY)})
    refused(folder, "Fortran", "ascontiguousarray", stream=True)
    np.save(folder / "x.npy", np.array([{}, {}]))
    refused(folder, "pickle", stream=True)
    np.save(folder / "x.npy", GREY)
    np.save(folder / "y.npy", np.arange(59))
    refused(folder, "labels", "one label for each of 60", stream=True)
    np.save(folder / "y.npy", np.arange(60) - 1)
    refused(folder, "class numbers from 0 up", stream=True)
    (folder / "y.npy").rename(folder / "z.npy")
    refused(folder, "'z'", "rename it", stream=True)


def test_a_file_that_shrinks_is_an_error_and_one_that_is_replaced_is_not_mixed(save):
    folder = save(SOURCES["grey"])
    data = load(folder, stream=True)
    path, before = folder / "x.npy", data.splits["train"]["x"][:]
    np.save(folder / "new.npy", GREY[::-1])
    sound = path.read_bytes()
    (folder / "new.npy").rename(path)
    np.testing.assert_array_equal(data.splits["train"]["x"][:], before)
    data = load(folder, stream=True)
    with path.open("r+b") as file:
        file.truncate(len(sound) // 2)
    with refusal(match="cut short while it was in use") as caught:
        data.splits["train"]["x"][:]
    assert "\n" not in str(caught.value)
    path.write_bytes(sound)
    assert data.splits["train"]["x"][:].shape == before.shape


def test_rows_of_an_npy_file(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    file = NpyFile(tmp_path / "x.npy")
    for rows in (
        5,
        slice(3, 9),
        slice(None, None, 7),
        slice(9, 3),
        [7, 3, 3, 59],
        np.array([], int),
    ):
        np.testing.assert_array_equal(file[rows], GREY[rows])


# Records that TFDS has prepared.


def test_mnist_is_the_one_in_memory(tfds_mnist, real_data):
    streamed = load("mnist", data_dir=real_data / "tfds", valid_size=0, stream=True)
    train, expected = streamed.splits["train"], tfds_mnist.splits["train"]
    rows = np.random.default_rng(1).integers(0, len(train["x"]), 300)
    found = train.read(rows)
    assert {name: a.dtype for name, a in found.items()} == {"x": np.uint8, "label": np.int32}
    np.testing.assert_array_equal(found["x"], expected["x"][rows])
    np.testing.assert_array_equal(found["label"], expected["label"][rows])
    np.testing.assert_array_equal(streamed.splits["test"]["x"], tfds_mnist.splits["test"]["x"])
    assert (streamed.num_classes, streamed.scale) == (10, 255)
    assert "judged by 1,000 records" in streamed.source


@pytest.fixture
def prepared(real_data, tmp_path, monkeypatch):
    """A copy of the smallest prepared data, of whose other splits few rows are read."""
    source = real_data / "tfds" / "binarized_mnist"
    shutil.copytree(source, tmp_path / "binarized_mnist", copy_function=shutil.copyfile)
    folder = tmp_path / "binarized_mnist" / "1.0.0"
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    monkeypatch.setattr(streaming, "JUDGED_RECORDS", 50)
    return tmp_path, folder / "binarized_mnist-train.array_record-00000-of-00001"


def test_records_are_judged_by_some_and_held_to_that(prepared, monkeypatch):
    folder, _ = prepared
    data = load("binarized_mnist", data_dir=folder, stream=True)
    assert data.support is constraints.boolean
    train = data.splits["train"]
    assert len(train["x"]) == 50_000
    assert np.unique(train["x"][:20]).tolist() == [0, 1]
    decode = Records._decode
    monkeypatch.setattr(Records, "_decode", lambda self, image: decode(self, image) + 1)
    with refusal(match="expected boolean values, as in the rows looked at first"):
        train["x"][:20]
    monkeypatch.setattr(Records, "_decode", lambda self, image: decode(self, image)[:-1])
    with refusal(match=r"an image of shape \(28, 28, 1\), got \(27, 28\)"):
        train["x"][:20]


def test_damaged_records(prepared, refused):
    folder, shard = prepared
    sound = shard.read_bytes()
    shard.write_bytes(sound[:500_000])
    refused("binarized_mnist", "prepare it again", data_dir=folder, stream=True)
    shard.write_bytes(sound[:1_000_000] + bytes(3_000_000) + sound[4_000_000:])
    refused("binarized_mnist", "prepare it again", data_dir=folder, stream=True)
    shard.unlink()
    refused("binarized_mnist", shard.name, "prepare it again", data_dir=folder, stream=True)
