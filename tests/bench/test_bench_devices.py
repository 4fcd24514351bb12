"""Devices and ways to run a step: ratios of times that are known, and tiny real runs."""

import os
import subprocess
import sys

import jax
import pytest

from jaxvae.bench import devices, over_devices, turns, ways_on_one_device
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


def test_speed_up_over_devices_of_known_speed(clock, monkeypatch):
    """1 ms an example, shared by the devices, and 2 ms a step for every device beyond the first."""

    def run_of(rows, batch_size, count, precision):
        assert precision == "highest"
        seconds = 1e-3 * batch_size / count + 2e-3 * (count - 1)

        def run(steps):
            clock[0] += steps * seconds
            return steps

        return run

    monkeypatch.setattr(devices, "sharded_run", run_of)
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    said = []
    found = over_devices(
        draw_rows(50), **TIMING, precision="highest", fixed=40, each=10, say=said.append
    )
    fixed, growing = found["fixed"], found["growing"]
    assert (fixed["devices"], fixed["batch_size"]) == ([1, 2, 4], [40] * 3)
    assert fixed["seconds"] == pytest.approx([0.040, 0.022, 0.016])
    speed_up = [one["median"] for one in fixed["speed_up"]]
    assert speed_up == pytest.approx([1, 40 / 22, 40 / 16])
    assert fixed["left_out"] == ["6 devices left out: a batch of 40 does not divide by 6"]
    assert (growing["devices"], growing["batch_size"]) == ([1, 2, 4], [10, 20, 40])
    speed_up = [one["median"] for one in growing["speed_up"]]
    assert speed_up == pytest.approx([1, 2 * 10 / 12, 4 * 10 / 16])
    seconds = growing["seconds"]  # the twin that forgets that the batch has grown
    assert [seconds[0] / s for s in seconds] != pytest.approx(speed_up)
    assert growing["left_out"] == ["6 devices left out: a batch of 60 is more than the 50 rows"]
    assert set(fixed["left_out"] + growing["left_out"]) <= set(said)


@pytest.mark.slow
def test_ways_really_run(monkeypatch, capsys):
    monkeypatch.setitem(LAYERS, "iwae50", Layers(6, 2, 3))
    timing = {"rounds": 2, "seconds_a_round": 0.001}
    rows = draw_rows(30)
    ways = ways_on_one_device(rows, **timing, precision="bfloat16", batch_size=4)
    assert set(ways["jit"]["ratio"].values()) == {1.0}
    for name in ("pmap", "shard"):
        assert ways[name]["ratio"]["min"] > 0
        assert ways[name]["difference"] < 1e-6
    assert ways["jit"]["difference"] == 0
    print_more({"ways": ways})
    said = capsys.readouterr().out
    assert "iwae50 by pmap on one device, a dispatch a step: " in said
    assert "1.00 (1.00 to 1.00) of jit" in said


def test_the_difference_of_parameters_is_seen():
    """Another way to run a step leads to its parameters; a step on other rows, the twin, does not."""
    step, state = devices.step_and_state("float32")
    rows = draw_rows(8)
    here = devices.parameters_after(jax.jit(step), state, rows[:4], steps=1)
    assert devices.largest_difference(here, here) == 0
    there = devices.parameters_after(jax.jit(step), state, rows[4:], steps=1)
    assert devices.largest_difference(here, there) > 1e-4


FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
ON_TWO = """
import jax
from jaxvae.bench import over_devices
from jaxvae.bench.workloads import LAYERS, Layers, draw_rows
from jaxvae.cli.bench_tables import print_devices
LAYERS["iwae50"] = Layers(6, 2, 3)
found = over_devices(draw_rows(4), rounds=1, seconds_a_round=0.001, fixed=4, each=4)
print_devices(found)
"""


@pytest.mark.slow
def test_two_devices_really_run():
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **FAST}
    command = [sys.executable, "-c", ON_TWO]
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    lines = [line.split(":")[0].strip() for line in said.stdout.splitlines()]
    points = ["1 (batch 4)", "2 (batch 4)", "1 (batch 4)", "2 devices left out"]
    assert [line for line in lines if line[0].isdigit()] == points


def test_refusals():
    for measured in (over_devices, ways_on_one_device):
        with refused("rounds", "at least 1"):
            measured(draw_rows(4), rounds=0, seconds_a_round=1.0)
