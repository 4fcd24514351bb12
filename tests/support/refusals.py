"""Checks of refusals: an error message must be one line that names the argument."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest

from jaxvae.types import InputError


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect an `InputError` of one line that contains every word."""
    with refusal() as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message, f"a refusal is one line, got {message!r}"
    for word in words:
        assert word in message, f"expected {word!r} in {message!r}"


@contextmanager
def refusal(match: str | None = None) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expect an `InputError` from the library as users have it."""
    with pytest.raises(InputError, match=match) as caught, unchecked():
        yield caught


@contextmanager
def unchecked() -> Iterator[None]:
    """Use the library as users have it, without the tests' check of its annotations.

    For calls that the annotations don't allow, where the library's own answer is what is tested.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
