"""Refusals in words: each names the argument, what was expected, what came, and what to do.

A traced number is a schedule's: only its shape and dtype can be checked.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxvae.types import InputError


def require_key(key: Any, name: str = "key") -> None:
    """Refuse anything but one typed key.

    Raises:
        InputError: `key` is an int, None, a legacy uint32 key, an "rbg" key, or an array of keys.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of {dtype}"
        raise InputError(f"{name}: expected a key made by jax.random.key(seed), got {got}")
    if "rbg" in (kind := str(jax.random.key_impl(key))):
        raise InputError(
            f'{name}: expected a key whose draws do not depend on what is mapped over, got one of "{kind}", which '
            "under vmap draws from one key for all; set jax_default_prng_impl to threefry2x32"
        )
    if key.shape != ():
        raise InputError(
            f"{name}: expected one key, got an array of keys of shape {key.shape}; "
            "vmap the function over keys, or pass one of them"
        )


def require_choice(name: str, value: Any, choices: Iterable[str], *, or_else: str = "") -> None:
    """Refuse anything but one of these strings.

    Args:
        name: of the argument.
        value: what was given.
        choices: the strings that are allowed, such as `get_args` of a `Literal`.
        or_else: what else is allowed, for the message.

    Raises:
        InputError: naming the argument and the choices.

    >>> require_choice("side", "up", ["left", "right"])
    Traceback (most recent call last):
    ...
    jaxvae.types.InputError: side: expected "left" or "right", got 'up'
    """
    names = list(choices)
    if isinstance(value, str) and value in names:
        return
    quoted = [f'"{choice}"' for choice in names]
    expected = " or ".join(quoted) if len(quoted) <= 2 else f"one of {', '.join(quoted)}"
    raise InputError(f"{name}: expected {expected}{or_else}, got {_shown(value)}")


def require_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    or_else: str = "",
) -> None:
    """Refuse anything but one finite real number within these limits: Python's, NumPy's or JAX's.

    Args:
        name: of the argument.
        value: what was given.
        above: a limit that the number must exceed.
        at_least: the smallest number allowed.
        below: a limit that the number must stay below.
        at_most: the largest number allowed.
        or_else: what else is allowed, or what the number means, for the message.

    Raises:
        InputError: naming the argument and the limits.

    >>> require_number("momentum", 1.0, at_least=0, below=1)
    Traceback (most recent call last):
    ...
    jaxvae.types.InputError: momentum: expected a finite number in [0, 1), got 1.0
    """
    range_ = _range(above, at_least, below, at_most)
    expected = f"{name}: expected a finite number{range_}{or_else}"
    if not hasattr(value, "dtype") and (
        isinstance(value, bool) or not isinstance(value, int | float)
    ):
        raise InputError(f"{expected}, got {_shown(value)}")
    if np.shape(value) != ():
        raise InputError(f"{expected}, got an array of shape {np.shape(value)}")
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise InputError(f"{expected}, got a complex one, {_shown(value)}")
    if not is_known(value):  # a schedule's, such as `step > 3`
        return
    if not jnp.issubdtype(dtype, jnp.number):
        raise InputError(f"{expected}, got {_shown(value)}")
    number = _as_written(value)
    allowed = (
        (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not (allowed and np.isfinite(number)):
        raise InputError(f"{expected}, got {_shown(value)}")


def known_number(name: str, value: Any, **limits: Any) -> float:
    """Return a number as Python's float, after `require_number`; refuse one that is traced.

    For numbers that a program is compiled for, or that are compared in Python.

    Raises:
        InputError: naming the argument and the limits.

    >>> known_number("share", np.float32(0.8), above=0, at_most=1)
    0.8
    """
    require_number(name, value, **limits)
    if not is_known(value):
        raise InputError(
            f"{name}: expected a number, got one that is traced; pass it from outside of jax.jit, jax.vmap and jax.grad"
        )
    return _as_written(value)


def _shown(value: Any) -> str:
    """Return the repr of a value on one line of bounded length."""
    said = " ".join(repr(value).split())
    return said if len(said) <= 200 else f"{said[:200]}.."


def _as_written(value: Any) -> float:
    """Return the shortest decimal that rounds to the number in its own precision: 0.8 for float32's 0.800000012."""
    return float(str(np.asarray(value)[()]))


def _range(
    above: float | None, at_least: float | None, below: float | None, at_most: float | None
) -> str:
    """Return the limits in words, or as an interval if there are two."""
    lower = above if above is not None else at_least
    upper = below if below is not None else at_most
    if lower is None and upper is None:
        return ""
    if upper is None:
        return f" above {lower:g}" if above is not None else f" of at least {lower:g}"
    if lower is None:
        return f" below {upper:g}" if below is not None else f" of at most {upper:g}"
    return f" in {'(' if above is not None else '['}{lower:g}, {upper:g}{')' if below is not None else ']'}"


def require_weight(**values: Any) -> None:
    """Refuse a weight that is not one finite number of at least 0.

    Raises:
        InputError: naming the weight.
    """
    for name, value in values.items():
        require_number(name, value, at_least=0)


def require_integer(name: str, value: Any, *, at_least: int, or_else: str = "") -> int:
    """Return the value if it is an integer of Python, of at least this size.

    Raises:
        InputError: naming the argument and the limit.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InputError(
            f"{name}: expected an integer of at least {at_least}{or_else}, got {_shown(value)}"
        )
    return value


def require_positive(**values: Any) -> None:
    """Refuse counts below one.

    Raises:
        InputError: naming the first that is not an integer of at least 1.
    """
    for name, value in values.items():
        require_integer(name, value, at_least=1)


def is_known(value: Any) -> bool:
    """Return whether a number is a value that can be looked at, not one that is traced."""
    return not isinstance(value, Tracer)
