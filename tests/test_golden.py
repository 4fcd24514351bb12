"""The golden record: this JAX on this machine gives the numbers that were committed."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import golden


@pytest.fixture(scope="module")
def measured():
    """In a process of its own, which optimises as users' programs do."""
    command = [sys.executable, "-W", "error", "-m", "tests.support.golden"]
    environment = os.environ | {"PYTHONPATH": str(golden.ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=golden.ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_record(measured):
    off = golden.require_golden(measured["numbers"], golden.records(), measured["kind"])
    print(f"{measured['kind']}: at most {off:.1e} from a record")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the same", "another"])
@pytest.mark.parametrize("twin", ["keys", "learning rate"])
def test_a_twin_is_rejected_to_the_bit_and_to_the_tolerance(measured, twin, kind):
    expected = {"vae": measured["numbers"]["vae"]}
    golden.require_golden(expected, {"the same": expected}, kind)
    found = {"vae": expected["vae"] | {"losses": measured["twins"][twin]}}
    with pytest.raises(AssertionError, match="vae: off by"):
        golden.require_golden(found, {"the same": expected}, kind)


def test_one_bit_is_rejected_on_the_machine_of_the_record_alone():
    numbers = {"losses": [1.0, 2.0], "elbo": -3.0, "log_likelihood": -2.0}
    other = {"vae": numbers | {"elbo": -3.0000002384185791015625}}
    assert 0 < golden.require_golden(other, {"a": {"vae": numbers}}, "b") < golden.TOLERANCE
    with pytest.raises(AssertionError, match="a: vae: off by"):
        golden.require_golden(other, {"a": {"vae": numbers}}, "a")
