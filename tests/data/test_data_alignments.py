"""Alignments: which columns and letters are read, the weights of similar sequences, refusals."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from jaxvae.data import load
from jaxvae.data.alignments import SYMBOLS, read_alignment
from jaxvae.data.similarity import similarity


@pytest.fixture(scope="module")
def dhfr_path(data_folder):
    return data_folder / "protein" / "DHFR.a2m"


@pytest.fixture(scope="module")
def dhfr(dhfr_path):
    return load(dhfr_path)


def _rows(dataset, field):
    return np.concatenate([arrays[field] for arrays in dataset.splits.values()])


def _plain_reader(path):
    """Rows of letters in the query's upper-case columns, for a file without insertions."""
    records = [record.split("\n") for record in path.read_text().split(">")[1:]]
    letters = np.array([list("".join(lines[1:])) for lines in records])
    return letters[:, np.char.isupper(letters[0])]


def test_dhfr_is_the_file(dhfr, dhfr_path):
    letters = _plain_reader(dhfr_path)
    assert letters.shape == (3629, 159)
    assert dhfr.event_shape == (159,)
    assert (dhfr.support_name, dhfr.num_categories) == ("category", 21)
    x, mask = _rows(dhfr, "x"), _rows(dhfr, "mask")
    assert x.dtype == mask.dtype == np.uint8
    read = np.where(mask == 1, np.array(list(SYMBOLS))[x], "X")
    assert sorted(map("".join, read)) == sorted(map("".join, letters))
    assert (mask == 0).sum() == 18
    assert (x[mask == 0] == 0).all()
    for words in ("3,629 sequences", "159 focus columns of 171", "X is missing", ">= 80% identity"):
        assert words in dhfr.source
    assert [len(a["x"]) for a in dhfr.splits.values()] == [2905, 362, 362]


def _slow_neighbours(x, mask, identity):
    """By the definition, a pair at a time."""
    near = np.zeros((len(x), len(x)), bool)
    for i in range(len(x)):
        for j in range(len(x)):
            both = [k for k in range(x.shape[1]) if mask[i, k] and mask[j, k]]
            agree = sum(int(x[i, k] == x[j, k]) for k in both)
            near[i, j] = i == j or agree >= identity * len(both)
    return near


def _relatives(count=50, length=20):
    """Sequences that descend from each other with a few changes, and some missing residues."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 21, (count, length)).astype(np.uint8)
    for i in range(10, count):
        x[i] = x[rng.integers(0, i)]
        changed = rng.choice(length, rng.integers(0, 8), replace=False)
        x[i, changed] = rng.integers(0, 21, len(changed))
    return x, rng.random(x.shape) > 0.05


@pytest.mark.parametrize("block", [7, 1024])
def test_weights_against_a_double_loop(monkeypatch, block):
    monkeypatch.setattr("jaxvae.data.similarity._BLOCK", block)
    x, mask = _relatives()
    near = _slow_neighbours(x, mask, 0.8)
    assert 50 < near.sum() < 2500
    found = similarity(x, mask, 21, 0.8)
    np.testing.assert_array_equal(found.neighbours, near.sum(1))
    count, cluster = connected_components(near)
    assert 1 < count < 50
    assert ((found.cluster[:, None] == found.cluster) == (cluster[:, None] == cluster)).all()
    # Broken twins: another threshold, missing residues as gaps, a sequence not its own neighbour.
    assert (similarity(x, mask, 21, 0.75).neighbours != near.sum(1)).any()
    everything = np.ones_like(mask)
    assert (similarity(np.where(mask, x, 0), everything, 21, 0.8).neighbours != near.sum(1)).any()
    assert (near.sum(1) - 1 != found.neighbours).all()


def test_share_of_columns_is_met_exactly():
    """4 of 5, 8 of 10 and 12 of 15 equal columns are 80 %, whatever floating point makes of it."""
    for length in (5, 10, 15, 35, 70):
        x = np.zeros((2, length), np.uint8)
        x[1, : length // 5] = 1
        assert similarity(x, x < 9, 21, 0.8).neighbours.tolist() == [2, 2]
        x[1, length // 5] = 1
        assert similarity(x, x < 9, 21, 0.8).neighbours.tolist() == [1, 1]


def test_sequences_that_share_no_column():
    x, mask = np.zeros((3, 4), np.uint8), np.zeros((3, 4), bool)
    mask[0, :2] = mask[1, 2:] = True
    assert similarity(x, mask, 21, 0.8).neighbours.tolist() == [1, 1, 1]


def test_dhfr_weights_and_clusters(dhfr):
    """No neighbour across splits; the weights of a split are those of its own sequences."""
    x, mask, weight = (_rows(dhfr, field) for field in ("x", "mask", "weight"))
    indicators = ((x[..., None] == np.arange(21)) & (mask == 1)[..., None]).reshape(len(x), -1)
    indicators, observed = indicators.astype(np.float32), mask.astype(np.float32)
    near = indicators @ indicators.T >= 0.8 * (observed @ observed.T) - 1e-3
    np.testing.assert_array_equal(weight, (1 / near.sum(1)).astype(np.float32))
    split = np.repeat([0, 1, 2], [len(a["x"]) for a in dhfr.splits.values()])
    assert not (near & (split[:, None] != split)).any()
    # The broken twin: rows dealt out one by one have neighbours in other splits.
    dealt = np.random.default_rng(0).permutation(split)
    assert (near & (dealt[:, None] != dealt)).any(1).mean() > 0.2
    assert round(float(weight.sum()), 1) == 1569.4


_ROWS = ["ACDE-", *map("".join, np.random.default_rng(0).choice(list(SYMBOLS[1:]), (20, 5)))]
_GOOD = [f">s{i} a protein\n{row}" for i, row in enumerate(_ROWS)]


@pytest.fixture
def write(tmp_path):
    def write(*records, name="a.a2m"):
        path = tmp_path / name
        path.write_text("\n".join(records) + "\n")
        return path

    return write


@pytest.mark.parametrize("name", ["a.a2m", "a.fasta", "a.fa", "a.afa"])
def test_columns_and_letters(write, name):
    path = write(">query\r\nA.CdE\r\n-F", ">b\n-gghXY\nK-", ">c\nA\nCEK.vF", "", name=name)
    raw = read_alignment(path, None)
    # Match columns A C E - F; the query has a gap in the fourth.
    rows = [[SYMBOLS[k] for k in row] for row in raw.splits["all"]["x"]]
    assert list(map("".join, rows)) == ["ACEF", "--Y-", "ACEF"]
    assert raw.splits["all"]["mask"].tolist() == [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    assert (raw.num_categories, raw.kind) == (21, "category")
    assert "3 sequences, 4 focus columns of 5" in raw.notes


def test_no_unknown_residue_no_mask(write):
    data = load(write(*_GOOD))
    assert set(data.splits["train"]) == {"x", "weight"}
    assert set(load(write(*_GOOD), sequence_identity=None).splits["train"]) == {"x"}


def test_clusters_are_held_out_whole(write):
    """Two kinds of sequences, two clusters: one is too large for a tenth, the other fits."""
    rare = [f">rare{i}\nKLMNP" for i in range(2)]
    data = load(write(*[">many\nACDE-"] * 28, *rare), valid_size=0)
    assert [len(arrays["x"]) for arrays in data.splits.values()] == [28, 2]
    assert (data.splits["test"]["weight"] == 0.5).all()
    assert "2 clusters kept whole" in data.source


def test_identity_one_or_none_turns_it_off(write):
    path = write(*_GOOD)
    one, none = (load(path, sequence_identity=identity) for identity in (1.0, None))
    assert one.fingerprint == none.fingerprint
    assert "near copies may lie on both sides" in none.source


def test_a_family_too_close_to_be_parted(write, refused):
    path = write(*[f">s{i}\nACDEF" for i in range(30)])
    refused(path, str(path), "groups", "30 rows", "sequence_identity")
    assert len(load(path, sequence_identity=None).splits["test"]["x"]) == 3


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([*_GOOD, ">odd\nAC*EF"], ("'odd'", "'*' in column 3", "write X")),
        ([*_GOOD, ">odd\nACDEB"], ("'odd'", "'B' in column 5")),
        ([*_GOOD, ">odd\naaACZEF"], ("'odd'", "'Z' in column 5")),
        ([*_GOOD, ">odd\nAC DEF"], ("'odd'", "' ' in column 3")),
        ([*_GOOD, ">odd\nAC1EF"], ("'odd'", "'1' in column 3")),
        ([*_GOOD, ">\nACJEF"], ("'of line 43'", "'J'")),
        ([*_GOOD, ">odd\nACDE"], ("'odd'", "expected 5 match columns", "got 4")),
        ([*_GOOD, ">odd\nACDEfF"], ()),
        ([*_GOOD, ">odd", ">next\nACDEF"], ("'odd'", "no match column")),
        ([">q\nacdef", *_GOOD], ("'q'", "no match column")),
        ([">q\n-----", *_GOOD], ("'q'", "no upper-case residue")),
        (["ACDEF", *_GOOD], ("line 1", "header", "'ACDEF'")),
        ([""], ("empty",)),
        ([*_GOOD[:9]], ("at least 10",)),
    ],
)
def test_bad_alignments(write, refused, records, words):
    path = write(*records)
    if words:
        refused(path, str(path), *words)
    else:
        assert load(path).event_shape == (4,)


def test_an_empty_file_and_no_file(tmp_path, refused):
    (tmp_path / "a.fa").touch()
    refused(tmp_path / "a.fa", "empty")
    refused(tmp_path / "b.fasta", "no such file", "b.fasta")


@pytest.mark.parametrize("junk", [b"\x1f\x8b\x08\x00\xff\xfe", b"PK\x03\x04\x00", b"\x00" * 50])
def test_binary_junk(tmp_path, refused, junk):
    (tmp_path / "a.a2m").write_bytes(junk)
    refused(tmp_path / "a.a2m", str(tmp_path / "a.a2m"), "FASTA")
    (tmp_path / "a.a2m").write_bytes(b">q\n" + junk)
    refused(tmp_path / "a.a2m", str(tmp_path / "a.a2m"))


@pytest.mark.parametrize("identity", [0, -0.5, 80, np.nan, "0.8", True])
def test_identity_refused(write, refused, identity):
    refused(write(*_GOOD), "sequence_identity", "(0, 1]", sequence_identity=identity)


@pytest.mark.parametrize("identity", [None, 0.5])
def test_identity_has_no_effect_on_other_data(refused, identity):
    refused("digits", "sequence_identity", "no effect", sequence_identity=identity)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"binarize": "threshold"}, ("binarize", "category")),
        ({"dequantize": True}, ("dequantize", "category")),
        ({"drop_empty": True}, ("drop_empty", "category")),
        ({"data_dir": "anywhere"}, ("data_dir", "no effect")),
    ],
)
def test_options_for_other_data(write, refused, options, words):
    refused(write(*_GOOD), *words, **options)
