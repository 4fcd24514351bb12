"""Twins: the same training steps in other libraries, each in its own process, timed in turn with ours."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxvae.bench.children import child
from jaxvae.bench.deadline import Deadline
from jaxvae.bench.records import usable_cpus
from jaxvae.bench.turns import spread, steps_within
from jaxvae.bench.workloads import LAYERS
from jaxvae.networks import Precision

SERVER = Path(__file__).parent / "peers" / "serve.py"
COMES_UP_S = 120.0
"""Seconds that a twin may take until its first line: importing, compiling and warming up."""
PATIENCE_S = 300.0
"""Seconds that a twin may take for each later answer."""


class TwinDied(Exception):
    """An error: a twin ended, was late, or could not be started; the message is one line."""


class Twin:
    """A process that runs training steps on request, see `jaxvae.bench.peers.serve`; it starts immediately.

    Args:
        command: the command line.

    Raises:
        TwinDied: it cannot be started.
    """

    def __init__(self, command: Sequence[str]):
        self.about: dict[str, Any] = {}
        self._begin = time.monotonic()
        # No caches, so that it compiles as ours does; no preallocation of GPU memory.
        environment = os.environ | {
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        with contextlib.ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
            try:
                self._process = stack.enter_context(
                    child(command, text=True, env=environment, **pipes)
                )
            except OSError as error:
                raise TwinDied(f"cannot start {command[0]}: {error.strerror}") from None
            self._stack = stack.pop_all()

    def come_up(self, seconds: float) -> None:
        """Wait for its first line, up to `seconds` after its start.

        Raises:
            TwinDied: it ended, or is late.
        """
        left = seconds - (time.monotonic() - self._begin)
        self.about = self._answer(max(0.0, left), f"not up after {seconds:.0f} s")

    def run(self, steps: int, patience_s: float = PATIENCE_S) -> float:
        """Run steps in the twin, and return the seconds that they took there.

        Raises:
            TwinDied: it ended, or did not answer in time.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the reason is reported below
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        return float(self._answer(patience_s, f"no answer for {patience_s:.0f} s"))

    def close(self) -> None:
        """Kill the process and its own children."""
        self._stack.close()

    def _answer(self, seconds: float, late: str) -> Any:
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], seconds)[0]:
            raise TwinDied(late)
        line = answers.readline()
        try:
            return json.loads(line)
        except ValueError:
            raise TwinDied(self._last_words(line)) from None

    def _last_words(self, line: str) -> str:
        if line:
            return f"expected a number, it said {line.strip()[:200]!r}"
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").split("\n")
        lines = [" ".join(line.split()) for line in said if line.strip()]
        return lines[-1] if lines else f"it ended with status {status}"


class Twins:
    """The twins of some workloads, with their times so far; a context manager that ends them on exit.

    All are started before any is waited for, so that they compile concurrently.

    Args:
        torch_python: an interpreter with PyTorch.
        precision: the precision of our matrix products; see `commands` for that of PyTorch.
        num_rows: number of rows of data in each twin.
        seconds: approximate length of a turn.
        say: called with lines about the progress, and about each twin that is left out.
        only: the names of the twins to start; all of `commands` if not given.
    """

    def __init__(
        self,
        torch_python: str,
        precision: Precision,
        num_rows: int,
        seconds: float,
        say: Callable[[str], None],
        only: Collection[str] | None = None,
    ):
        self._options: Any = torch_python, precision, num_rows
        self._seconds, self._say, self._only = seconds, say, only
        self._twins: dict[tuple[str, str], Twin] = {}
        self._steps: dict[tuple[str, str], int] = {}
        self.left_out: list[str] = []
        self._ours: dict[str, list[float]] = {}
        self._theirs: dict[tuple[str, str], list[float]] = {}

    def __enter__(self) -> "Twins":
        return self

    def __exit__(self, *_: object) -> None:
        while self._twins:
            self._twins.popitem()[1].close()

    def __len__(self) -> int:
        return len(self._twins)

    def start(self, workload: str, batch_size: int) -> None:
        """Start the twins of a workload, without waiting for them."""
        if workload not in LAYERS:
            return
        torch_python, precision, num_rows = self._options
        sizes = {**LAYERS[workload]._asdict(), "batch_size": batch_size, "rows": num_rows}
        for name, command in commands(torch_python, precision, sizes).items():
            if self._only is None or name in self._only:
                self._say(f"{workload} / {name}: starting")
                try:
                    self._twins[workload, name] = Twin(command)
                except TwinDied as death:
                    self._leave_out(f"{workload} / {name}", str(death))

    def come_up(self, deadline: Deadline, seconds: float = COMES_UP_S) -> None:
        """Wait for the first line of each, up to `seconds` after its start; a late twin is left out.

        Args:
            deadline: the time limit of all waiting.
            seconds: the limit for each, from its own start.
        """
        deaths: dict[str, list[tuple[str, str]]] = {}
        for key, twin in list(self._twins.items()):
            gone = time.monotonic() - twin._begin
            try:
                twin.come_up(max(0.0, min(seconds, gone + deadline.left())))
                self._theirs[key] = []
            except TwinDied as death:
                self._twins.pop(key).close()
                deaths.setdefault(str(death), []).append(key)
        for words, keys in deaths.items():  # one line for twins with the same reason
            self._leave_out(", ".join(together(keys)), words)

    def calibrate(self, patience_s: float = PATIENCE_S) -> None:
        """Find the number of steps of each twin that fill a turn, one twin after the other."""

        def action(key: tuple[str, str]) -> None:
            twin = self._twins[key]
            self._steps[key] = steps_within(
                self._seconds, lambda steps: (twin.run(steps, patience_s), steps)
            )

        for key in list(self._twins):
            self._guarded(key, action)

    def take(self, workload: str, steps_per_s: float, patience_s: float = PATIENCE_S) -> None:
        """Time a turn of each twin of a workload, just after ours, whose speed was `steps_per_s`."""
        self._ours.setdefault(workload, []).append(steps_per_s)

        def action(key: tuple[str, str]) -> None:
            steps = self._steps[key]
            self._theirs[key].append(steps / self._twins[key].run(steps, patience_s))

        for key in list(self._twins):
            if key[0] == workload:
                self._guarded(key, action)

    def record(self, workload: str) -> dict[str, dict[str, Any]]:
        """Return name -> its self-description, its `steps_per_s`, and the `ratio` ours / theirs, paired by round."""
        found = {}
        for (of, name), twin in self._twins.items():
            if of == workload and (speeds := self._theirs[of, name]):
                ratios = [us / them for us, them in zip(self._ours[of], speeds, strict=True)]
                found[name] = {
                    **twin.about,
                    "steps_a_round": self._steps[of, name],
                    "steps_per_s": spread(speeds),
                    "ratio": spread(ratios),
                }
        return found

    def _guarded(self, key: tuple[str, str], action: Callable[[tuple[str, str]], None]) -> None:
        """Perform an action with a twin; a twin that dies is left out from then on."""
        try:
            action(key)
        except TwinDied as death:
            self._twins.pop(key).close()
            self._leave_out(" / ".join(key), str(death))

    def _leave_out(self, what: str, words: str) -> None:
        hint = "; --torch-python says where it is" if "named 'torch'" in words else ""
        self.left_out.append(f"{what}: left out: {words}{hint}")
        self._say(self.left_out[-1])


def together(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Describe pairs of workload and twin in short form, grouped by twin.

    >>> together([("vae", "numpyro"), ("vae", "torch-eager"), ("iwae50", "numpyro")])
    ['vae, iwae50 / numpyro', 'vae / torch-eager']
    """
    workloads_of: dict[str, list[str]] = {}
    for workload, name in keys:
        workloads_of.setdefault(name, []).append(workload)
    return [f"{', '.join(workloads)} / {name}" for name, workloads in workloads_of.items()]


def commands(
    torch_python: str, precision: Precision, sizes: dict[str, int]
) -> dict[str, list[str]]:
    """Return twin -> its command line. A name means the same arithmetic at every precision of ours.

    `torch-eager` and `torch-compile` are float32, with TensorFloat-32 on GPUs unless the precision is
    "highest", as in JAX; with "bfloat16" there is also `torch-compile-bf16`, by `torch.autocast`. On GPUs there
    is a second version of each, `torch-graph`, ..: the whole step, Adam included, captured as one CUDA
    graph. `numpyro` has no bfloat16.

    Args:
        torch_python: an interpreter with PyTorch.
        precision: the precision of our matrix products.
        sizes: `Layers` by name, `batch_size` and `rows`.
    """
    platform = jax.default_backend()
    given = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    full = "highest" if precision == "highest" else "float32"
    torch = {"torch-eager": [f"--precision={full}"]}
    torch["torch-compile"] = [*torch["torch-eager"], "--compile"]
    if precision == "bfloat16":
        torch["torch-compile-bf16"] = ["--precision=bfloat16", "--compile"]
    if platform == "gpu":
        torch |= {captured(name): [*its, "--graph"] for name, its in torch.items()}
    found = {
        name: [
            *(torch_python, str(SERVER), "torch_twin", *given),
            *(f"--threads={usable_cpus()}", f"--platform={platform}", *its),
        ]
        for name, its in torch.items()
    }
    found["numpyro"] = [
        *(sys.executable, str(SERVER), "numpyro_twin", *given),
        *(f"--platform={platform}", f"--precision={full}"),
    ]
    return found


def captured(name: str) -> str:
    """Return the name of the version of a twin whose step is one CUDA graph.

    >>> captured("torch-eager"), captured("torch-compile"), captured("torch-compile-bf16")
    ('torch-graph', 'torch-compile-graph', 'torch-compile-graph-bf16')
    """
    base, half = name.removesuffix("-bf16").removesuffix("-eager"), name.endswith("-bf16")
    return f"{base}-graph{'-bf16' if half else ''}"
