"""Steps in loops of known length.

XLA runs a loop whose length it knows without asking: of one whose length is an array, a GPU copies the
condition to the host and waits for it at every turn. So S steps are a block, a loop of known length, and
only the number of blocks is an array, which lets one program serve every count.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Int

from jaxvae.types import InputError

T = TypeVar("T")

MOST_ON_CPU, MOST = 8, 64
"""Steps in a block. A CPU gains nothing by more, and between blocks a run can be stopped."""

OPTIONS = {
    "cpu": {"xla_cpu_prefer_vector_width": 512},
    "gpu": {
        "xla_gpu_graph_min_graph_size": 1,
        "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT_REGIONS",
    },
}
"""Options of XLA for a training program, by platform."""


def repeat_blocks(one: Callable[[T], T], carry: T, blocks: Int[Array, ""], block_steps: int) -> T:
    """`one` applied `blocks * block_steps` times.

    Args:
        one: a step, from what is carried to the next.
        carry: a pytree of arrays.
        blocks: how many blocks; an array, so that one compilation serves all.
        block_steps: S, known when compiled.
    """

    def block(_: Array, carry: T) -> T:
        return jax.lax.fori_loop(0, block_steps, lambda _, carry: one(carry), carry)

    return jax.lax.fori_loop(0, blocks, block, carry)


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """A dispatch, compiled: state and metrics, its first arguments, are donated."""
    return jax.jit(run, donate_argnums=(0, 1), compiler_options=compiler_options())


@cache
def compiler_options() -> dict[str, Any]:
    """What XLA is asked for in a training program: the options of this backend that its version knows.

    CPUs with vectors of 512 bits: XLA prefers 256 by itself; the whole width took 0.96 to 0.97 of the time of a
    step of `vae` and `iwae50` (paired rounds on a Xeon). GPUs: short graphs too, independent kernels side by
    side, 0.95 of the time of a step of `iwae50` (an H200).
    """
    platform = jax.default_backend()
    wanted = dict(OPTIONS.get(platform, {}))
    if platform == "cpu" and not has_wide_vectors():
        return {}
    return {name: value for name, value in wanted.items() if is_known(name, value)}


def is_known(name: str, value: Any) -> bool:
    """Whether XLA takes this option, asked by a program that does nothing."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def has_wide_vectors() -> bool:
    """Whether the processor of this machine has AVX-512; no, where the system does not say."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def choose_block_steps(*steps: int, most: int | None = None) -> int:
    """The largest number of steps, up to 64 (8 on a CPU), whose multiples reach each of these.

    Args:
        steps: where dispatches begin and end: the first step of a run, how many lie between
            evaluations, and the last.
        most: the largest number allowed.

    >>> choose_block_steps(0, 600, 20_000, most=64), choose_block_steps(0, 7, 100)
    (50, 1)
    """
    if most is None:
        most = MOST_ON_CPU if jax.default_backend() == "cpu" else MOST
    common = math.gcd(*steps)
    return max(s for s in range(1, most + 1) if common % s == 0)


def require_blocks(step: int, count: int, block_steps: int, longest: int) -> None:
    """Refuse a dispatch that is not of whole blocks, or too long.

    Raises:
        InputError: see above.
    """
    if step % block_steps or count % block_steps or not 0 < count <= longest:
        raise InputError(
            f"count: expected a multiple of {block_steps}, the steps in a block, up to {longest}, "
            f"from such a step on, got {count} from step {step}; make the feed with another block_steps"
        )
