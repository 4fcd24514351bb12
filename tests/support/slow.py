"""The division of test cases into the fast suite and the slow one."""

import os
import re
from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[str], *fast: str) -> list[Any]:
    """Return all cases of a test, and mark those not named in `fast` as slow.

    Raises:
        ValueError: a name is not a case.
    """
    cases = list(cases)
    if unknown := set(fast) - set(cases):
        raise ValueError(f"fast: expected cases, got {sorted(unknown)}")
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in cases]


WHOLE = os.environ.get("JAXVAE_LAWS") == "all"
KINDS = (
    "vae",
    "ssvae",
    "gaussian_mixture",
    "vae of posterior bernoulli",
)
"""Models that represent all others in the slow suite: normal latents, bits, classes, labels, an EM step."""


TWIN = re.compile(r"reject")
"""The pattern in the names of twins: tests that a check rejects a planted bug, which test the tests."""


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all twins as slow."""
    for item in items:
        if TWIN.search(item.name.split("[")[0]):
            item.add_marker(pytest.mark.slow)


def one_of_each_kind(names: Iterable[str]) -> list[str]:
    """Return the models in `KINDS`, or all of them if `JAXVAE_LAWS=all` is set."""
    return [name for name in names if WHOLE or name in KINDS]
