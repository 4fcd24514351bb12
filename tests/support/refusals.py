"""What a refusal must look like: one line that names the argument."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jaxvae.types import InputError


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect an `InputError` of one line that contains every word."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message, f"a refusal is one line, got {message!r}"
    for word in words:
        assert word in message, f"expected {word!r} in {message!r}"
