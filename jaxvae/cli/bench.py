"""`jaxvae bench`: check, measure, print, write."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from jaxvae.bench import (
    compare_records,
    machine,
    measure,
    read_record,
    require_same_machine,
    scaling,
)
from jaxvae.bench.records import FORMAT
from jaxvae.bench.rounds import require_batch_size, require_known, require_usable
from jaxvae.bench.workloads import ROWS, draw_rows
from jaxvae.cli.commands import Bench
from jaxvae.cli.tables import print_table
from jaxvae.types import InputError

HEAD = (
    "",
    "batch",
    "compile s",
    "steps/s",
    "least",
    "most",
    "examples/s",
    "GFLOP/s",
    "MB",
    "efficiency",
)


def bench(command: Bench) -> None:
    """Run it.

    Raises:
        InputError: an option cannot be used, or the old record is of another machine.
    """
    old = _checked(command)
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed as well
    record: dict[str, Any] = {"format": FORMAT, "machine": machine(), "load": os.getloadavg()[0]}
    where = record["machine"]
    if record["load"] > 0.5 * where["cpu_count"]:
        _say(f"load {record['load']:.1f}: other programs are running, and times will say little")
    timing: Any = {"rounds": command.rounds, "seconds_a_round": command.seconds_a_round}
    rows = draw_rows()
    record["settings"] = {**timing, "data": f"{ROWS:,} rows of random bits, 28 x 28"}
    record["workloads"] = measure(
        command.workloads, rows, **timing, batch_size=command.batch_size, say=_say
    )
    if command.scaling:
        record["scaling"] = scaling(rows, **timing, say=_say)
    print(
        f"{where['device']}, {where['cpu_count']} of {where['cpu']}, JAX {where['jax']}, random bits"
    )
    print_table([HEAD, *(_row(name, found) for name, found in record["workloads"].items())])
    print_scaling(record.get("scaling", {}))
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
    for name, path in (("out", command.out), ("figure", command.figure)):
        if path is not None:
            _require_writable(name, path)
    if command.compare is None:
        return None
    old = read_record(command.compare)
    require_same_machine(old, command.compare)
    return old


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


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    speed, efficiency = found["steps_per_s"], found["efficiency"]
    return (
        name,
        str(found["batch_size"]),
        f"{found['compile_s']:.1f}",
        *(f"{speed[key]:.4g}" for key in ("median", "min", "max")),
        f"{found['examples_per_s']['median']:,.0f}",
        f"{found['flop_per_s']['median'] / 1e9:.1f}",
        f"{found['memory_bytes'] / 1e6:.1f}",
        f"{efficiency['median']:.2f} ({efficiency['min']:.2f} to {efficiency['max']:.2f})",
    )


def print_scaling(found: dict[str, dict[str, Any]]) -> None:
    """The times along each axis, and the line through them."""
    for axis, line in found.items():
        points = zip(line["values"], line["seconds"], strict=True)
        said = ", ".join(f"{1e3 * seconds:.3g} ms at {value}" for value, seconds in points)
        print(f"iwae50 against {axis}: {said}")
        print(
            f"  a line in the flop: R^2 = {line['r_squared']:.4f}, {1e3 * line['intercept']:.3g} ms "
            f"and {1e12 * line['slope']:.3g} ms a GFLOP"
        )


def print_changes(old: dict[str, Any], record: dict[str, Any], path: Path | None) -> None:
    """A row for each workload that can be compared, new / old."""
    changes, left_out = compare_records(old, record)
    print(f"against {path} (JAX {old['machine'].get('jax')}), new / old:")
    rows = [(c.name, f"{c.steps_per_s:.3f}", f"{c.memory:.3f}", c.verdict) for c in changes]
    print_table([("", "steps/s", "memory", "beyond the spread"), *rows])
    for sentence in left_out:
        print(f"  {sentence}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
