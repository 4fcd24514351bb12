"""The cost of training several models in one dispatch, relative to training them one by one."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from jaxvae.bench.checks import require_usable
from jaxvae.bench.deadline import Deadline
from jaxvae.bench.loops import block_steps, first_block, grey_rows
from jaxvae.bench.turns import Run, in_turn, spread
from jaxvae.bench.workloads import LAYERS, ROWS, WORKLOADS
from jaxvae.checks import require_positive
from jaxvae.networks import Precision, with_precision
from jaxvae.training.feeds import InMemory
from jaxvae.training.many import ManyInMemory, stack
from jaxvae.training.step import init, make_step

MODELS = (8,)


def seeds(
    names: Sequence[str] = ("vae", "iwae50"),
    *,
    rounds: int,
    seconds_a_round: float,
    precision: Precision = "float32",
    models: Sequence[int] = MODELS,
    batch_size: int | None = None,
    rows: int = ROWS,
    deadline: Deadline | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Time the steps of several models of a workload in one program, as in `jaxvae train --seeds`.

    `ratio = seconds(a step of all of them) / (models * seconds(a step of one))`, within a round: below 1
    if joint training is faster.

    Args:
        names: the names of the workloads.
        rounds: number of turns of each.
        seconds_a_round: approximate length of a turn.
        precision: the precision of the matrix products.
        models: the numbers of models, each compared with one model.
        batch_size: examples per step and model; each workload's own if not given.
        rows: number of rows of the data set.
        deadline: the time limit; a number of models is left out if there is no time to compile and time it.
        say: called with lines about the progress.

    Returns:
        Workload -> `batch_size`, `models`, a list that starts with 1, and for each number of models the
        `seconds` of a step of all of them (medians) and `ratio` (spreads).

    Raises:
        InputError: a number is out of its range.
    """
    require_usable(rounds, seconds_a_round)
    for number in models:
        require_positive(models=number)
    deadline = deadline or Deadline()
    found = {}
    for name in names:
        size = batch_size or WORKLOADS[name].batch_size
        counts, runs, longest = [], [], 0.0
        for count in (1, *models):
            if runs and not deadline.allows(
                2 * longest + rounds * seconds_a_round * (len(runs) + 2)
            ):
                say(f"{count} models of {name}: left out, there is no time left")
                continue
            say(f"{count} models of {name} together: compiling")
            run, compile_s = feed_run(name, size, count, precision, rows)
            counts, runs, longest = [*counts, count], [*runs, run], max(longest, compile_s)
        turns = in_turn(runs, rounds, seconds_a_round, deadline)
        found[name] = {
            "batch_size": size,
            "models": counts,
            "seconds": [statistics.median(times) for times in turns],
            "ratio": [
                spread(
                    [all_of / (count * one) for all_of, one in zip(times, turns[0], strict=True)]
                )
                for count, times in zip(counts, turns, strict=True)
            ],
        }
    return found


def feed_run(
    workload: str, batch_size: int, models: int, precision: Precision, rows: int
) -> tuple[Run, float]:
    """Return training steps of the library's feed, of one or several models, and the seconds of the first block."""
    optimizer = optax.adam(1e-3)
    built = [LAYERS[workload].build(jax.random.key(i)) for i in range(models)]
    step = make_step(built[0][1], optimizer)
    states = [
        init(jax.random.key(models + i), with_precision(model, precision), optimizer)
        for i, (model, _) in enumerate(built)
    ]
    data = grey_rows(rows)
    sizes: Any = {"batch_size": batch_size, "block_steps": block_steps()}
    if models == 1:
        return first_block(lambda: InMemory(step, data, **sizes), states[0])
    return first_block(
        lambda: ManyInMemory(lambda _: step, {}, data, **sizes, num_runs=models), stack(states)
    )
