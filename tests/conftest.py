import os
import sys

from jaxtyping import install_import_hook

from tests.support import shapes

# The fast suite checks annotations; what is chosen by a marker, such as `-m slow`, has the library as users have it.
# Processes of pytest-xdist have no options yet at this point, but the environment.
if os.environ.setdefault(shapes.SWITCH, "off" if "-m" in sys.argv[1:] else "on") == "on":
    install_import_hook("jaxvae", f"{shapes.__name__}.checked")

import runpy
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from jaxvae.cli.cache import SWITCH, use_compilation_cache
from tests.support.minutes import pytest_addoption, pytest_configure
from tests.support.processes import quick
from tests.support.slow import pytest_collection_modifyitems

__all__ = [
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
]  # hooks are found by their names

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Most of the suite's time is compiling. What is asked of compiled programs themselves (memory, flop, bits
# after a kill, several devices) is asked in processes of their own, which optimise as users' do.
jax.config.update("jax_disable_most_optimizations", True)

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU

settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.load_profile("fixed")

ROOT = Path(__file__).parents[1]

# What the processes of this suite compile is shared, and kept for the next run: the time of one is mostly that.
# Of the processes that tests start, those with the environment `quick()` share it; commands under test open one of
# their own.
os.environ[SWITCH] = str(ROOT / ".pytest_cache/xla")
use_compilation_cache()
os.environ[SWITCH] = "off"


@pytest.fixture
def as_users(monkeypatch, tmp_path):
    """A context in which JAX is set as for users, in a folder of its own."""

    @contextmanager
    def context():
        monkeypatch.chdir(tmp_path)
        with (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.debug_key_reuse(False),
        ):
            yield

    return context


@pytest.fixture
def experiment(as_users, monkeypatch, capsys):
    """A function that runs an experiment in this process and returns what it says."""
    for name, value in quick().items():  # for those that start processes of their own
        monkeypatch.setenv(name, value)

    def run(name, *options):
        script = str(ROOT / f"experiments/{name}.py")
        monkeypatch.setattr("sys.argv", [script, *options])
        with as_users():
            runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of named data sets; tests that need one that is absent skip with this reason."""
    folder = Path(os.environ.get("JAXVAE_TEST_DATA", ROOT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip("no data folder: set JAXVAE_TEST_DATA to one")
    return folder
