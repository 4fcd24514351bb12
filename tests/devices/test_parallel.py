import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numbers", "features", "evaluation", "many"])
def test_on_eight_devices(name):
    command = [sys.executable, "-W", "error", "-m", f"tests.devices.{name}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=root)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
