"""Oracles for the accelerator at hand: `pytest -m device`.

Each runs in a process of its own, which optimises as users' programs do and chooses the backend that JAX finds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

pytestmark = [pytest.mark.device, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # tests share the device
    "PYTHONPATH": str(ROOT),
}
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Without it a GPU may time kernels and choose others when a program is compiled again."""


@pytest.mark.parametrize("name", ["numbers", "precision", "ways"])
def test_oracles(name):
    command = [sys.executable, "-W", "error", "-m", f"tests.devices.accelerator_{name}"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


class Runs:
    """Runs in one folder, of the same configuration."""

    def __init__(self, folder: Path, flags: str):
        self.folder = folder
        self.flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

    def start(self, how: str, name: str, cache: str) -> subprocess.Popen:
        """`cache`: the folder of compiled programs."""
        own = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": self.flags,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "tests.devices.accelerator_run", how, self.folder / name],
            env=ENVIRONMENT | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def finish(self, how: str, name: str, cache: str) -> dict[str, str]:
        """The digests of what is left."""
        process = self.start(how, name, cache)
        out, err = process.communicate(timeout=1200)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    def kill(self, name: str, cache: str, num_records: int) -> None:
        """Train until so many evaluations are written, then SIGKILL."""
        process = self.start("train", name, cache)
        metrics = self.folder / name / "metrics.jsonl"
        while not metrics.is_file() or metrics.read_bytes().count(b"\n") < num_records:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (self.folder / name / "results.json").exists()


@pytest.mark.skipif(
    jax.default_backend() == "cpu", reason="tests/runs/test_resume.py kills runs on a CPU"
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    """With the programs that were compiled before; nothing is asked of XLA."""
    runs = Runs(tmp_path, "")
    expected = runs.finish("train", "unbroken", "cache")
    runs.kill("killed", "cache", 3)
    assert runs.finish("resume", "killed", "cache") == expected


def test_a_killed_run_resumes_to_the_same_bits_by_programs_compiled_anew(tmp_path):
    """From an empty cache; on a GPU by operations and kernels that are the same at every compilation."""
    runs = Runs(tmp_path, DETERMINISTIC)
    expected = runs.finish("train", "unbroken", "cache")
    runs.kill("killed", "cache", 3)
    shutil.copytree(tmp_path / "killed", tmp_path / "twin")
    assert runs.finish("resume", "killed", "empty") == expected
    assert list((tmp_path / "empty").iterdir())
    config = tmp_path / "twin" / "config.json"  # another learning rate from there on
    config.write_text(json.dumps(json.loads(config.read_text()) | {"learning_rate": 1.0001e-3}))
    assert runs.finish("resume", "twin", "cache") != expected
