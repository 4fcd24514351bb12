"""Records of benchmarks: the description of the machine, and reading and checking of records."""

import contextlib
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jaxlib

from jaxvae.networks import Precision
from jaxvae.types import InputError

FORMAT = "jaxvae bench 3"

HARDWARE = (
    "platform",
    "device",
    "device_count",
    "cpu",
    "cpu_count",
    "precision",
    "default_matmul_precision",
)
"""The entries that must be equal for two records to be comparable; versions may differ."""


def machine(precision: Precision = "float32") -> dict[str, Any]:
    """Describe the device, processor and versions of this process, and the precision of the measurements.

    Args:
        precision: the precision of the models' matrix products, see `jaxvae.networks.with_precision`.
    """
    default = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "cpu": cpu_name(),
        "cpu_count": usable_cpus(),
        "precision": precision,
        "default_matmul_precision": str(default or "default"),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """Return the system's name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_record(path: Path, option: str = "compare") -> dict[str, Any]:
    """Read a record that `jaxvae bench --out` wrote.

    Args:
        path: the path of the file.
        option: the command-line option to name in errors.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        record = json.loads(path.read_text())
        _require_whole(record)
    except OSError as error:
        raise InputError(f"{option}: cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{option}: expected a file that `jaxvae bench --out` wrote, {path} is damaged or another "
            f"({type(error).__name__}: {error})"
        ) from None
    return record


def require_same_machine(
    record: dict[str, Any], path: Path, precision: Precision = "float32"
) -> None:
    """Refuse a record whose speeds are not comparable with speeds on this machine.

    Args:
        record: from `read_record`.
        path: the path of the record.
        precision: the precision of the models' matrix products here.

    Raises:
        InputError: the device, the processor, a number of these, or the precision differs.
    """
    here = machine(precision)
    for name in HARDWARE:
        there = record["machine"][name]
        if there != here[name]:
            raise InputError(
                f"compare: {path} was measured elsewhere: {name} {there!r} there, {here[name]!r} here; "
                "compare runs of one machine"
            )


def _require_whole(record: Any) -> None:
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']!r} is not {FORMAT!r}")
    for name in HARDWARE:
        record["machine"][name]
    for name, found in record["workloads"].items():
        numbers = [found["batch_size"], found["memory_bytes"] + 1]
        numbers += [found["steps_per_s"][key] for key in ("median", "min", "max")]
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"{name} has numbers that are not positive")
