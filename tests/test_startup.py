"""How many programs `jaxvae train` compiles, so that their number cannot creep up unseen."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxvae.cli.main import main

SCRIPT = Path(__file__).parents[1] / "experiments/startup.py"
CEILING = 60
OPTIONS = "--hidden 8 --latent-dim 3 --total-steps 4 --eval-every-steps 2 --test-num-samples 2"


def script():
    spec = importlib.util.spec_from_file_location("startup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_programs_of_a_run(tmp_path, capsys):
    jax.clear_caches()
    found = script().measure(
        lambda: main(["train", *OPTIONS.split(), "--runs-dir", str(tmp_path), "--name", "a"])
    )
    groups = [program.group for program in found]
    assert set(groups) == {"start", "training", "validation", "evaluation", "report"}
    assert len(groups) <= CEILING, capsys.readouterr().out
    assert groups.count("evaluation") + groups.count("report") <= 26
    assert f"in all: {len(groups)} programs" in capsys.readouterr().out


def test_a_program_more_is_counted():
    with script().compiled_inside() as found:
        jax.jit(lambda x: x * 2 + 1)(jnp.ones(3))
        before = len(found)
        jax.jit(lambda x: x * 2 + 1)(jnp.ones(3))
        assert len(found) == before + 1
    jax.jit(lambda x: x * 2 + 1)(jnp.ones(3))
    assert len(found) == before + 1
