"""Data that a model cannot take end with one clear line and exit status 2, before anything is written."""

import numpy as np
import pytest

from jaxvae.cli.main import main

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2, size=(60, 6, 5)).astype(np.uint8)
LABELS = np.arange(60) % 3
BATCH = ["--batch-size", "8"]


@pytest.fixture
def fails(capsys, tmp_path, monkeypatch):
    """Run `train` on a file of these contents; return the one line that it fails with."""
    monkeypatch.chdir(tmp_path)

    def run(write, *options):
        name = write(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(["train", "--data", name, *([] if "em" in options else BATCH), *options])
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("jaxvae: error: ")
        assert not (tmp_path / "runs").exists()
        return line

    return run


def npz(**arrays):
    def write(folder):
        np.savez(folder / "data.npz", **arrays)
        return "data.npz"

    return write


def alignment(*rows):
    def write(folder):
        text = "".join(f">s{i}\n{row}\n" for i, row in enumerate(rows))
        (folder / "data.fasta").write_text(text)
        return "data.fasta"

    return write


COUNTS = RNG.poisson(3.0, size=(60, 5))
REALS = RNG.normal(size=(60, 5)).astype(np.float32)
SEQUENCES = ["ACDEFGHIK"] * 40
COUNTING = ("--model", "count_vae")
ALIGNED = ("--model", "sequence_vae")
SEMI = ("--model", "ssvae")


@pytest.mark.parametrize(
    ("write", "options", "words"),
    [
        # Labels.
        (npz(x=BITS, y=LABELS - 1), SEMI, ("labels", "-1")),
        (npz(x=BITS, y=LABELS + 0.5), SEMI, ("labels", "integers", "float64")),
        (npz(x=BITS), SEMI, ("ssvae needs labels", "none")),
        (npz(x=BITS), ("--model", "conditional_vae"), ("needs labels",)),
        (npz(x=BITS, y=LABELS), (*SEMI, "--num-labels", "4"), ("num_labels", "multiple", "3")),
        (npz(x=BITS, y=LABELS), (*SEMI, "--num-labels", "600"), ("num_labels", "at most")),
        (npz(x=BITS), ("--num-labels", "6"), ("num_labels: has no effect",)),
        (npz(x=BITS, y=LABELS), (*SEMI, "--num-labels", "0"), ("num_labels", "at least 1", "0")),
        # Counts.
        (npz(counts=COUNTS, y=LABELS), (*COUNTING, "--num-batches", "2"), ("labels", "0 to 1")),
        (npz(counts=COUNTS), (*COUNTING, "--num-batches", "2"), ("labels", "integers")),
        (npz(counts=-COUNTS), COUNTING, ("counts from 0 up", "got -")),
        (npz(counts=COUNTS + 0.5), COUNTING, ("counts", "integer")),
        (npz(x=REALS), COUNTING, ("counts (nonnegative_integer)", "real")),
        # Sequences.
        (alignment(*SEQUENCES, "ACDEF7HIK"), ALIGNED, ("'7'", "s40")),
        (alignment(*SEQUENCES, "ACDEFGHI"), ALIGNED, ("s40", "9", "8")),
        (alignment(), ALIGNED, ("data.fasta",)),
        (npz(x=BITS), ALIGNED, ("sequence_vae needs categories",)),
        # Images.
        (
            npz(x=BITS[:, :2, :2]),
            ("--model", "conv_vae", "--channels", "4", "4", "4"),
            ("event_shape", "at least 5 x 5", "got 2 x 2"),
        ),
        (
            npz(x=REALS),
            ("--model", "conv_vae", "--likelihood", "gaussian"),
            ("event_shape", "(5,)"),
        ),
        # Masks and weights.
        (npz(x=REALS, mask=np.ones((60, 4))), ("--likelihood", "gaussian"), ("mask", "(60, 4)")),
        (npz(x=REALS, mask=2 * np.ones((60, 5))), ("--likelihood", "gaussian"), ("mask", "2")),
        (npz(x=REALS, weight=-np.ones(60)), ("--likelihood", "gaussian"), ("weight", "-1")),
        # What does not go together.
        (npz(x=REALS), ("--likelihood", "beta"), ("open_unit_interval", "real")),
        (npz(x=BITS), ("--fit", "em"), ("exact_posterior",)),
        (
            npz(x=REALS),
            ("--model", "ppca", "--fit", "em", "--learning-rate", "1"),
            ("learning_rate",),
        ),
        (
            npz(x=REALS),
            ("--model", "ppca", "--hidden", "8"),
            ("hidden: has no effect", "latent_dim"),
        ),
        (npz(x=BITS), ("--model", "gmvae", "--kl", "analytic"), ("kl", "DiagonalNormalMixture")),
        (npz(x=BITS), ("--model", "nosuch"), ("nosuch",)),
    ],
)
def test_refused(fails, write, options, words):
    line = fails(write, *options)
    for word in words:
        assert word in line, line
