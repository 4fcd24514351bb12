"""Every model by its name on the command line: trained, evaluated, reported."""

import json
from typing import get_args

import jax
import numpy as np
import pytest

from jaxvae.cli.main import main
from jaxvae.cli.parsing import parse
from jaxvae.distributions import sample
from jaxvae.runs.config import build
from jaxvae.runs.models import ModelName
from tests.support.slow import slow_but

RNG = np.random.default_rng(0)
SHORT = "--total-steps 2 --test-num-samples 2 --eval-every-steps 1".split()
BATCH = "--batch-size 8".split()
SMALL = "--latent-dim 2 --hidden 8".split()
LAYERS = "--layer-dims 3 2 --hidden 8 --upper-hidden 8".split()


def write_reals(folder):
    np.save(folder / "reals.npy", RNG.normal(size=(60, 4)).astype(np.float32))
    return folder / "reals.npy"


def write_counts(folder):
    np.savez(folder / "counts.npz", counts=RNG.poisson(3.0, size=(60, 5)).astype(np.uint16))
    return folder / "counts.npz"


def write_alignment(folder):
    rows = ["".join(RNG.choice(list("ACDEFGHIKLMNPQRSTVWY-"), size=9)) for _ in range(60)]
    rows[0] = rows[0].replace("-", "A")
    text = "".join(f">s{i}\n{row}\n" for i, row in enumerate(rows))
    (folder / "sequences.fasta").write_text(text)
    return folder / "sequences.fasta"


def write_images(folder):
    x = RNG.integers(0, 2, size=(60, 6, 5)).astype(np.uint8)
    np.savez(folder / "images.npz", x=x, y=RNG.permutation(np.arange(60) % 3))
    return folder / "images.npz"


OPTIONS = {
    "vae": (write_images, SMALL + BATCH),
    "beta_vae": (write_images, SMALL + BATCH),
    "conv_vae": (write_images, [*"--latent-dim 2 --channels 2 3".split(), *BATCH]),
    "conditional_vae": (write_images, SMALL + BATCH),
    "gmvae": (write_images, [*SMALL, *BATCH, "--num-components", "3"]),
    "vampprior": (write_images, [*SMALL, *BATCH, "--num-pseudo-inputs", "3"]),
    "flow_prior_vae": (write_images, [*SMALL, *BATCH, "--num-flows", "2"]),
    "ssvae": (write_images, [*SMALL, *BATCH, "--num-labels", "6"]),
    "ppca": (write_reals, ["--latent-dim", "2", "--fit", "em"]),
    "factor_analysis": (write_reals, ["--latent-dim", "2", *BATCH]),
    "ica": (write_reals, ["--latent-dim", "2", *BATCH]),
    "gaussian_mixture": (write_reals, ["--num-components", "2", "--fit", "em"]),
    "hierarchical": (write_images, LAYERS + BATCH),
    "ladder": (write_images, LAYERS + BATCH),
    "autoregressive": (write_images, SMALL + BATCH),
    "sequence_vae": (write_alignment, SMALL + BATCH),
    "count_vae": (write_counts, SMALL + BATCH),
}


def test_every_model_is_run():
    assert set(OPTIONS) == set(get_args(ModelName))


@pytest.mark.parametrize(
    "name", slow_but(OPTIONS, "vae", "ppca", "conditional_vae", "sequence_vae", "count_vae")
)
def test_a_model_is_built_as_asked(name, tmp_path):
    write, options = OPTIONS[name]
    command = parse(["train", "--data", str(write(tmp_path)), "--model", name, *SHORT, *options])
    parts = build(command.config)
    assert (parts.config.model, parts.config.total_steps) == (name, 2)
    model = parts.model.given(0) if hasattr(parts.model, "given") else parts.model
    keys = jax.random.split(jax.random.key(0))
    x = jax.eval_shape(lambda z, x: sample(model.likelihood(sample(model.prior(), z)), x), *keys)
    assert x.shape == parts.dataset.splits["train"]["x"].shape[1:]


FAST = ("vae", "ppca")  # one that is trained by steps, one that is fitted
EACH = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in OPTIONS]


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_a_model_trains_and_reports(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, options = OPTIONS[name]
    main(
        ["train", "--data", str(write(tmp_path)), "--model", name, "--name", "a", *SHORT, *options]
    )
    out = capsys.readouterr().out
    assert "report:" in out
    results = json.loads((tmp_path / "runs/a/results.json").read_text())
    assert np.isfinite(results["log_likelihood"][0])
    assert (tmp_path / "runs/a/report.html").stat().st_size > 10_000
    if name in ("conditional_vae", "ssvae"):
        main(["sample", "runs/a", "--num", "2", "--label", "1"])
        assert np.load("runs/a/samples.npy").shape == (2, 6, 5)
    if name == "conditional_vae":
        for label in ([], ["--label", "7"]):
            with pytest.raises(SystemExit):
                main(["sample", "runs/a", *label])
            (line,) = capsys.readouterr().err.splitlines()
            assert "label" in line or "y: expected one class, an integer from 0 to 2" in line
    if name == "ssvae":
        assert "accuracy" in out
        assert np.sum(results["confusion"]) == results["examples"]
    if "em" in options:
        exact, estimate = results["exact_log_likelihood"][0], results["log_likelihood"][0]
        assert abs(estimate - exact) < 1  # an estimate from two samples
        train = [
            json.loads(line)["train"]["loss"]
            for line in (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()
        ]
        assert train[1] <= train[0] + 1e-5
