"""Models together: a ratio of times that are known, and a tiny real run."""

import inspect

import jax
import pytest

from jaxvae.bench import seeds, together, turns
from jaxvae.bench.workloads import LAYERS, Layers, draw_rows
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

    def run_of(workload, data, batch_size, models, precision):
        def run(steps):
            clock[0] += steps * (1e-3 + 3e-3 * models)

        return run

    monkeypatch.setattr(together, "feed_run", run_of)
    found = seeds(draw_rows(3), **TIMING)
    assert list(found) == list(LAYERS)
    for one in found.values():
        assert one["ratio"]["median"] == pytest.approx(25 / 32)
        assert (one["seconds"], one["seconds_of_one"]) == pytest.approx((0.025, 0.004))


@pytest.fixture
def small(monkeypatch):
    """One workload, which compiles fast."""
    monkeypatch.delitem(LAYERS, "vae")
    monkeypatch.setitem(LAYERS, "iwae50", Layers(6, 2, 3))


def test_models_together_really_run(small, capsys):
    timing = {"rounds": 2, "seconds_a_round": 0.001, "precision": "bfloat16"}
    found = seeds(draw_rows(30), **timing, models=2, batch_size=4)
    (one,) = found.values()
    assert one["ratio"]["min"] > 0
    assert one["models"] == 2
    print_more({"seeds": found})
    assert "2 models of iwae50 together: " in capsys.readouterr().out


def test_models_together_start_from_their_own_weights(small):
    """What the feed holds is what `--seeds` trains: stacked, and no two alike."""
    data = together.Bits({"train": {"x": jax.device_get(draw_rows(30))}})
    run = together.feed_run("iwae50", data, 4, 2, "float32")
    run(2)
    held = inspect.getclosurevars(run).nonlocals.values()
    (state,) = (value for value in held if hasattr(value, "model"))
    assert int(state.step) == 2
    kernels = state.model.decoder.layers[-1].kernel[...]
    assert len({float(kernel.sum()) for kernel in kernels}) == len(kernels) == 2


def test_refusals():
    rows = draw_rows(4)
    with refused("rounds", "at least 1"):
        seeds(rows, rounds=0, seconds_a_round=1.0)
    with refused("models", "at least 1"):
        seeds(rows, rounds=1, seconds_a_round=1.0, models=0)
