"""A check of refusals: an error message must be one line that names the argument."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest

from jaxvae.types import InputError


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect an `InputError` of one line that contains every word, from the library as users have it.

    Annotations are not checked meanwhile: what they don't allow is what is to be refused in words.
    """
    with pytest.raises(InputError) as caught, unchecked():
        yield
    message = str(caught.value)
    assert "\n" not in message, f"a refusal is one line, got {message!r}"
    for word in words:
        assert word in message, f"expected {word!r} in {message!r}"


@contextmanager
def unchecked() -> Iterator[None]:
    """The library as users have it, whose annotations nobody checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
