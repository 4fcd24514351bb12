"""Which cases of a test are in the fast suite, and which in the slow one."""

import os
import re
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


WHOLE = os.environ.get("JAXVAE_LAWS") == "all"
KINDS = (
    "vae",
    "ssvae",
    "gaussian_mixture",
    "vae of posterior bernoulli",
)
"""Models that stand for all in the slow suite: normal latents, bits, classes, labels, an EM step."""


TWIN = re.compile(r"reject")
"""Names of tests that hold a check against what is wrong on purpose: they prove the tests, not the library."""


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put all such twins into the slow suite."""
    for item in items:
        if TWIN.search(item.name.split("[")[0]):
            item.add_marker(pytest.mark.slow)


def one_of_each_kind(names: Iterable[str]) -> list[str]:
    """The models that stand for all, or all of them where `JAXVAE_LAWS=all` is set."""
    return [name for name in names if WHOLE or name in KINDS]
