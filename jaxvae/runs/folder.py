"""A run folder: configuration, data, environment, metrics, results and checkpoints."""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxvae.runs.config import TrainConfig, from_json
from jaxvae.training.checkpoints import Checkpoints
from jaxvae.types import InputError

PACKAGES = ("jaxvae", "jax", "jaxlib", "flax", "optax", "numpyro", "orbax-checkpoint", "numpy")


class RunFolder:
    """The files of one run.

    `config.json`: every value of the configuration; `data.json`: a record of the data set;
    `environment.json`: versions, commit, hardware and command; `metrics.jsonl`: one line per evaluation;
    `results.json`: the numbers of the last evaluation on the test split; `checkpoints/`,
    `tensorboard/`, and `report.html`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.kept: Any = None
        """`jaxvae.runs.train.Kept`, in the process that trained the run; else None."""
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.report_path = self.path / "report.html"

    @classmethod
    def create(
        cls, path: Path, config: TrainConfig, data_record: dict[str, Any], **used: int
    ) -> "RunFolder":
        """Make a new folder atomically: as soon as it exists, it contains its configuration.

        Args:
            path: the folder.
            config: the configuration of the run.
            data_record: the record of its data set, for `data.json`.
            used: the numbers of devices and processes in use, for `environment.json`.

        Raises:
            InputError: it exists, or cannot be made.
        """
        with appearing(path) as half:
            run = cls(half)
            run.write("environment.json", environment() | used)
            run.write("data.json", data_record)
            run.write("config.json", dataclasses.asdict(config))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of an existing run.

        Raises:
            InputError: there is none.
        """
        run = cls(path)
        if not run.config_path.is_file():
            there = "has no config.json" if run.path.is_dir() else "does not exist"
            raise InputError(f"run: expected a run folder made by `jaxvae train`, {path} {there}")
        return run

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder, so that no second process writes to it; the lock ends with the process.

        Raises:
            InputError: another process has locked it.
        """
        with writing(self.path):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(OSError):  # on a full disk: locked, without the process id
                os.truncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
            yield
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode() or "?"
            raise InputError(
                f"run: {self.path} is in use by process {holder}; "
                "wait for it to end, or choose another --name"
            ) from None
        finally:
            os.close(descriptor)

    def config(self) -> TrainConfig:
        """Read the configuration of this run."""
        return from_json(self.read("config.json"), self.config_path)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        with writing(self.path):
            self.write_text(name, json.dumps(value, indent=2, allow_nan=True) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        target, half = self.path / name, self.path / f".{name}.{os.getpid()}"
        with writing(self.path):
            try:
                with open(half, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(half, target)
            finally:
                half.unlink(missing_ok=True)

    def read(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise InputError(f"run: {self.path / name} is missing") from None
        except ValueError as error:
            raise InputError(f"run: {self.path / name} is damaged: {error}") from None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        with writing(self.path), open(self.metrics_path, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of `metrics.jsonl`; an incomplete line of a killed process is skipped."""
        if not self.metrics_path.exists():
            return []
        records = []
        for line in self.metrics_path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines after a step, since a resumed run writes them again."""
        kept = [json.dumps(record) for record in self.metrics() if record["step"] <= step]
        self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))

    def checkpoints(self) -> Checkpoints:
        """Open the checkpoints of this run."""
        with writing(self.path):
            return Checkpoints(self.path / "checkpoints")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a one-line `InputError`.

    Raises:
        InputError: the disk is full or read-only, or the folder may not be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"run: cannot write to {path}: {error.strerror or error}; free space or choose another "
            "folder with --runs-dir (what was saved before is intact)"
        ) from error


def default_name(config: TrainConfig) -> str:
    """Return a name with data set, objective and time: `digits-elbo-20260131-235959`."""
    data = Path(config.data).name.split(".")[0].replace(":", "-") or "data"
    return f"{data}-{config.objective}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def environment() -> dict[str, Any]:
    """Return versions, commit, hardware and command of this process."""
    devices = jax.devices()
    return {
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in devices],
    }


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which is renamed to `path` at the end, or removed after an error.

    Raises:
        InputError: `path` exists, or cannot be made.
    """
    path = Path(path)
    with writing(path):
        if path.exists():
            raise InputError(
                f"name: {path} exists already; choose another --name, or go on with it by "
                f"`jaxvae train --resume {path}`"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield half
            half.chmod(0o777 & ~_umask())
            half.rename(path)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _commit() -> str | None:
    """Return the git commit of the current folder, with `+dirty` if files differ from it."""
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty=+dirty", "--exclude=*"]
    try:
        result = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
