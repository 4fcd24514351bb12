"""Training steps of other libraries that take turns with ours, each in a process of its own."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxvae.bench.records import usable_cpus
from jaxvae.bench.turns import spread, steps_within
from jaxvae.bench.workloads import LAYERS
from jaxvae.networks import Precision

SERVER = Path(__file__).parent / "peers" / "serve.py"
PATIENCE_S = 300.0
"""How long a twin may be silent."""


class TwinDied(Exception):
    """A twin ended, or never began; the message is one line."""


class Twin:
    """A process that takes training steps when asked, see `jaxvae.bench.peers.serve`.

    Args:
        command: its command line.
        patience_s: seconds it may be silent.

    Raises:
        TwinDied: it does not come up.
    """

    def __init__(self, command: Sequence[str], *, patience_s: float = PATIENCE_S):
        self._patience_s = patience_s
        # What it compiles is timed as ours is, and on a GPU it takes the memory that it needs.
        environment = os.environ | {
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        with contextlib.ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise TwinDied(f"cannot start {command[0]}: {error.strerror}") from None
            stack.callback(self._end)
            self.about: dict[str, Any] = self._answer()
            self._stack = stack.pop_all()

    def run(self, steps: int) -> float:
        """The seconds that so many steps took there.

        Raises:
            TwinDied: it ended instead.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # why it ended is told below
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End it, and all that it started."""
        self._stack.close()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # of what it was never told
                if pipe is not None:
                    pipe.close()

    def _answer(self) -> Any:
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], self._patience_s)[0]:
            raise TwinDied(f"no answer for {self._patience_s:.0f} s")
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
    """The twins of some workloads, with what was timed so far; a context, which ends them when it is left.

    Args:
        torch_python: an interpreter with PyTorch.
        precision: of our products; PyTorch follows it as `commands` says.
        num_rows: how many rows each of them holds.
        seconds: about how long a turn takes.
        say: called with a line about what goes on, and about each twin that is left out.
    """

    def __init__(
        self,
        torch_python: str,
        precision: Precision,
        num_rows: int,
        seconds: float,
        say: Callable[[str], None],
    ):
        self._options: Any = torch_python, precision, num_rows
        self._seconds, self._say = seconds, say
        self._twins: dict[tuple[str, str], Twin] = {}
        self._steps: dict[tuple[str, str], int] = {}
        self._absent: set[str] = set()
        self.left_out: list[str] = []
        self._ours: dict[str, list[float]] = {}
        self._theirs: dict[tuple[str, str], list[float]] = {}

    def __enter__(self) -> "Twins":
        return self

    def __exit__(self, *_: object) -> None:
        while self._twins:
            self._twins.popitem()[1].close()

    def start(self, workload: str, batch_size: int) -> None:
        """Start the twins of a workload, one after the other; those that do not come up are left out."""
        if workload not in LAYERS:
            return
        torch_python, precision, num_rows = self._options
        sizes = {**LAYERS[workload]._asdict(), "batch_size": batch_size, "rows": num_rows}
        every = commands(torch_python, precision, sizes)
        for name, command in every.items():
            if name in self._absent:
                continue
            self._say(f"{workload} / {name}: starting")
            try:
                twin = Twin(command)
            except TwinDied as death:
                without = [n for n in every if "torch" in n] if name == "torch-eager" else [name]
                self._absent.update(without)
                self._leave_out(", ".join(without), death)
                continue
            self._twins[workload, name], self._theirs[workload, name] = twin, []
            self._guarded(workload, name, self._calibrate)

    def take(self, workload: str, steps_per_s: float) -> None:
        """A turn of each, just after ours, which took so many steps a second."""
        self._ours.setdefault(workload, []).append(steps_per_s)
        for of, name in list(self._twins):
            if of == workload:
                self._guarded(workload, name, self._time)

    def record(self, workload: str) -> dict[str, dict[str, Any]]:
        """Name -> what it said of itself, its `steps_per_s`, and the `ratio` ours / theirs, paired by round."""
        found = {}
        for (of, name), twin in self._twins.items():
            if of == workload:
                speeds = self._theirs[of, name]
                ratios = [us / them for us, them in zip(self._ours[of], speeds, strict=True)]
                found[name] = {
                    **twin.about,
                    "steps_a_round": self._steps[of, name],
                    "steps_per_s": spread(speeds),
                    "ratio": spread(ratios),
                }
        return found

    def _calibrate(self, of: str, name: str) -> None:
        self._steps[of, name] = steps_within(self._seconds, self._twins[of, name].run)

    def _time(self, of: str, name: str) -> None:
        steps = self._steps[of, name]
        self._theirs[of, name].append(steps / self._twins[of, name].run(steps))

    def _guarded(self, of: str, name: str, action: Callable[[str, str], None]) -> None:
        """Do it; a twin that dies is left out from then on."""
        try:
            action(of, name)
        except TwinDied as death:
            self._twins.pop((of, name)).close()
            self._leave_out(f"{of} / {name}", death)

    def _leave_out(self, what: str, death: TwinDied) -> None:
        hint = "; --torch-python says where it is" if "named 'torch'" in str(death) else ""
        self.left_out.append(f"{what}: left out: {death}{hint}")
        self._say(self.left_out[-1])


def commands(
    torch_python: str, precision: Precision, sizes: dict[str, int]
) -> dict[str, list[str]]:
    """Twin -> its command line. Each name means the same arithmetic at every precision of ours.

    `torch-eager` and `torch-compile` are float32, with TensorFloat-32 on GPUs unless "highest" is asked
    for, as JAX does; beside "bfloat16" there is `torch-compile-bf16` too, by `torch.autocast`. On GPUs
    `torch-compile-graphs` replays CUDA graphs. `numpyro` has no bfloat16.

    Args:
        torch_python: an interpreter with PyTorch.
        precision: of our products.
        sizes: `Layers` by name, `batch_size` and `rows`.
    """
    platform = jax.default_backend()
    given = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    full = "highest" if precision == "highest" else "float32"
    torch = {
        "torch-eager": ("no", full),
        "torch-compile": ("default", full),
    }
    if platform == "gpu":
        torch["torch-compile-graphs"] = ("reduce-overhead", full)
    if precision == "bfloat16":
        torch["torch-compile-bf16"] = ("default", "bfloat16")
    found = {
        name: [
            *(torch_python, str(SERVER), "torch_twin", *given, f"--threads={usable_cpus()}"),
            *(f"--platform={platform}", f"--compile={compiled}", f"--precision={its}"),
        ]
        for name, (compiled, its) in torch.items()
    }
    found["numpyro"] = [
        *(sys.executable, str(SERVER), "numpyro_twin", *given),
        *(f"--platform={platform}", f"--precision={full}"),
    ]
    return found
