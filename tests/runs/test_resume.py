"""A run killed with SIGKILL at a random moment and resumed equals the unbroken run, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvae.runs import RunFolder
from jaxvae.runs.config import build
from jaxvae.runs.train import _fresh

KILLS = int(os.environ.get("JAXVAE_KILLS", "3"))
OPTIONS = (
    "--hidden 64 --latent-dim 4 --batch-size 100 --total-steps 2000 --eval-every-steps 100 "
    "--test-num-samples 10 --seed 3 --kl-warmup-steps 200 --learning-rate-decay cosine"
).split()


def jaxvae(*args, cache, optimised=True, **options):
    own = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    } | ({} if optimised else {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"})
    return subprocess.Popen(
        [sys.executable, "-m", "jaxvae", *map(str, args)],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.002)


def wait_for_checkpoint(run: Path, step: int) -> None:
    """Until that one is written, or a later one that has taken its place."""
    deadline = time.monotonic() + 120
    while not any(
        int(path.name) >= step for path in run.glob("checkpoints/[0-9]*") if path.name.isdigit()
    ):
        assert time.monotonic() < deadline, f"{run}: no checkpoint at step {step}"
        time.sleep(0.002)


def finish(process) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def arrays(run: RunFolder) -> dict[str, list[np.ndarray]]:
    """Every array of the last and of the best checkpoint."""
    fresh = _fresh(build(run.config()))
    with run.checkpoints() as checkpoints:
        found = {}
        for which, step in (("last", checkpoints.last()), ("best", checkpoints.best())):
            saved = checkpoints.restore(step, fresh)
            saved = saved._replace(
                state=saved.state._replace(key=jax.random.key_data(saved.state.key))
            )
            found[which] = [np.asarray(leaf) for leaf in jax.tree.leaves(saved)]
        return found


def written(run: RunFolder) -> tuple[list, dict]:
    """Metrics and results, without the clock."""
    timed = ("steps_per_s", "time")
    metrics = [{k: v for k, v in r.items() if k not in timed} for r in run.metrics()]
    return metrics, run.read("results.json")


def require_same(run: RunFolder, unbroken: RunFolder) -> None:
    assert written(run) == written(unbroken)
    found = arrays(run)
    for which, expected in arrays(unbroken).items():
        for a, b in zip(found[which], expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=which)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, cache):
    """The unbroken run, and the seconds from its folder's appearance to the end of its training."""
    runs = tmp_path_factory.mktemp("unbroken")
    for name in ("cold", "warm"):
        process = jaxvae("train", *OPTIONS, "--name", name, "--runs-dir", runs, cache=cache)
        wait_for(runs / name)
        begin = time.time()
        finish(process)
    run = RunFolder(runs / "warm")
    require_same(run, RunFolder(runs / "cold"))
    return run, run.metrics()[-1]["time"] - begin


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits(unbroken, cache, tmp_path):
    expected, seconds = unbroken
    moments = random.Random(0)
    reached = []
    for i in range(KILLS):
        path = tmp_path / str(i)
        start = ("train", *OPTIONS, "--name", i, "--runs-dir", tmp_path)
        process = jaxvae(*start, cache=cache)
        if i % 5:
            wait_for(path)
        time.sleep(moments.uniform(0.0, 1.1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        run = RunFolder(path)
        reached.append(run.metrics()[-1]["step"] if run.metrics() else 0)
        # Killed before the folder appeared, there is no run yet, and the same command starts it.
        again = ("train", "--resume", path) if path.exists() else start
        finish(jaxvae(*again, cache=cache))
        require_same(run, expected)
    print("killed after the evaluation at step", reached)
    assert len(set(reached)) >= 2, f"the moments were not spread over the run: {reached}"


@pytest.mark.slow
def test_one_changed_bit_is_noticed(unbroken, tmp_path):
    run, _ = unbroken
    metrics, results = written(run)
    twin = json.loads(json.dumps(metrics))
    twin[0]["train"]["loss"] = float(np.nextafter(np.float32(twin[0]["train"]["loss"]), 0))
    assert (twin, results) != (metrics, results)


@pytest.mark.slow
def test_signals_save_before_leaving(unbroken, cache, tmp_path):
    """SIGTERM, then SIGINT to the run that goes on."""
    expected, _ = unbroken
    run = tmp_path / "a"
    command = ("train", *OPTIONS, "--name", "a", "--runs-dir", tmp_path)
    for number, step in ((signal.SIGTERM, 100), (signal.SIGINT, 1000)):
        process = jaxvae(*command, cache=cache)
        wait_for_checkpoint(run, step)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode:  # it may have come after the last step
            assert process.returncode == 128 + number, err
            assert "saved; go on with" in err
            assert len(err.strip().splitlines()) == 1
        command = ("train", "--resume", run)
    finish(jaxvae(*command, cache=cache))
    require_same(RunFolder(run), expected)


@pytest.mark.slow
def test_two_processes_cannot_share_a_folder(unbroken, cache):
    run, _ = unbroken
    with run.locked():
        process = jaxvae("train", "--resume", run.path, cache=cache)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"in use by process {os.getpid()}" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_another_configuration_is_refused(unbroken, cache):
    run, _ = unbroken
    process = jaxvae("train", "--resume", run.path, "--learning-rate", "0.5", cache=cache)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "learning_rate is 0.001" in err
    assert "cannot become 0.5" in err
    assert len(err.strip().splitlines()) == 1


def test_what_lies_after_the_checkpoint_is_dropped_from_the_metrics(tmp_path):
    run = RunFolder(tmp_path)
    for step in (10, 20, 30):
        run.append_metrics({"step": step})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 4')  # a process killed in the middle of a line
    run.rewind_metrics(20)
    assert run.metrics() == [{"step": 10}, {"step": 20}]


@pytest.mark.slow
def test_a_changed_data_set_is_refused(tmp_path, cache):
    data = tmp_path / "data.npy"
    values = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    np.save(data, values)
    options = "--likelihood gaussian --total-steps 20 --batch-size 10 --test-num-samples 2".split()
    start = ["train", "--data", data, *options, "--name", "a", "--runs-dir", tmp_path]
    finish(jaxvae(*start, cache=cache, optimised=False))
    values[0, 0] += 1
    np.save(data, values)
    process = jaxvae("train", "--resume", tmp_path / "a", cache=cache, optimised=False)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "sha256" in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_without_its_folder_is_refused(tmp_path, cache):
    process = jaxvae("train", "--resume", Path(tmp_path) / "nothing", cache=cache)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "does not exist" in err
