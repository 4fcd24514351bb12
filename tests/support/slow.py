"""Which cases of a test are in the fast suite."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[str], *fast: str) -> list[Any]:
    """All cases of a test, of which those that are not named are slow.

    Raises:
        ValueError: a name is of no case.
    """
    cases = list(cases)
    if unknown := set(fast) - set(cases):
        raise ValueError(f"fast: expected cases, got {sorted(unknown)}")
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in cases]
