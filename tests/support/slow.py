"""Which cases of a test are in the fast suite, and which in the slow one."""

import os
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
    "conditional_vae",
    "flow_prior_vae",
    "ssvae",
    "ica",
    "gaussian_mixture",
    "hierarchical",
    "autoregressive, made",
    "count_vae",
    "vae of posterior full_covariance",
    "vae of posterior iaf",
    "vae of posterior bernoulli",
    "vae of posterior categorical",
)
"""Models of which each has something that the others have not: the rest are made of the same parts."""


def one_of_each_kind(names: Iterable[str]) -> list[str]:
    """The models that stand for all, or all of them where `JAXVAE_LAWS=all` is set."""
    return [name for name in names if WHOLE or name in KINDS]
