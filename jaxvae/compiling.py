"""How programs are compiled that do not run for long."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

NO_TRACE = get_opaque_trace_state(convention="nnx")


def jit_quickly(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` with about half its seconds of compiling; inside of another program, which has options of its own, `jax.jit`.

    On a CPU LLVM works at the first of its levels. Products are library calls and XLA lays out the loops
    itself, so evaluation takes as long and gives the same numbers to rounding; a training loop is left as it is.
    """

    @cache
    def compiled() -> Any:  # at the first call: asking for the backend starts it
        return jax.jit(function, compiler_options=_options(), **options)

    within = jax.jit(function, **options)

    @wraps(function)
    def call(*args: Any) -> Any:
        alone = get_opaque_trace_state(convention="nnx") == NO_TRACE
        return compiled()(*args) if alone else within(*args)

    for name in ("lower", "_cache_size"):
        setattr(call, name, lambda *args, name=name: getattr(compiled(), name)(*args))
    return call


def _options() -> dict[str, Any]:
    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return {}
    return {"xla_backend_optimization_level": 1}
