"""`jaxvae bench`: check, measure, print, write."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from jaxvae.bench import (
    machine,
    measure,
    over_devices,
    read_record,
    require_same_machine,
    scaling,
    seeds,
    ways_on_one_device,
)
from jaxvae.bench.records import FORMAT
from jaxvae.bench.rounds import require_batch_size, require_known, require_usable
from jaxvae.bench.workloads import LAYERS, ROWS, draw_rows
from jaxvae.cli.bench_tables import print_changes, print_found, print_more
from jaxvae.cli.commands import Bench
from jaxvae.types import InputError


def bench(command: Bench) -> None:
    """Run it.

    Raises:
        InputError: an option cannot be used, or the old record is of another machine.
    """
    old = _checked(command)
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed as well
    record: dict[str, Any] = {"format": FORMAT, "machine": machine(command.precision)}
    record["load"] = os.getloadavg()[0]
    where = record["machine"]
    if record["load"] > 0.5 * where["cpu_count"]:
        _say(f"load {record['load']:.1f}: other programs are running, and times will say little")
    timing: Any = {"rounds": command.rounds, "seconds_a_round": command.seconds_a_round}
    rows = draw_rows()
    record["settings"] = {**timing, "data": f"{ROWS:,} rows of random bits, 28 x 28"}
    how: Any = {**timing, "precision": command.precision, "say": _say}
    record |= measure(
        command.workloads,
        rows,
        **how,
        batch_size=command.batch_size,
        peers=command.peers,
        torch_python=str(command.torch_python or sys.executable),
    )
    if command.scaling:
        record["scaling"] = scaling(rows, **how)
        record["devices"] = over_devices(rows, **how)
        record["ways"] = ways_on_one_device(rows, **how)
        record["seeds"] = seeds(rows, **how)
    print_found(record)
    print_more(record)
    if old is not None:
        print_changes(old, record, command.compare)
    _write(command, record)


def _checked(command: Bench) -> dict[str, Any] | None:
    """Raise before anything is measured; return the record to compare with."""
    require_usable(command.rounds, command.seconds_a_round)
    require_known(command.workloads)
    if command.batch_size is not None:
        require_batch_size(command.batch_size, ROWS)
    if command.figure is not None and command.figure.suffix != ".png":
        raise InputError(f"figure: expected a file that ends in .png, got {command.figure}")
    _check_peers(command)
    for name, path in (("out", command.out), ("figure", command.figure)):
        if path is not None:
            _require_writable(name, path)
    if command.compare is None:
        return None
    old = read_record(command.compare)
    require_same_machine(old, command.compare, command.precision)
    return old


def _check_peers(command: Bench) -> None:
    python = command.torch_python
    if python is not None and not command.peers:
        raise InputError("torch_python: has no effect without --peers; add it, or leave this out")
    if python is not None and not (python.is_file() and os.access(python, os.X_OK)):
        raise InputError(
            f"torch_python: expected a Python interpreter, there is none at {python}; "
            "give its path, such as venv/bin/python"
        )
    if command.peers and not set(command.workloads) & set(LAYERS):
        raise InputError(
            f"peers: expected {' or '.join(LAYERS)} among the workloads, which alone have peers, "
            f"got {', '.join(command.workloads)}"
        )


def _require_writable(name: str, path: Path) -> None:
    if path.is_dir():
        reason = "it is a folder"
    elif not path.parent.is_dir():
        reason = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "permission denied"
    else:
        return
    raise InputError(f"{name}: cannot write to {path}: {reason}")


def _write(command: Bench, record: dict[str, Any]) -> None:
    try:
        if command.out is not None:
            command.out.write_text(json.dumps(record, indent=2) + "\n")
            print(f"numbers: {command.out.resolve()}")
        if command.figure is not None:
            from jaxvae.reports.figures import efficiency_bars

            efficiency_bars(record["workloads"]).savefig(command.figure)
            print(f"figure: {command.figure.resolve()}")
    except OSError as error:
        raise InputError(f"out: cannot write to {error.filename}: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
