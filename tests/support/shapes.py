"""The checker of annotations under which the tests run: jaxtyping's shapes and dtypes, beartype's types.

Users pay nothing for it: the library is decorated as the tests import it.
"""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

SWITCH = "JAXVAE_CHECK_ANNOTATIONS"
"""The environment variable that is "on" where the tests check annotations, else "off"."""

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that refuses arguments and results that its annotations don't allow."""
    for name, annotation in getattr(function, "__annotations__", {}).items():
        if annotation is Self:  # beartype knows it in decorated classes alone, not in their methods
            function.__annotations__[name] = Any
    return _check(function)
