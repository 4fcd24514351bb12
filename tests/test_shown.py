"""What is shown is run: the README's example, the notebooks and the experiments."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_readme_example(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    said = "".join(run([sys.executable, "-c", block], tmp_path).stdout for block in blocks)
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
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


def test_cs236_vae(data_folder, tmp_path):
    """A few steps from the IDX folder; the numbers of the claim take a minute and are in the file."""
    options = ["--total-steps", "40", "--test-num-samples", "2", "--runs-dir", str(tmp_path)]
    script = str(ROOT / "experiments/cs236_vae.py")
    result = run([sys.executable, script, "--data", str(data_folder / "mnist"), *options], tmp_path)
    assert re.search(r"test NELBO +\d+\.\d+ \+- \d+\.\d+ nats", result.stdout), result.stdout


def test_step_speed(tmp_path):
    script = str(ROOT / "experiments/step_speed.py")
    result = run([sys.executable, script, "--once", "--batch", "8", "--steps", "3"], tmp_path)
    assert '"steps_per_s"' in result.stdout


def run(command, folder):
    result = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_estimator_cost(tmp_path):
    """The memory of many samples in chunks is that of few; the times are not judged here."""
    script = str(ROOT / "experiments/estimator_cost.py")
    options = ["--batch", "2", "--steps", "1", "--rounds", "1"]
    said = run([sys.executable, script, *options], tmp_path).stdout
    ratio = re.search(r"that is ([\d.]+)x; without chunks it is (\d+)x", said)
    assert ratio, said
    assert float(ratio[1]) <= 1.3
    assert float(ratio[2]) > 1.3
