"""Runs on several devices and in two processes: their numbers, their end, and how they go on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import jaxvae

ROOT = Path(__file__).parents[2]
CACHE = tempfile.TemporaryDirectory()  # what one process compiles the next ones load
OPTIONS = (
    "--data bits.npz --total-steps 200 --eval-every-steps 20 --batch-size 13 --hidden 8 "
    "--latent-dim 2 --test-num-samples 2"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bits to learn, of which 13 make a batch: a number that no number of devices divides."""
    path, rng = tmp_path_factory.mktemp("hosts"), np.random.default_rng(0)
    sizes = {"train": 48, "test": 4}
    splits = {name: (rng.random((n, 6)) < 0.4).astype(np.uint8) for name, n in sizes.items()}
    np.savez(path / "bits.npz", **splits)
    return path


@pytest.fixture(scope="module")
def alone(folder):
    """The records of the run on one device that nothing broke."""
    finish(start("train", *OPTIONS, "--name", "alone", cwd=folder))
    return records(folder / "runs/alone")


def start(*args, cwd, devices=1, module="tests.devices.runs_command", path=ROOT, **environment):
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    base = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{path}:{ROOT}",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE.name),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # nothing is asked here of the programs themselves
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, args)],
        env=os.environ | flags | base | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def finish(process, status=0):
    """What it printed, and said on stderr."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, f"status {process.returncode}\n{out}\n{err}"
    return out, err


def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def start_two(*args, cwd, paths=(ROOT, ROOT)):
    """Two processes with two devices each; `args` of both, where a pair stands each its own."""
    address = f"127.0.0.1:{port()}"
    return [
        start(
            "train",
            *(arg[i] if isinstance(arg, tuple) else arg for arg in args),
            *f"--coordinator {address} --num-processes 2 --process-id {i}".split(),
            cwd=cwd,
            devices=2,
            path=paths[i],
        )
        for i in range(2)
    ]


def wait_for_records(run, count):
    deadline = time.monotonic() + 200
    while not (run / "metrics.jsonl").exists() or len(records(run)) < count:
        assert time.monotonic() < deadline, f"{run} has no {count} records"
        time.sleep(0.01)


def records(run):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def same_records(found, expected):
    """Losses agree to 1e-5 over the first 20 steps and to 1e-3 over 200."""
    assert [record["step"] for record in found] == list(range(20, 201, 20))
    for record, other in zip(found, expected, strict=True):
        for split in ("train", "valid"):
            for name, value in record[split].items():
                rtol = 1e-5 if record["step"] == 20 and split == "train" else 1e-3
                np.testing.assert_allclose(value, other[split][name], rtol=rtol, err_msg=name)


def error_line(err):
    (line,) = err.splitlines()
    assert line.startswith("jaxvae: error: ")
    return line


@pytest.mark.slow
def test_numbers_of_two_processes():
    address = f"127.0.0.1:{port()}"
    both = [start(address, i, cwd=ROOT, devices=2, module="tests.devices.hosts") for i in range(2)]
    for process in both:
        print(finish(process)[0])


@pytest.mark.slow
def test_killed_on_eight_devices_and_resumed_on_two_and_one(folder, alone):
    run = folder / "runs/many"
    for devices, dies_at, steps in ((8, "50", 40), (2, "130", 120), (1, None, 200)):
        again = ("--resume", run) if run.exists() else (*OPTIONS, "--name", "many")
        more = {} if dies_at is None else {"DIES_AT": dies_at}
        process = start("train", *again, cwd=folder, devices=devices, **more)
        out, _ = finish(process, status=-signal.SIGKILL if dies_at else 0)
        assert (f"on {devices} cpu devices" in out) == (devices > 1)
        assert records(run)[-1]["step"] == steps
    assert json.loads((run / "environment.json").read_text())["devices_used"] == 8
    same_records(records(run), alone)
    for twin in (records(run)[1:], [record | {"valid": record["train"]} for record in alone]):
        with pytest.raises(AssertionError):  # one that lost a record, one of other losses
            same_records(twin, alone)


@pytest.mark.slow
def test_two_processes_stopped_then_one_lost_then_resumed_by_one(folder, alone):
    run = folder / "runs/two"
    first, second = start_two(*OPTIONS, "--name", "two", cwd=folder)
    wait_for_records(run, 1)
    second.send_signal(signal.SIGTERM)
    stopped = finish(first, status=128 + signal.SIGTERM)[1]
    assert finish(second, status=128 + signal.SIGTERM) == ("", "")
    assert "stopped by SIGTERM at step" in stopped
    assert "--resume runs/two" in stopped
    done = len(records(run))
    assert 1 <= done < 10

    first, second = start_two("--resume", run, cwd=folder)
    wait_for_records(run, done + 1)
    second.kill()
    begin = time.monotonic()
    out, err = finish(first, status=1)
    assert time.monotonic() - begin < 60
    assert "on 4 cpu devices of 2 processes" in out
    line = error_line(err)
    assert "process 1 of 2 was lost" in line
    assert f"--resume {run}" in line
    second.communicate()

    finish(start("train", "--resume", run, cwd=folder))
    same_records(records(run), alone)


@pytest.mark.slow
def test_the_minutes_of_one_process_stop_both(folder):
    long = ("--total-steps", "1000000", "--eval-every-steps", "1000000", "--name", "timed")
    minutes = ("--max-minutes=100", "--max-minutes=0.5")
    first, second = start_two(*OPTIONS, *long, minutes, cwd=folder)
    _, err = finish(first, status=75)
    assert finish(second, status=75) == ("", "")
    assert "stopped by its minutes at step" in err
    assert "--resume runs/timed" in err


@pytest.mark.slow
def test_the_first_process_is_lost(folder):
    """It serves JAX's own watch, which would print a page and abort when it goes."""
    first, second = start_two(*OPTIONS, "--name", "first", cwd=folder)
    wait_for_records(folder / "runs/first", 1)
    first.kill()
    out, err = finish(second, status=1)
    assert out == ""
    assert "process 0 of 2 was lost" in error_line(err)
    first.communicate()


@pytest.mark.slow
def test_other_configurations(folder):
    both = start_two(*OPTIONS, "--name", "odd", "--beta", ("1", "2"), cwd=folder)
    for process in both:
        out, err = finish(process, status=2)
        assert "beta: expected the same on every process, got 1.0 on process 0" in error_line(err)
        assert out == ""
    assert not (folder / "runs/odd").exists()


@pytest.mark.slow
def test_other_code(folder, tmp_path):
    shutil.copytree(Path(jaxvae.__file__).parent, tmp_path / "jaxvae")
    with open(tmp_path / "jaxvae/bounds.py", "a") as file:
        file.write("#")
    both = start_two(*OPTIONS, "--name", "odd", cwd=folder, paths=(ROOT, tmp_path))
    for process in both:
        _, err = finish(process, status=2)
        assert "code of jaxvae (sha256): expected the same on every process" in error_line(err)


@pytest.mark.slow
def test_more_devices_than_there_are_and_nobody_there(folder):
    nobody = f"--coordinator 127.0.0.1:{port()} --num-processes 2 --process-id 1".split()
    for options, expected in (
        (["--devices", "3"], "devices: expected at most 2"),
        ([*nobody, "--connect-timeout-s", "0.5"], "no answer from 127.0.0.1"),
    ):
        process = start("train", *OPTIONS, *options, cwd=folder, devices=2)
        assert expected in error_line(finish(process, status=2)[1])
