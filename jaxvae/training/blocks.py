"""Training steps in loops of fixed length.

A loop whose length is known at compile time needs no check of its condition. For a loop whose length is an
array, a GPU copies the condition to the host and waits for it in every iteration. So S steps form a block, a
loop of fixed length, and only the number of blocks is an array, which lets one program serve every count.
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
"""The largest numbers of steps in a block. A CPU gains nothing by more, and a run can stop between blocks."""

OPTIONS = {
    "cpu": {"xla_cpu_prefer_vector_width": 512},
    "gpu": {
        "xla_gpu_graph_min_graph_size": 1,
        "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT_REGIONS",
    },
}
"""XLA options of a training program, by platform."""


def repeat_blocks(one: Callable[[T], T], carry: T, blocks: Int[Array, ""], block_steps: int) -> T:
    """Apply `one` to the carry `blocks * block_steps` times.

    Args:
        one: a step, from one carry to the next.
        carry: a pytree of arrays.
        blocks: the number of blocks; an array, so that one compilation serves all counts.
        block_steps: S, fixed at compile time.
    """

    def block(_: Array, carry: T) -> T:
        return jax.lax.fori_loop(0, block_steps, lambda _, carry: one(carry), carry)

    return jax.lax.fori_loop(0, blocks, block, carry)


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a dispatch; its first two arguments, state and metrics, are donated."""
    return jax.jit(run, donate_argnums=(0, 1), compiler_options=compiler_options())


@cache
def compiler_options() -> dict[str, Any]:
    """Return the XLA options of a training program: those of this backend that the XLA version accepts.

    CPUs with 512-bit vectors: XLA by default prefers 256 bits; with 512 a step of `vae` and `iwae50` took 0.96 to
    0.97 of the time (paired rounds on a Xeon). GPUs: CUDA graphs for short sequences too, independent kernels run
    concurrently; a step of `iwae50` took 0.95 of the time (an H200).
    """
    platform = jax.default_backend()
    wanted = dict(OPTIONS.get(platform, {}))
    if platform == "cpu" and not has_wide_vectors():
        return {}
    return {name: value for name, value in wanted.items() if is_known(name, value)}


def is_known(name: str, value: Any) -> bool:
    """Return whether XLA accepts this option, by compiling a trivial program with it."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def has_wide_vectors() -> bool:
    """Return whether the processor of this machine has AVX-512; False if /proc/cpuinfo cannot be read."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def choose_block_steps(*steps: int, most: int | None = None) -> int:
    """Return the largest common divisor of `steps` that is at most `most`.

    Args:
        steps: steps that must be reached by whole blocks: the first step of a run, the number of steps
            between evaluations, and the last step.
        most: the largest result allowed; 64 by default, 8 on a CPU.

    >>> choose_block_steps(0, 600, 20_000, most=64), choose_block_steps(0, 7, 100)
    (50, 1)
    """
    if most is None:
        most = MOST_ON_CPU if jax.default_backend() == "cpu" else MOST
    common = math.gcd(*steps)
    return max(s for s in range(1, most + 1) if common % s == 0)


def require_blocks(step: int, count: int, block_steps: int, longest: int) -> None:
    """Refuse a dispatch that does not consist of whole blocks, or is too long.

    Raises:
        InputError: `step` or `count` is not a multiple of `block_steps`, or `count` is not in 1 to `longest`.
    """
    if step % block_steps or count % block_steps or not 0 < count <= longest:
        raise InputError(
            f"count: expected a multiple of {block_steps}, the steps in a block, up to {longest}, "
            f"from such a step on, got {count} from step {step}; make the feed with another block_steps"
        )
