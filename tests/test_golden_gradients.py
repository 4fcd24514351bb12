"""Terms and gradients of every bound under every estimator are those of the record."""

import copy
import json

import pytest

from tests.support import golden_gradients


@pytest.mark.slow
def test_bounds_and_gradients_are_those_of_the_record():
    expected = json.loads(golden_gradients.FILE.read_text())
    found = golden_gradients.measure()
    golden_gradients.require_same(found, expected)
    for name, place in (("iwae dreg", 0), ("bits analytic disarm", -1)):
        twin = copy.deepcopy(found)
        largest = max(map(abs, twin[name][place]))
        twin[name][place][0] += 2e-5 * largest
        with pytest.raises(AssertionError, match=f"{name}, array"):
            golden_gradients.require_same(twin, expected)
