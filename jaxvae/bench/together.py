"""What it costs to train several models in one dispatch, against training them one by one."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxvae.bench.rounds import require_usable
from jaxvae.bench.turns import in_turn, spread
from jaxvae.bench.workloads import LAYERS, WORKLOADS
from jaxvae.networks import Precision, with_precision
from jaxvae.training.feeds import InMemory
from jaxvae.training.many import ManyInMemory, stack
from jaxvae.training.step import init, make_step
from jaxvae.types import PRNGKey, require_positive

MODELS = 8


class Bits(NamedTuple):
    """The rows as a data set: nothing is drawn when a row is read."""

    splits: Mapping[str, Mapping[str, np.ndarray]]

    def observe(self, key: PRNGKey, x: Array, /) -> Array:
        """The stored row itself."""
        del key
        return x


def seeds(
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    precision: Precision = "float32",
    models: int = MODELS,
    batch_size: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Time the steps of several models of `vae` and `iwae50` in one program, as `jaxvae train --seeds` runs them.

    `ratio = seconds(a step of all of them) / (models * seconds(a step of one))`, within a round: below
    1 where it pays.

    Args:
        rows: [N, 28, 28], from `draw_rows`.
        rounds: how often each has its turn.
        seconds_a_round: about how long a turn takes.
        precision: of the products.
        models: how many models.
        batch_size: examples a step and model; each workload's own if not given.
        say: called with a line about what goes on.

    Returns:
        Workload -> `models`, `batch_size`, `seconds` a step of all, `seconds_of_one` (medians) and
        `ratio` (a spread).

    Raises:
        InputError: a number is out of its range.
    """
    require_usable(rounds, seconds_a_round)
    require_positive(models=models)
    data = Bits({"train": {"x": np.asarray(rows)}})
    found = {}
    for name in LAYERS:
        say(f"{models} models of {name} together: compiling")
        size = batch_size or WORKLOADS[name].batch_size
        runs = [feed_run(name, data, size, n, precision) for n in (1, models)]
        one, together = in_turn(runs, rounds, seconds_a_round)
        pairs = zip(together, one, strict=True)
        found[name] = {
            "models": models,
            "batch_size": size,
            "seconds": statistics.median(together),
            "seconds_of_one": statistics.median(one),
            "ratio": spread([all_of_them / (models * single) for all_of_them, single in pairs]),
        }
    return found


def feed_run(
    workload: str, data: Bits, batch_size: int, models: int, precision: Precision
) -> Callable[[int], None]:
    """Training steps of the library's own feed: of one model, or of several at once."""
    optimizer = optax.adam(1e-3)
    built = [LAYERS[workload].build(jax.random.key(i)) for i in range(models)]
    step = make_step(built[0][1], optimizer)
    states = [
        init(jax.random.key(models + i), with_precision(model, precision), optimizer)
        for i, (model, _) in enumerate(built)
    ]
    if models == 1:
        feed, state = InMemory(step, data, batch_size=batch_size), states[0]
    else:
        feed = ManyInMemory(lambda _: step, {}, data, batch_size=batch_size, num_runs=models)
        state = stack(states)
    state = jax.tree.map(jnp.copy, state)  # the feed uses the buffers it is given
    metrics, taken = feed.no_metrics(state), 0

    def run(steps: int) -> None:
        nonlocal state, metrics, taken
        state, metrics = jax.block_until_ready(feed.run(state, metrics, taken, steps))
        taken += steps

    return run
