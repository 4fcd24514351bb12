"""What is shown is run: the README's example, the notebooks and the experiments."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.support.processes import quick

ROOT = Path(__file__).parents[1]
STEPS = "total_steps=2000"  # of the notebooks, fewer here
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
def test_readme_example(as_users, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with as_users():
        for block in blocks:
            exec(block, {"__name__": "__main__"})
    said = capsys.readouterr().out
    nats = re.search(r"log p\(x\) = (-?[\d.]+) \+- ([\d.]+) nats", said)
    assert nats, said
    assert -32 < float(nats[1]) < -18  # 500 steps on the digits; an untrained model is at -45
    assert re.search(r"bound = -\d+\.\d\d nats", said), said


def test_readme_commands_are_the_ones_of_ci():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    assert ".venv/bin/python -m pytest" in readme
    assert '".[dev]"' in readme
    assert "python -m pytest" in ci
    assert '".[dev]"' in ci


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    """Cells as they stand, but for the number of steps."""
    notebook = nbformat.read(path, as_version=4)
    if path.stem == "quickstart":
        assert any(STEPS in cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(STEPS, "total_steps=200")
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}})
    client.execute(env=quick())
    errors = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]
    assert not errors
    assert any(
        "image/png" in out.get("data", {}) for c in notebook.cells for out in c.get("outputs", ())
    )


CELLS = "single_cell/mouse_brain_neurons_10x_10000x1000_counts.npz"
SHORT = {
    "cs236_vae": (
        "--data mnist --total-steps 40 --test-num-samples 2 --runs-dir .",
        r"test NELBO +\d+\.\d+ \+- \d+\.\d+ nats",
    ),
    "cs236_gmvae": (
        "--data mnist --total-steps 20 --test-images 20 --num-samples 10",
        r"GMVAE",
    ),
    "cs236_ssvae": ("--data mnist --total-steps 20 --draws 1", r"taken for, of the last draw"),
    "continuous_bernoulli": (
        "--data mnist --total-steps 20 --num-test 50 --num-samples 5",
        r"paired difference +-?\d+\.\d \+- \d+\.\d nats",
    ),
    "two_layers": (
        "--data mnist --total-steps 4 --test-size 8 --test-num-samples 2",
        r"two better than one by",
    ),
    "rate_distortion": (
        "--data mnist --betas 1 4 --total-steps 10 --test-size 20 --figure curve.png",
        r"monotone (True|False), convex (True|False), best ELBO at beta [14]",
    ),
    "single_cell": (
        f"--data {CELLS} --total-steps 3 --num-samples 2",
        r"no latents, negative binomial +\d+\.\d+ \+- \d+\.\d+",
    ),
    "disentanglement": (
        "--seeds 2 --total-steps 4 --num-examples 200",
        r"MIG of beta-TC-VAE minus that of the VAE: -?\d\.\d+ \+- \d\.\d+",
    ),
    "ais_sandwich": (
        "--data mnist --total-steps 20 --num-examples 4 --num-chains 2 --num-temperatures 5 "
        "--num-samples 20",
        r"AIS - IWAE-20, paired: -?\d+\.\d\d \+- \d+\.\d\d nats",
    ),
    "inference_gaps": (
        "--data mnist --total-steps 20 --num-test 4 --num-samples 10 --num-steps 3 --figure f.png",
        r"best full q: ELBO -\d+\.\d+ \+- \d+\.\d+, approximation gap",
    ),
    "linear_models": ("--total-steps 20 --em-steps 20", r"Amari"),
    "evaluation_speed": (
        "--data mnist --num-examples 20 --num-samples 300",
        r"memory at K = 300: \d+\.\d MB",
    ),
    "streaming": (
        "--data tfds --batches 20 --images 40 --rounds 1 --rows 2000 --epochs 1",
        r"the same bits after \d+ steps: True",
    ),
    "precision": ("--seeds 1 --total-steps 4 --rounds 0", r"mean +float32 -\d+\.\d+ \+- \d+\.\d+"),
    "many_seeds": (
        "--runs 2 --rounds 1 --total-steps 4",
        r"--seeds 2 costs \d+\.\d\d single runs: wall_s",
    ),
    "models_speed": ("--once --steps 3", r'"steps_per_s"'),
    "ssvae_speed": ("--once --steps 3", r'"steps_per_s"'),
    "step_speed": ("--once --batch 8 --steps 3", r'"steps_per_s"'),
}
"""Experiments, with options that make them short, and what they say; their numbers are in the files."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_experiment_runs(name, data_folder, experiment, tmp_path):
    options, said = SHORT[name]
    arguments = options.split()
    if "--data" in arguments:
        arguments[1] = str(data_folder / arguments[1])
    if name == "single_cell":  # of ten thousand cells some, which cost less to validate on
        counts = np.load(arguments[1])["counts"][::25]
        arguments[1] = str(tmp_path / "some.npz")
        np.savez(arguments[1], counts=counts)
    found = experiment(name, *arguments)
    assert re.search(said, found), found


def test_every_experiment_is_run():
    elsewhere = {"autoregressive", "dhfr", "estimator_cost", "startup"}
    names = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    assert names == set(SHORT) | elsewhere


def run(command, folder):
    result = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_estimator_cost(tmp_path):
    """The memory of many samples in chunks is that of few; the times are not judged here."""
    script = str(ROOT / "experiments/estimator_cost.py")
    options = ["--batch", "2", "--steps", "1", "--rounds", "1"]
    said = run([sys.executable, script, *options], tmp_path).stdout
    ratio = re.search(r"that is ([\d.]+)x; without chunks it is (\d+)x", said)
    assert ratio, said
    assert float(ratio[1]) <= 1.3
    assert float(ratio[2]) > 1.3
