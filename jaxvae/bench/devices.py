"""The speed-up of the step of `iwae50` over devices, and the cost of `jit`, `pmap` and `shard` on one device."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxvae.bench.blocks import block_of, in_blocks
from jaxvae.bench.checks import require_usable
from jaxvae.bench.deadline import Deadline
from jaxvae.bench.products import flop_of, products_of
from jaxvae.bench.turns import Run, in_turn, spread
from jaxvae.bench.workloads import LAYERS, WORKLOADS
from jaxvae.networks import Precision, with_precision
from jaxvae.parallel import pmap, shard
from jaxvae.placement import put, replicated
from jaxvae.training.blocks import compiler_options
from jaxvae.training.step import Step, TrainState, init, make_step

FIXED_BATCH_SIZE = 160
"""The batch size that is the same for every number of devices."""


def over_devices(
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    precision: Precision = "float32",
    fixed: int = FIXED_BATCH_SIZE,
    each: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Time the step of `iwae50`, by `jaxvae.parallel.shard`, on 1, 2, 4, .. and on all devices.

    `speed_up = examples/s on n devices / examples/s on one`, within a round; the ideal is n.

    Args:
        rows: [N, 28, 28], from `draw_rows`.
        rounds: number of turns of each number of devices.
        seconds_a_round: approximate length of a turn.
        precision: the precision of the matrix products.
        fixed: the total batch size for `fixed`, the same for every number of devices.
        each: the batch size per device for `growing`; that of the workload if not given.
        say: called with lines about the progress.

    Returns:
        `fixed` and `growing` -> `devices`, `batch_size`, `seconds` per step (medians), `speed_up` (spreads),
        and `left_out`, a line for each number of devices that the batch or the rows do not allow.

    Raises:
        InputError: a number is out of its range.
    """
    require_usable(rounds, seconds_a_round)
    each = each or WORKLOADS["iwae50"].batch_size
    counts = device_counts(jax.device_count())
    found = {}
    for name, sizes in (("fixed", [fixed] * len(counts)), ("growing", [each * n for n in counts])):
        points, left_out = [], []
        for count, size in zip(counts, sizes, strict=True):
            reason = why_not(count, size, len(rows))
            if reason is None:
                points.append((count, size))
            else:
                left_out.append(f"{count} devices left out: {reason}")
                say(left_out[-1])
        runs = []
        for count, size in points:
            say(f"iwae50 on {count} devices, batch {size}: compiling")
            runs.append(sharded_run(rows, size, count, precision))
        turns = in_turn(runs, rounds, seconds_a_round)
        found[name] = {
            "devices": [count for count, _ in points],
            "batch_size": [size for _, size in points],
            "seconds": [statistics.median(times) for times in turns],
            "speed_up": [
                spread(
                    [
                        size / s / (points[0][1] / one)
                        for s, one in zip(times, turns[0], strict=True)
                    ]
                )
                for (_, size), times in zip(points, turns, strict=True)
            ],
            "left_out": left_out,
        }
    return found


def device_counts(most: int) -> list[int]:
    """Return the powers of two up to the number of devices, and that number.

    >>> device_counts(1), device_counts(6), device_counts(8)
    ([1], [1, 2, 4, 6], [1, 2, 4, 8])
    """
    return sorted({*(2**i for i in range(most.bit_length())), most})


def why_not(devices: int, batch_size: int, num_rows: int) -> str | None:
    """Return the reason why a batch cannot be split over this number of devices; None if it can.

    >>> why_not(3, 160, 60_000)
    'a batch of 160 does not divide by 3'
    """
    if batch_size % devices:
        return f"a batch of {batch_size} does not divide by {devices}"
    if batch_size > num_rows:
        return f"a batch of {batch_size} is more than the {num_rows:,} rows"
    return None


def sharded_run(rows: Array, batch_size: int, devices: int, precision: Precision) -> Run:
    """Return blocks of steps, with batches split over the devices, as `jaxvae train` runs them."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    everywhere = replicated(mesh)
    bare, state = step_and_state(precision)
    step = shard(bare, mesh)
    starts = len(rows) - batch_size + 1

    block = block_of(flop_of(products_of(bare, state, rows[:batch_size])))

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def loop(state: TrainState, rows: Array) -> TrainState:
        def one(_: Array, state: TrainState) -> TrainState:
            start = state.step * batch_size % starts
            return step(state, jax.lax.dynamic_slice_in_dim(rows, start, batch_size))[0]

        state = jax.lax.fori_loop(0, block, one, state)
        return jax.lax.with_sharding_constraint(state, everywhere)

    rows, state = put(rows, everywhere), put(jax.tree.map(jnp.copy, state), everywhere)

    def dispatch() -> Array:
        nonlocal state
        state = loop(state, rows)
        return state.step

    return in_blocks(block, dispatch)


def ways_on_one_device(
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    precision: Precision = "float32",
    batch_size: int | None = None,
    deadline: Deadline | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Time the step of `iwae50` on one device by `jit`, by `pmap` and by `shard`, one dispatch per step.

    Args:
        rows: [N, 28, 28], from `draw_rows`.
        rounds: number of turns of each.
        seconds_a_round: approximate length of a turn.
        precision: the precision of the matrix products.
        batch_size: examples per step; that of the workload if not given.
        deadline: the time limit; a round that it does not allow is not started, except the first.
        say: called with lines about the progress.

    Returns:
        `jit`, `pmap` and `shard` -> `seconds` per step (median); `ratio`, a spread: its time / that of
        `jit` in the same round; and `difference`, the largest absolute difference of its parameters from
        those of `jit` after three steps.

    Raises:
        InputError: a number is out of its range.
    """
    require_usable(rounds, seconds_a_round)
    say("iwae50 by jit, pmap and shard on one device: compiling")
    bare, state = step_and_state(precision)
    batch = rows[: batch_size or WORKLOADS["iwae50"].batch_size]
    device = jax.devices()[:1]
    ways: dict[str, Step] = {
        "jit": jax.jit(bare),
        "pmap": pmap(bare, devices=device),
        "shard": shard(bare, Mesh(np.array(device), ("data",))),
    }
    after = [parameters_after(step, state, batch) for step in ways.values()]
    runs = [_called(step, state, batch) for step in ways.values()]
    turns = in_turn(runs, rounds, seconds_a_round, deadline)
    return {
        name: {
            "seconds": statistics.median(times),
            "ratio": spread(ratios(times, turns[0])),
            "difference": largest_difference(parameters, after[0]),
        }
        for name, times, parameters in zip(ways, turns, after, strict=True)
    }


def parameters_after(step: Step, state: TrainState, batch: Array, steps: int = 3) -> list[Array]:
    """Return the parameters after `steps` steps on one batch."""
    for _ in range(steps):
        state, _ = step(state, batch)
    return jax.tree.leaves(state.model)


def largest_difference(some: Sequence[Array], others: Sequence[Array]) -> float:
    """Return the largest absolute difference between corresponding entries."""
    pairs = zip(jax.device_get(some), jax.device_get(others), strict=True)
    return max(float(np.max(np.abs(a - b))) for a, b in pairs)


def ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratios of times to base times, round by round."""
    return [one / other for one, other in zip(times, base, strict=True)]


def step_and_state(precision: Precision) -> tuple[Step, TrainState]:
    """Return the step of `iwae50` with Adam, and the initial state."""
    model, objective = LAYERS["iwae50"].build(jax.random.key(0))
    optimizer = optax.adam(1e-3)
    state = init(jax.random.key(2), with_precision(model, precision), optimizer)
    return make_step(objective, optimizer), state


def _called(step: Step, state: TrainState, batch: Array) -> Run:
    """Return a `Run` that calls a step repeatedly and passes the state on."""

    def run(steps: int) -> int:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        return steps

    return run
