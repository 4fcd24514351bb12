"""A run that is given minutes leaves before they are up, and goes on to the bits of the unbroken run."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxvae.runs import RunFolder, TrainConfig
from jaxvae.runs.config import build
from jaxvae.runs.stop import TIME_IS_UP, Deadline, Interrupted
from jaxvae.runs.train import _fresh, resume, train
from jaxvae.runs.watch import Reporter
from tests.support.refusals import refused

TINY = TrainConfig(
    hidden=(8,),
    latent_dim=2,
    batch_size=400,
    total_steps=30,
    eval_every_steps=3,
    test_num_samples=5,
)


class Slow(Reporter):
    """Takes its time after every dispatch, and over examples."""

    def progress(self, step, steps_per_s):
        time.sleep(3 if step >= 9 else 0)

    def examples(self, done, total):
        time.sleep(5)


def last(run):
    """The step and every array of the last checkpoint."""
    with run.checkpoints() as checkpoints:
        saved = checkpoints.restore(checkpoints.last(), _fresh(build(run.config())))
        state = saved.state._replace(key=jax.random.key_data(saved.state.key))
        return checkpoints.last(), [np.asarray(a) for a in jax.tree.leaves((state, saved.metrics))]


def is_same(run, expected):
    (step, arrays), (other_step, others) = last(run), last(expected)
    losses = [
        [(r["step"], r["train"], r["valid"]) for r in one.metrics()] for one in (run, expected)
    ]
    return (
        step == other_step
        and losses[0] == losses[1]
        and run.read("results.json") == expected.read("results.json")
        and all(a.tobytes() == b.tobytes() for a, b in zip(arrays, others, strict=True))
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train(TINY, tmp_path_factory.mktemp("runs") / "a")


@pytest.mark.slow
def test_a_run_out_of_time_goes_on_to_the_same_bits(unbroken, tmp_path):
    with pytest.raises(Interrupted, match=r"its minutes at step 0$") as stop:
        train(TINY, tmp_path / "a", max_minutes=1e-6)
    assert stop.value.status == TIME_IS_UP
    with pytest.raises(Interrupted, match="its minutes at step") as stop:
        resume(tmp_path / "a", reporter=Slow(), max_minutes=0.25)
    assert 0 < stop.value.step < TINY.total_steps
    assert last(RunFolder(tmp_path / "a"))[0] == stop.value.step
    assert is_same(resume(tmp_path / "a"), unbroken)


@pytest.mark.slow
def test_a_run_that_goes_on_from_another_state_is_noticed(unbroken, tmp_path):
    for name, seed in (("a", TINY.seed), ("other", 1)):
        with pytest.raises(Interrupted):
            train(dataclasses.replace(TINY, seed=seed), tmp_path / name, max_minutes=1e-6)
    shutil.rmtree(tmp_path / "a/checkpoints")
    shutil.copytree(tmp_path / "other/checkpoints", tmp_path / "a/checkpoints")
    assert not is_same(resume(tmp_path / "a"), unbroken)


@pytest.mark.slow
def test_out_of_time_while_it_evaluates(unbroken, tmp_path):
    run = RunFolder(tmp_path / "a")
    shutil.copytree(unbroken.path, run.path)
    (run.path / "results.json").unlink()
    with pytest.raises(Interrupted, match=r"at step 30, all of training, before its evaluation$"):
        resume(run.path, reporter=Slow(), max_minutes=0.1)
    assert not (run.path / "results.json").exists()
    assert is_same(resume(run.path), unbroken)


@pytest.mark.slow
def test_the_command_ends_before_its_minutes_with_its_own_status(tmp_path):
    options = "--hidden 8 --latent-dim 2 --total-steps 1000000 --name a --max-minutes".split()

    def status(minutes):
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "jaxvae", "train", *options, minutes, "--runs-dir", tmp_path],
            capture_output=True,
            text=True,
            env=os.environ | {"JAXVAE_COMPILATION_CACHE": "off"},
        )
        return done.returncode, time.monotonic() - begin, done.stderr.splitlines()

    assert status("0.001")[::2] == (
        TIME_IS_UP,
        ["its minutes were up before the run began; give it more"],
    )
    code, seconds, (line,) = status("0.25")
    assert code == TIME_IS_UP
    assert seconds < 15
    if (
        tmp_path / "a"
    ).exists():  # on a machine with other things to do it may not have come so far
        assert line.startswith("stopped by its minutes")
        assert line.endswith(f"go on with `jaxvae train --resume {tmp_path / 'a'}`")


def test_it_leaves_by_the_longest_wait_so_far():
    none, short = Deadline(None), Deadline(0.05)
    assert not none.is_near()
    assert not short.is_near()
    time.sleep(0.9)  # 0.9 s, as much again and the margin are more than 3 s
    assert short.is_near()
    assert not none.is_near()


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(minutes, tmp_path):
    for call in (train, lambda _, path, **options: resume(path, **options)):
        with refused("max_minutes: expected a finite number above 0"):
            call(TINY, tmp_path / "a", max_minutes=minutes)
    assert not (tmp_path / "a").exists()
