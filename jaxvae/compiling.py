"""How programs are compiled that do not run for long."""

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

NO_TRACE = get_opaque_trace_state(convention="nnx")


def jit_quickly(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` with about half its seconds of compiling; inside of another program, which has options of its own, `jax.jit`.

    On a CPU LLVM works at the first of its levels. Products are library calls and XLA lays out the loops
    itself, so evaluation takes as long and gives the same numbers to rounding; a training loop is left as it is.
    """
    return Quickly(function, options)


class Quickly:
    """A function that is compiled quickly; all else that it is asked for, such as `lower`, is of `jax.jit`'s."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]):
        self._function, self._options = function, options
        self._within = jax.jit(function, **options)
        update_wrapper(self, function)

    @cached_property
    def _alone(self) -> Any:  # at the first call: asking for the backend starts it
        return jax.jit(self._function, compiler_options=_options(), **self._options)

    def __call__(self, *args: Any) -> Any:
        """Call the function, compiled for the place of the call."""
        alone = get_opaque_trace_state(convention="nnx") == NO_TRACE
        return (self._alone if alone else self._within)(*args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._alone, name)


def _options() -> dict[str, Any]:
    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return {}
    return {"xla_backend_optimization_level": 1}
