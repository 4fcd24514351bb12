"""Checks on eight devices, each module in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import quick

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("numbers", os.environ),  # the law of device counts, by programs as users have them
        ("features", quick()),
        ("evaluation", quick()),
        ("many", quick()),
    ],
)
def test_on_eight_devices(name, environment):
    command = [sys.executable, "-W", "error", "-m", f"tests.devices.{name}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | EIGHT, cwd=root
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
