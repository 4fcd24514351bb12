"""Models together: a ratio of times that are known, and a tiny real run."""

import pytest

from jaxvae.bench import Deadline, seeds, together, turns
from jaxvae.bench.workloads import LAYERS, Layers
from jaxvae.cli.bench_tables import print_more
from tests.support.refusals import refused

TIMING = {"rounds": 2, "seconds_a_round": 1e4}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    return now


def test_models_together_of_known_speed(clock, monkeypatch):
    """3 ms a model and 1 ms a step: 8 together take 25 ms, 8 alone 32 ms."""

    def run_of(workload, batch_size, models, precision, rows):
        def run(steps):
            clock[0] += steps * (1e-3 + 3e-3 * models)
            return steps

        return run, 1.0

    monkeypatch.setattr(together, "feed_run", run_of)
    found = seeds(**TIMING, models=(8, 32))
    assert list(found) == ["vae", "iwae50"]
    for one in found.values():
        assert one["models"] == [1, 8, 32]
        ratios = [ratio["median"] for ratio in one["ratio"]]
        assert ratios == pytest.approx([1, 25 / 32, 97 / 128])
        assert one["seconds"] == pytest.approx([0.004, 0.025, 0.097])
    said = []
    late = Deadline(1.0, clock=lambda: 0.0)
    found = seeds(["vae"], **TIMING, models=(8, 32), deadline=late, say=said.append)
    assert found["vae"]["models"] == [1]
    assert [line for line in said if "left out" in line] == [
        f"{count} models of vae: left out, there is no time left" for count in (8, 32)
    ]


@pytest.fixture
def small(monkeypatch):
    """A workload that compiles fast."""
    monkeypatch.setitem(LAYERS, "iwae50", Layers(6, 2, 3))


@pytest.mark.slow
def test_models_together_really_run(small, capsys):
    timing = {"rounds": 2, "seconds_a_round": 0.001, "precision": "bfloat16"}
    found = seeds(["iwae50"], **timing, models=(2,), batch_size=4, rows=30)
    one = found["iwae50"]
    assert one["models"] == [1, 2]
    assert all(ratio["min"] > 0 for ratio in one["ratio"])
    print_more({"seeds": found})
    (line,) = capsys.readouterr().out.splitlines()  # one model says nothing
    assert line.startswith("2 models of iwae50 together: ")


def test_models_together_start_from_their_own_weights(small):
    """What the feed holds is what `--seeds` trains: stacked, and no two alike."""
    run, _ = together.feed_run("iwae50", 4, 2, "float32", 30)
    driver = run.__self__
    assert int(driver.state.step) == 8
    assert run(2) == 8
    assert int(driver.state.step) == 16
    kernels = driver.state.model.decoder.layers[-1].kernel[...]
    assert len({float(kernel.sum()) for kernel in kernels}) == len(kernels) == 2


def test_refusals():
    with refused("rounds", "at least 1"):
        seeds(rounds=0, seconds_a_round=1.0)
    with refused("models", "at least 1"):
        seeds(rounds=1, seconds_a_round=1.0, models=(0,))
