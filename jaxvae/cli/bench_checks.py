"""Checks of the options of `jaxvae bench`, before anything is measured."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from jaxvae.bench.checks import require_batch_size, require_known, require_usable
from jaxvae.bench.records import read_record, require_same_machine
from jaxvae.bench.workloads import LAYERS, ROWS
from jaxvae.checks import require_number
from jaxvae.cli.commands import Bench
from jaxvae.types import InputError

OF_THE_SUITE = ("workloads", "batch_size", "precision", "peers", "scaling")
"""Options that `--suite device` chooses itself."""


def checked(command: Bench) -> dict[str, Any] | None:
    """Check the options, and return the record to compare with, if any.

    Raises:
        InputError: an option is not usable, or has no effect.
    """
    if command.table is not None:
        _require_default(command, [f.name for f in dataclasses.fields(Bench) if f.name != "table"])
        return None
    if command.suite == "device":
        _require_default(command, OF_THE_SUITE)
    require_usable(
        command.rounds, 1.0 if command.seconds_a_round is None else command.seconds_a_round
    )
    require_known(command.workloads)
    if command.batch_size is not None:
        require_batch_size(command.batch_size, ROWS)
    budget = command.budget_seconds
    if budget is not None:
        require_number("budget_seconds", budget, above=0)
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


def _require_default(command: Bench, names: Any) -> None:
    """Refuse options that were given together with an option that makes them ineffective."""
    chosen = "--table" if command.table is not None else f"--suite {command.suite}"
    for field in dataclasses.fields(Bench):
        if field.name in names and getattr(command, field.name) != field.default:
            raise InputError(f"{field.name}: has no effect with {chosen}; leave one of them out")


def _check_peers(command: Bench) -> None:
    python, suite = command.torch_python, command.suite == "device"
    if python is not None and not command.peers and not suite:
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
    folder = path.resolve().parent
    if path.is_dir():
        reason = "it is a folder"
    elif path.exists() and not path.is_file():
        reason = "it is not a plain file"
    elif not folder.is_dir():
        reason = f"there is no folder {path.parent}"
    elif not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        reason = "permission denied"
    else:
        return
    raise InputError(f"{name}: cannot write to {path}: {reason}")
