"""What one `jaxvae train` compiles from an empty cache, and what that takes.

Command (two CPU cores): python experiments/startup.py
Any options of `jaxvae train` may follow. On a GPU the last column holds the autotuner as well; a second call
with XLA_FLAGS=--xla_gpu_autotune_level=0 says how much of it that is.
"""

import dataclasses
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

GROUPS = {
    "report": ("reports/page.py",),
    "evaluation": ("runs/evaluate.py",),
    "validation": ("make_validation", "record_of"),
    "training": ("training/loop.py", "training/feeds.py", "training/step.py"),
}
"""Of which part a program is: the first with a file or function among those that called for it."""

PARTS = {
    "jaxpr_trace_duration": "trace_s",
    "jaxpr_to_mlir_module_duration": "lower_s",
    "backend_compile_duration": "compile_s",
}
EVENTS = "/jax/core/compile/"


@dataclasses.dataclass
class Program:
    """A compiled program."""

    name: str
    caller: str
    """The line of jaxvae that called for it."""
    group: str
    trace_s: float = 0.0
    lower_s: float = 0.0
    compile_s: float = 0.0
    processor_s: float = 0.0
    """Of compiling, of all threads: what a busy machine changes least."""
    until_s: float = 0.0
    """Seconds of processors when it was there."""


@contextmanager
def compiled_inside() -> Iterator[list[Program]]:
    """The programs that are compiled inside, in their order."""
    programs: list[Program] = []
    seconds = dict.fromkeys(PARTS.values(), 0.0)
    clock = [time.process_time()]

    def listen(event: str, duration: float, **about: object) -> None:
        part = PARTS.get(event.removeprefix(EVENTS))
        if part is None:
            return
        seconds[part] += duration
        before, clock[0] = clock[0], time.process_time()
        if part == "compile_s":
            caller, group = _caller()
            name = str(about.get("fun_name", "?"))
            programs.append(
                Program(
                    name, caller, group, **seconds, processor_s=clock[0] - before, until_s=clock[0]
                )
            )
            seconds.update(dict.fromkeys(seconds, 0.0))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _caller() -> tuple[str, str]:
    frames = [f for f in traceback.extract_stack() if f"{os.sep}jaxvae{os.sep}" in f.filename]
    if not frames:
        return "?", "other"
    said = [f"{f.filename.rpartition(f'{os.sep}jaxvae{os.sep}')[2]} {f.name}" for f in frames]
    groups = (g for g, marks in GROUPS.items() if any(m in line for line in said for m in marks))
    return f"{said[-1].split()[0]}:{frames[-1].lineno}", next(groups, "start")


def table(programs: list[Program]) -> Iterator[str]:
    """A line a program and a sum a group."""
    head = f"{'':50}{'trace s':>9}{'lower s':>9}{'compile s':>11}{'processor s':>13}"

    def line(name: str, of: list[Program]) -> str:
        sums = [
            sum(getattr(p, part) for p in of)
            for part in ("trace_s", "lower_s", "compile_s", "processor_s")
        ]
        return f"{name:50}{sums[0]:>9.2f}{sums[1]:>9.2f}{sums[2]:>11.2f}{sums[3]:>13.2f}"

    yield head
    for group in dict.fromkeys(p.group for p in programs):
        those = [p for p in programs if p.group == group]
        for p in those:
            yield line(f"  {p.name.removeprefix('jit(').removesuffix(')')[:20]:20} {p.caller}", [p])
        yield line(f"{group}: {len(those)} programs", those)
    yield line(f"in all: {len(programs)} programs", programs)


def measure(command: Callable[[], None]) -> list[Program]:
    """Run a command, print its table, and return the programs."""
    with compiled_inside() as programs:
        command()
    print("\n".join(table(programs)))
    return programs


def main() -> None:
    """Train as the arguments say, in a folder that is deleted, and print the table."""
    os.environ["JAXVAE_COMPILATION_CACHE"] = "off"
    from jaxvae.cli.main import main as jaxvae
    from jaxvae.runs import RunFolder

    imported, begin = time.process_time(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "--runs-dir", folder, "--name", "a", *sys.argv[1:]]
        programs = measure(lambda: jaxvae(command))
        trained = RunFolder(Path(folder) / "a").metrics()[-1]["time"]
    end, used = time.time(), time.process_time()
    first = next(p for p in programs if p.group == "evaluation")
    print(
        f"{end - begin:.1f} s, of which {end - trained:.1f} s for the test evaluation and the report\n"
        f"{used:.1f} s of processors, of which {imported:.1f} s for imports and "
        f"{used - first.until_s + first.processor_s:.1f} s for the test evaluation and the report\n"
        f"load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
