"""`jaxvae bench`: check the options, measure, print and write, within a time limit or until a signal."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxvae.bench.children import end_all
from jaxvae.bench.deadline import Deadline
from jaxvae.bench.findings import Findings
from jaxvae.bench.records import FORMAT, machine, read_record
from jaxvae.bench.suites import Suite, run_parts
from jaxvae.bench.workloads import ROWS, draw_rows
from jaxvae.cli.bench_checks import checked
from jaxvae.cli.bench_readme import table
from jaxvae.cli.bench_tables import print_changes, print_found
from jaxvae.cli.commands import Bench
from jaxvae.runs.stop import signals
from jaxvae.types import InputError

SECONDS_A_ROUND = {"default": 1.0, "device": 0.25}
LAST_S, LATE_S = 5.0, 3.0
"""Seconds of the budget reserved for output (more if starting took longer), and for parts that end late."""
GRACE_S = 3.0
"""Seconds to wait for the current operation after a signal."""


def bench(command: Bench, begun: float) -> None:
    """Run the command; exit with 128 plus the signal's number if a signal stopped it.

    Args:
        command: the parsed command.
        begun: the start of the call, a time of `time.monotonic`.

    Raises:
        InputError: an option is not usable, or the old record is of another machine.
    """
    if command.peers or command.suite == "device":  # a GPU's memory is shared with the twins
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    old = checked(command)
    if command.table is not None:
        print(table(read_record(command.table, "table")))
        return
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed as well
    findings = Findings(_first(command), command.out and command.out.resolve())
    deadline, last = deadlines(command.budget_seconds, begun)
    with signals() as caught:
        finished = in_time(lambda: _measure(command, findings, deadline), deadline, last, caught)
        if not finished:
            end_all()  # so that printing does not wait for twins that compile
        if caught or not finished:
            why = f"stopped by {signal.Signals(caught[0]).name}" if caught else "the time was up"
            findings.leave_out(f"{', '.join(findings.waiting) or 'the rest'}: left out: {why}")
        _finish(command, findings, old)
    status = 128 + caught[0] if caught else 0
    if not finished:  # something that cannot be interrupted still runs, such as a compiler
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def deadlines(budget: float | None, begun: float) -> tuple[Deadline, Deadline]:
    """Return the deadline for starting further parts, and the deadline for waiting for them.

    Args:
        budget: seconds of the whole call; no limit if None.
        begun: its start, a time of `time.monotonic`.
    """
    if budget is None:
        return Deadline(), Deadline()
    # If a busy machine was slow to start the process, it will be as slow to end it.
    last = min(max(LAST_S, time.monotonic() - begun), budget / 4)
    late = min(LATE_S, budget / 8)
    return Deadline(budget - last - late, begun=begun), Deadline(budget - last, begun=begun)


def in_time(
    work: Callable[[], None], deadline: Deadline, last: Deadline, caught: list[int]
) -> bool:
    """Run `work` in a thread, and return when it is done, at the time limit, or soon after a signal.

    Args:
        work: the function to run; it checks `deadline` before every long operation.
        deadline: the time limit of `work`; a signal ends it.
        last: the time limit of waiting.
        caught: the signals received, from `signals`.

    Returns:
        Whether it is done. An error that it raised is raised again.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=guarded, daemon=True)
    worker.start()
    grace = None
    while worker.is_alive() and last.allows(0) and (grace is None or grace.allows(0)):
        worker.join(0.05)
        if caught and grace is None:
            deadline.stop()
            grace = Deadline(GRACE_S)
    if errors:
        raise errors[0]
    return not worker.is_alive()


def _first(command: Bench) -> dict[str, Any]:
    """Return the initial content of a record."""
    where, load = machine(command.precision), os.getloadavg()[0]
    if load > 0.5 * where["cpu_count"]:
        _say(f"load {load:.1f}: other programs are running, and times will say little")
    settings = {
        "suite": command.suite,
        "rounds": command.rounds,
        "seconds_a_round": command.seconds_a_round or SECONDS_A_ROUND[command.suite],
        "budget_seconds": command.budget_seconds,
        "data": f"{ROWS:,} rows of random bits, 28 x 28; of grey levels in the loop",
    }
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    first = {"format": FORMAT, "machine": where, "load": load, "started": started}
    return {**first, "settings": settings, "workloads": {}, "peers_left_out": []}


def _measure(command: Bench, findings: Findings, deadline: Deadline) -> None:
    settings = findings.record()["settings"]
    suite = Suite(
        findings,
        deadline,
        draw_rows(),
        settings["rounds"],
        settings["seconds_a_round"],
        str(command.torch_python or sys.executable),
        _say,
    )
    if command.suite == "device":
        parts = suite.device()
    else:
        parts = suite.default(
            command.workloads,
            batch_size=command.batch_size,
            precision=command.precision,
            peers=command.peers,
            scale=command.scaling,
        )
    run_parts(parts, findings, deadline)


def _finish(command: Bench, findings: Findings, old: dict[str, Any] | None) -> None:
    record = findings.record()
    print_found(record)
    if old is not None:
        print_changes(old, record, command.compare)
    findings.write()
    if findings.path is not None:
        print(f"numbers: {findings.path}")
    if command.figure is not None:
        _draw(command.figure, record)


def _draw(path: Path, record: dict[str, Any]) -> None:
    from jaxvae.reports.figures import efficiency_bars

    if not record["workloads"]:
        print("figure: not drawn, since nothing was measured")
        return
    try:
        efficiency_bars(record["workloads"]).savefig(path)
    except OSError as error:
        raise InputError(f"figure: cannot write to {path}: {error.strerror}") from None
    print(f"figure: {path.resolve()}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
