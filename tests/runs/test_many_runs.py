"""Many runs at once: each is the single run of its configuration, and they go on together."""

import dataclasses
import json
import os
import shutil
import signal
import statistics
from functools import partial

import jax
import numpy as np
import pytest

from jaxvae.cli.many import print_spread
from jaxvae.runs import TrainConfig
from jaxvae.runs.config import build
from jaxvae.runs.many import members, resume_many, train_many
from jaxvae.runs.stop import Deadline, Interrupted
from jaxvae.runs.together import Together
from jaxvae.runs.train import _fresh, resume, train
from jaxvae.runs.watch import Reporter
from jaxvae.training.checkpoints import Checkpoints
from tests.support.refusals import refused

TINY = TrainConfig(
    hidden=(16,),
    latent_dim=3,
    batch_size=400,  # three steps an epoch
    total_steps=20,
    eval_every_steps=10,
    test_num_samples=5,
    seed=3,
)


def data(state):
    return jax.tree.map(np.array, state._replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two runs to the end; tests that change something take a copy."""
    path = tmp_path_factory.mktemp("runs") / "a"
    return train_many(TINY, path, seeds=2)


def arrays(run):
    fresh, found = _fresh(build(run.config())), []
    with run.checkpoints() as checkpoints:
        for step in (checkpoints.last(), checkpoints.best()):
            saved = checkpoints.restore(step, fresh)
            found += [step, *jax.tree.leaves(data(saved.state)), *jax.tree.leaves(saved.metrics)]
    return [np.asarray(a) for a in found]


def written(run):
    timed = ("steps_per_s", "time")
    metrics = [{k: v for k, v in r.items() if k not in timed} for r in run.metrics()]
    return metrics, run.read("results.json")


def same_folders(run, expected, rtol=0.0, atol=0.0):
    assert run.config() == expected.config()
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    pair = written(run), written(expected)
    jax.tree.map(lambda a, b: a == b if isinstance(b, str) else close(a, b), *pair)
    for a, b in zip(arrays(run), arrays(expected), strict=True):
        close(a, b)


def test_a_run_folder_is_that_of_a_single_run(finished, tmp_path):
    assert list(finished.runs()) == ["seed-3", "seed-4"]
    run = finished.runs()["seed-4"]
    single = train(run.config(), tmp_path / "single")
    same_folders(run, single, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        same_folders(finished.runs()["seed-3"], single, rtol=1e-4, atol=1e-5)


def test_what_a_stopped_call_has_evaluated_is_not_evaluated_again(finished, tmp_path):
    """Else a call with too few minutes for all runs would begin anew for ever."""
    shutil.copytree(finished.path, tmp_path / "a")
    runs = {name: tmp_path / "a" / name / "results.json" for name in finished.runs()}
    runs["seed-3"].write_text(json.dumps({**json.loads(runs["seed-3"].read_text()), "seen": 1}))
    runs["seed-4"].unlink()
    found = resume_many(tmp_path / "a").runs()
    assert found["seed-3"].read("results.json")["seen"] == 1
    assert written(found["seed-4"]) == written(finished.runs()["seed-4"])
    # A twin: results of another checkpoint are found anew.
    runs["seed-3"].write_text(json.dumps({**json.loads(runs["seed-3"].read_text()), "step": -1}))
    again = resume_many(tmp_path / "a").runs()["seed-3"].read("results.json")
    assert "seen" not in again


class Stopping(Reporter):
    """Ask the process to stop between the start and the first evaluation."""

    def progress(self, step, steps_per_s):
        if step < 10:
            os.kill(os.getpid(), signal.SIGTERM)


def killed_between(monkeypatch, step, name):
    """The checkpoints of a step are written up to this run's, and not for those after it."""
    save = Checkpoints.save

    def killed(self, at, tree, *, loss):
        if at == step and self.folder.parent.name == name:
            raise KeyboardInterrupt
        save(self, at, tree, loss=loss)

    monkeypatch.setattr(Checkpoints, "save", killed)


@pytest.mark.slow
def test_stopped_and_killed_runs_go_on_to_the_same_bits_together_or_apart(
    finished, tmp_path, monkeypatch
):
    with pytest.raises(Interrupted, match="its minutes at step 0"):
        train_many(TINY, tmp_path / "a", seeds=2, max_minutes=1e-6)
    with pytest.raises(Interrupted, match="SIGTERM at step"):
        resume_many(tmp_path / "a", reporter=Stopping())
    shutil.copytree(tmp_path / "a" / "seed-4", tmp_path / "apart")
    killed_between(monkeypatch, 20, "seed-4")
    with pytest.raises(KeyboardInterrupt):
        resume_many(tmp_path / "a")
    monkeypatch.undo()
    many = resume_many(tmp_path / "a")
    for name, run in many.runs().items():
        same_folders(run, finished.runs()[name])
    assert many.read() == finished.read()
    apart = resume(tmp_path / "apart")
    same_folders(apart, finished.runs()["seed-4"], rtol=1e-4, atol=1e-5)


def test_the_spread_between_runs(finished):
    found = finished.read()
    results = [run.read("results.json") for run in finished.runs().values()]
    (group,) = found["groups"]
    for term in ("log_likelihood", "elbo", "rate", "distortion"):
        values = [result[term][0] for result in results]
        assert group[term]["mean"] == pytest.approx(statistics.mean(values))
        assert group[term]["sd"] == pytest.approx(statistics.stdev(values))
        assert group[term]["sd"] != pytest.approx(statistics.pstdev(values))  # the twin: ddof 0
        assert [row[term] for row in found["rows"]] == [result[term] for result in results]
    assert group["active_units"]["mean"] == statistics.mean(r["active_units"] for r in results)


class Listening(Reporter):
    """Remember what is said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_alone(finished, tmp_path, capsys):
    config, reporter = dataclasses.replace(TINY, seed=4), Listening()
    many = train_many(config, tmp_path / "a", learning_rates=(1e-3, 1e30), reporter=reporter)
    assert reporter.said == ["lr-1e+30: the loss is nan by step 10; the other runs go on"]
    assert many.read()["failed"] == {"lr-1e+30": 10}
    assert [group["runs"] for group in many.read()["groups"]] == [1]
    assert not (tmp_path / "a" / "lr-1e+30" / "results.json").exists()
    same_folders(many.runs()["lr-0.001"], finished.runs()["seed-4"], rtol=1e-4, atol=1e-5)
    print_spread(many.read())
    out = capsys.readouterr().out
    assert "failed by step 10" in out
    assert "between runs" not in out
    print_spread(finished.read())
    out = capsys.readouterr().out
    assert "standard error over examples" in out
    assert "standard deviation between runs" in out


def test_all_diverge(tmp_path):
    with refused("loss", "by step 10 in any of the runs"):
        train_many(TINY, tmp_path / "a", learning_rates=(1e30, 2e30))


def test_names_say_what_differs():
    names = [name for name, _ in members(TINY, seeds=2, learning_rates=(1e-5,), betas=(1.0, 0.25))]
    assert names == [
        "seed-3-lr-1e-05-beta-1",
        "seed-3-lr-1e-05-beta-0.25",
        "seed-4-lr-1e-05-beta-1",
        "seed-4-lr-1e-05-beta-0.25",
    ]


@pytest.mark.parametrize(
    ("values", "lists", "words"),
    [
        ({}, {"seeds": 0}, ("seeds", "at least 1", "got 0")),
        ({}, {"betas": (1.0, 2.0, 1.0)}, ("betas", "1 twice")),
        ({}, {"learning_rates": (1e-3, -1.0)}, ("learning_rate", "above 0")),
        ({}, {"learning_rates": (1e-3, 1e-3)}, ("learning_rates", "twice")),
        ({"learning_rate": 0.1}, {"learning_rates": (1e-3,)}, ("learning_rate", "no effect")),
        ({"beta": 2.0}, {"betas": (1e-3,)}, ("beta", "no effect")),
        ({"objective": "iwae"}, {"betas": (1.0, 2.0)}, ("beta", "no effect")),
        ({"model": "ppca", "fit": "em"}, {"betas": (1.0, 2.0)}, ("beta", "EM")),
        ({"binarize": "static"}, {"seeds": 2}, ("seeds", "binarize=static", "dynamic")),
        ({"stream": True, "data": "x.npy"}, {"seeds": 2}, ("stream", "memory")),
    ],
)
def test_what_cannot_be_trained_together_is_refused(values, lists, words, tmp_path):
    config = TrainConfig(**{"total_steps": 4, "hidden": None, **values})
    with refused(*words):
        train_many(config, tmp_path / "a", **lists)
    assert not (tmp_path / "a").exists()


def test_a_folder_in_use_or_taken_is_refused(finished):
    with refused("name", "exists already", "--resume"):
        train_many(TINY, finished.path, seeds=2)
    with finished.runs()["seed-4"].locked(), refused("in use by process"):
        resume_many(finished.path)


def test_more_devices_than_there_are():
    with refused("devices", "got 1000"):
        Together(None, {}, {"a": build(TINY)}, Reporter(), 1000, Deadline(None))
