"""JAX's compilation cache on disk, for the command line: a second run of the same kind starts sooner.

`import jaxvae` does not use it. A folder holds the programs of one machine: a program compiled for the
instructions of one processor may crash on another that shares the home folder.
"""

import hashlib
import os
import platform
import re
import tempfile
from pathlib import Path

import jax
import jaxlib

from jaxvae.bench.records import usable_cpus

SWITCH = "JAXVAE_COMPILATION_CACHE"
"""Environment variable: `off`, or the folder to use."""

OWN_SWITCHES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
"""JAX's own environment variables, which take precedence."""

MIN_COMPILE_S = 0.01  # a run compiles dozens of small programs too, which together take a second
MAX_BYTES = 2**30


def use_compilation_cache() -> str | None:
    """Turn the cache on, unless the environment turns it off; never fail.

    Returns:
        One line with the reason if the cache cannot be used; None if it is on or deliberately off.
    """
    wanted = os.environ.get(SWITCH, "")
    if wanted == "off" or any(name in os.environ for name in OWN_SWITCHES):
        return None
    try:
        folder = (Path(wanted).expanduser() if wanted else default_folder()) / fingerprint()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        trim(folder, MAX_BYTES)
        refused = not can_reload(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        reason = getattr(error, "strerror", None) or error
        return f"no compilation cache: {reason}; set {SWITCH} to a folder, or to off"
    if not refused:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
    return None


def default_folder() -> Path:
    """Return `jaxvae/xla` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "jaxvae" / "xla"


def fingerprint() -> str:
    """Return a digest of everything that compiled programs depend on: processor, usable cores, and jaxlib."""
    said = [jaxlib.__version__, platform.machine(), platform.processor(), str(usable_cpus())]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = re.findall(r"^(?:model name|flags|Features).*$", cpuinfo.read_text(), re.MULTILINE)
        said += sorted(set(lines))
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def trim(folder: Path, max_bytes: int) -> None:
    """Delete the oldest files until the others take at most `max_bytes`."""
    files = sorted(folder.glob("*-cache"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > max_bytes:
            path.unlink(missing_ok=True)


def can_reload(folder: Path) -> bool:
    """Return whether XLA can reload its compiled programs; tested once per folder and stored there.

    Some versions print a long warning on some processors for every program that they compiled themselves;
    there the cache does more harm than good.
    """
    answer = folder / f"reloads-{jax.default_backend()}"
    if not answer.exists():
        half = answer.with_suffix(f".{os.getpid()}")
        half.write_text("yes" if _reloads_quietly() else "no")
        half.replace(answer)
    return answer.read_text() == "yes"


def _reloads_quietly() -> bool:
    from jax.experimental.serialize_executable import deserialize_and_load, serialize

    double = jax.jit(lambda x: 2 * x)
    compiled = double.lower(jax.ShapeDtypeStruct((8,), "float32")).compile()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)  # XLA's messages do not pass through Python
        try:
            deserialize_and_load(*serialize(compiled))
        except (RuntimeError, ValueError):
            return False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        return b"machine" not in said.read()
