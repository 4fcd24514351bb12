"""The compilation cache of the command line: filled by a run, switched off, never in the way."""

import os
import subprocess
import sys

import jax
import pytest

from jaxvae.cli import cache
from jaxvae.cli.main import main

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
COMMAND = """
import jax
from jaxvae.cli.main import RUN, Report, main

def compute(x):
    return 3 * x

RUN[Report] = lambda *_: jax.jit(compute)(jax.numpy.ones(5))
main(["report", "."])
"""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A home of its own, no switch set; JAX's configuration is put back afterwards."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in (cache.SWITCH, *cache.OWN_SWITCHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def used():
    """The folder that the cache is in, after the command line has turned it on."""
    assert cache.use_compilation_cache() is None
    return jax.config.jax_compilation_cache_dir


def test_a_command_fills_the_folder(tmp_path):
    settings = {
        cache.SWITCH: str(tmp_path / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = os.environ | settings
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "xla").iterdir()
    assert any(path.name.startswith("jit_compute") for path in folder.glob("*-cache"))


def test_the_folder_is_the_users_and_the_machines(environment, tmp_path):
    expected = tmp_path / "cache" / "jaxvae" / "xla" / cache.fingerprint()
    assert used() == str(expected)
    assert expected.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_persistent_cache_min_compile_time_secs == cache.MIN_COMPILE_S


def test_what_a_program_depends_on_changes_the_folder(environment):
    before = cache.fingerprint()
    environment.setattr(cache, "usable_cpus", lambda: 1000)
    assert cache.fingerprint() != before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAXVAE_COMPILATION_CACHE", "off"),
        ("JAX_COMPILATION_CACHE_DIR", "elsewhere"),
        ("JAX_ENABLE_COMPILATION_CACHE", "false"),
    ],
)
def test_switches(environment, tmp_path, name, value):
    before = jax.config.jax_compilation_cache_dir
    environment.setenv(name, value)
    assert used() == before
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_error(environment, tmp_path, capsys):
    (tmp_path / "file").touch()
    environment.setenv(cache.SWITCH, str(tmp_path / "file" / "below"))
    before = jax.config.jax_compilation_cache_dir
    note = cache.use_compilation_cache()
    assert note
    assert "Not a directory" in note
    assert cache.SWITCH in note
    assert jax.config.jax_compilation_cache_dir == before
    with pytest.raises(SystemExit) as stop:  # a command says so, and goes on to what it has to say
        main(["report", str(tmp_path / "no-run")])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert said[0].startswith("jaxvae: note: no compilation cache")
    assert "does not exist" in said[1]


def test_where_xla_refuses_its_own_programs_there_is_none(environment):
    import jax.experimental.serialize_executable as programs

    def complain(*_):
        os.write(
            2, b"Machine type used for compilation doesn't match the machine type for execution\n"
        )

    environment.setattr(programs, "deserialize_and_load", complain)
    before = jax.config.jax_compilation_cache_dir
    assert used() == before
    environment.undo()


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(["new", "middle", "old"]):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    cache.trim(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle-cache", "new-cache"]
