"""A run folder: what ran, on what, how it went, and its checkpoints."""

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

    `config.json` every value of the configuration; `data.json` what it was trained on;
    `environment.json` versions, commit, hardware and command; `metrics.jsonl` a line an evaluation;
    `results.json` the numbers of the last evaluation on the test split; `checkpoints/`,
    `tensorboard/`, and `report.html`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.kept: Any = None
        """What the process that trained it has in memory: `jaxvae.runs.train.Kept`."""
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.report_path = self.path / "report.html"

    @classmethod
    def create(
        cls, path: Path, config: TrainConfig, data_record: dict[str, Any], **used: int
    ) -> "RunFolder":
        """Make a new folder, which holds its configuration from the moment that it appears.

        Args:
            path: the folder.
            config: what is trained.
            data_record: what it is trained on.
            used: what of the hardware takes part, for `environment.json`.

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
        """An existing run.

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
        """Hold the folder, so that no second process writes to it; a dead process holds nothing.

        Raises:
            InputError: another process holds it.
        """
        with writing(self.path):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(OSError):  # on a full disk the lock holds without the number
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
        """The configuration that this run was started with."""
        return from_json(self.read("config.json"), self.config_path)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all."""
        with writing(self.path):
            self.write_text(name, json.dumps(value, indent=2, allow_nan=True) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
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
        """The lines of `metrics.jsonl`; one that a killed process left unfinished is skipped."""
        if not self.metrics_path.exists():
            return []
        records = []
        for line in self.metrics_path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines after a step: a resumed run writes them again."""
        kept = [json.dumps(record) for record in self.metrics() if record["step"] <= step]
        self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))

    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this run."""
        with writing(self.path):
            return Checkpoints(self.path / "checkpoints")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line.

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
    """A name that says what ran and when: `digits-elbo-20260131-235959`."""
    data = Path(config.data).name.split(".")[0].replace(":", "-") or "data"
    return f"{data}-{config.objective}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def environment() -> dict[str, Any]:
    """Versions, commit, hardware and command of this process."""
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
    """A folder to fill, which stands at `path` when all is in it, or not at all.

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
    """The git commit of the current folder, with `+dirty` where files differ from it."""
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty=+dirty", "--exclude=*"]
    try:
        result = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
