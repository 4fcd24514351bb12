"""Several processes that train together, on one machine or several.

Each runs the same program; their devices form one mesh. Before they start they check that they
run the same code, and from then on each detects when another stops or is lost.
"""

import atexit
import contextlib
import hashlib
import json
import math
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import jax

from jaxvae.checks import require_positive
from jaxvae.hosts.star import Star, difference, meet
from jaxvae.types import InputError

T = TypeVar("T")

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpyro", "numpy")
RUNTIME_TIMEOUT_S = 600  # for JAX's own failure detection, which must react later than ours

_star: Star | None = None
_process_id = 0


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    connect_timeout_s: float = 60.0,
) -> None:
    """Join the other processes of a run; afterwards `jax.devices()` returns the devices of all processes.

    Every process must call it before anything that uses a device. Under SLURM, Open MPI, GKE and on
    TPU pods, arguments that are not given are detected. On CPUs the processes communicate by gloo.

    When a process stops with an error or is lost (killed, or silent for 40 s), the others exit with one
    line on stderr that names it, and with status 1 or that of the error.

    Args:
        coordinator: `HOST:PORT` of process 0, as the others reach it; a free port.
        num_processes: number of processes.
        process_id: number of this process, from 0.
        connect_timeout_s: seconds to wait for the others.

    Raises:
        InputError: a value is missing or out of range; the others do not connect in time, or run other
            code or versions; a device was used before.

    >>> initialize("127.0.0.1:7777", num_processes=1, process_id=0)  # nobody to wait for
    >>> count(), is_first()
    (1, True)
    """
    global _star, _process_id
    if not connect_timeout_s > 0:
        raise InputError(
            f"connect_timeout_s: expected seconds, more than 0, got {connect_timeout_s}"
        )
    if _star is not None:
        raise InputError("initialize: expected one call in a process, got a second; leave it out")
    if None in (coordinator, num_processes, process_id):
        coordinator, num_processes, process_id = _detected(
            coordinator, num_processes, process_id, connect_timeout_s
        )
    assert coordinator is not None
    assert num_processes is not None
    assert process_id is not None
    host, port = _split(coordinator)
    require_positive(num_processes=num_processes)
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"process_id: expected 0 to {num_processes - 1}, as there are {num_processes} processes, "
            f"got {process_id}"
        )
    if num_processes == 1:
        return
    star, address = meet(
        host,
        port,
        num_processes=num_processes,
        process_id=process_id,
        facts=_facts(),
        timeout_s=connect_timeout_s,
    )
    star.watch()
    if getattr(jax.config, "jax_cpu_collectives_implementation", None) in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=math.ceil(connect_timeout_s),
            heartbeat_timeout_seconds=RUNTIME_TIMEOUT_S,
            shutdown_timeout_seconds=RUNTIME_TIMEOUT_S,
            coordinator_bind_address=address,
        )
    except (RuntimeError, ValueError) as error:
        line = f"initialize: {' '.join(str(error).split())[:300]}"
        star.leave(line, 2)
        raise InputError(line) from None
    _star, _process_id = star, process_id
    atexit.register(_at_exit)


def count() -> int:
    """Return the number of processes."""
    return 1 if _star is None else _star.num_processes


def is_first() -> bool:
    """Return whether this is process 0 (or the only process), which writes and prints."""
    return _process_id == 0


def gather(text: str) -> list[str]:
    """Gather the `text` of every process, in order of their numbers; wait for all of them.

    >>> gather("a")
    ['a']
    """
    return [text] if _star is None else _star.gather(text)


def together(function: Callable[[], T]) -> T:
    """Call `function()` on every process; if it raises an InputError on one, raise one on all.

    Raises:
        InputError: from the function, on this or on another process.
    """
    refusal: InputError | None = None
    values: list[T] = []
    try:
        values.append(function())
    except InputError as error:
        if _star is None:
            raise
        refusal = error
    said = gather("" if refusal is None else f"{refusal} ")
    if refusal is not None:
        raise refusal
    for other, line in enumerate(said):
        if line:
            raise InputError(f"process {other} stopped: {line.strip()}")
    return values[0]


def require_same(facts: dict[str, str]) -> None:
    """Refuse facts that are not the same on all processes.

    Args:
        facts: name -> value.

    Raises:
        InputError: raised on every process if they differ; it names the first difference.
    """
    said = [json.loads(text) for text in gather(json.dumps(facts))]
    if differing := difference(dict(enumerate(said))):
        raise InputError(differing)


def advise(line: str) -> None:
    """Set the advice that the user gets if a process is lost from now on."""
    if _star is not None:
        _star.advice = line


def leave(line: str, status: int) -> None:
    """Tell the other processes that this one stops with an error, so that they stop too.

    The caller must end the process by `os._exit`: a normal exit would wait for the others.
    """
    if _star is not None:
        _star.leave(line, status)


def finish() -> None:
    """Disconnect from the other processes, when all have finished."""
    global _star
    if _star is not None:
        star, _star = _star, None
        star.finish()
        jax.distributed.shutdown()


def _at_exit() -> None:
    if _star is not None and getattr(sys, "last_type", None) is not None:
        _star.leave("its own output says why", 1)
    else:
        finish()


def _split(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(
            f"coordinator: expected HOST:PORT, such as 10.0.0.1:7777, got {coordinator!r}"
        )
    return host, int(port)


def _detected(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout_s: float
) -> tuple[str | None, int | None, int | None]:
    """Detect missing arguments from the scheduler that started this process."""
    found = (coordinator, num_processes, process_id)
    with contextlib.suppress(Exception):  # a cluster that JAX detects only in part
        from jax._src.clusters import ClusterEnv  # JAX has no public function for this

        found = ClusterEnv.auto_detect_unset_distributed_params(
            *found, None, None, math.ceil(timeout_s)
        )[:3]
    names = ("coordinator", "num_processes", "process_id")
    if missing := [name for name, value in zip(names, found, strict=True) if value is None]:
        raise InputError(
            f"{missing[0]}: expected where no SLURM, Open MPI, GKE or TPU pod says it, got none; "
            "give coordinator (HOST:PORT of process 0), num_processes and process_id"
        )
    return found


def _facts() -> dict[str, str]:
    """Return the facts that must be the same on all processes: the code of jaxvae and the versions it uses."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "code of jaxvae (sha256)": code_digest(),
        "python": platform.python_version(),
    } | versions


def code_digest() -> str:
    """Return a digest of the source of the package.

    >>> len(code_digest())
    16
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
