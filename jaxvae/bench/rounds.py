"""Rounds in which every workload has its turn, since the speed of a machine drifts."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxvae.bench.alone import compile_alone
from jaxvae.bench.ceiling import Ceiling, prepare_ceiling
from jaxvae.bench.products import flop_of
from jaxvae.bench.turns import calibrate, seconds_of, spread
from jaxvae.bench.twins import Twins
from jaxvae.bench.workloads import WORKLOADS, Job
from jaxvae.networks import Precision
from jaxvae.types import InputError, require_positive


def measure(
    names: Sequence[str],
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    batch_size: int | None = None,
    precision: Precision = "float32",
    peers: bool = False,
    torch_python: str = sys.executable,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time workloads in turn, each beside its own products alone and its peers, and a large product.

    `efficiency = seconds(products of a step, alone) / seconds(step)`, `of_matmul = flop/s of the step /
    flop/s of the large product` and `ratio = steps/s here / steps/s of the peer`, each within a round.

    Args:
        names: of `WORKLOADS`.
        rows: [N, 28, 28], from `draw_rows`.
        rounds: how often each has its turn.
        seconds_a_round: about how long a turn takes.
        batch_size: examples a step; each workload's own if not given.
        precision: of the products, see `jaxvae.networks.with_precision`.
        peers: whether the same steps in other libraries take turns too, see `jaxvae.bench.twins`.
        torch_python: an interpreter with PyTorch, for them.
        say: called with a line about what goes on.

    Returns:
        `workloads`: name -> `about`, `batch_size`, `compile_s`, `memory_bytes` (beside inputs and outputs),
        `flop_a_step`, and the median, least and largest over rounds of `steps_per_s`, `examples_per_s`,
        `flop_per_s`, `efficiency` and `of_matmul`; with peers, `peers`: name -> `version`, `parameters`, `loss`
        before training, `warm_up_s`, `steps_per_s` and `ratio`. `matmul`: `size`, `dtype`, `flop` and
        `flop_per_s`. `peers_left_out`: a line for each that did not run.

    Raises:
        InputError: a number is out of its range, or a name is not known.
    """
    names = list(dict.fromkeys(names))
    require_known(names)
    require_usable(rounds, seconds_a_round)
    if batch_size is not None:
        require_batch_size(batch_size, len(rows))
    say(f"matmul in {precision}: compiling")
    ceiling = prepare_ceiling(precision)
    ceiling_steps, ceiling_s = calibrate(ceiling.run, seconds_a_round / 2), []
    turns = {}
    with Twins(torch_python, precision, len(rows), seconds_a_round, say) as twins:
        for name in names:
            say(f"{name}: compiling")
            workload = WORKLOADS[name]
            size = batch_size or workload.batch_size
            turns[name] = Turn(workload.prepare(size, rows, precision), seconds_a_round)
            if peers:
                twins.start(name, size)
        for i in range(rounds):
            ceiling_s.append(seconds_of(ceiling.run, ceiling_steps) / ceiling_steps)
            for name, turn in turns.items():
                steps_per_s = turn.take()
                say(f"round {i + 1}/{rounds}: {name} {steps_per_s:.4g} steps/s")
                twins.take(name, steps_per_s)
        found = {}
        for name, turn in turns.items():
            found[name] = {"about": WORKLOADS[name].about, **turn.record(ceiling, ceiling_s)}
            if beside := twins.record(name):
                found[name]["peers"] = beside
    matmul = {**ceiling.record(), "flop_per_s": spread([ceiling.flop / s for s in ceiling_s])}
    return {"workloads": found, "matmul": matmul, "peers_left_out": twins.left_out}


class Turn:
    """A compiled workload and its products alone, with what was timed so far.

    Args:
        job: the workload.
        seconds: about how long a turn takes.
    """

    def __init__(self, job: Job, seconds: float):
        self.job, self.alone = job, compile_alone(job.products, jax.random.key(4))
        self.steps, self.alone_steps = (
            calibrate(run, seconds / 2) for run in (job.run, self.alone)
        )
        self.step_s: list[float] = []
        self.alone_s: list[float] = []

    def take(self) -> float:
        """Time it once; return the steps a second."""
        self.step_s.append(seconds_of(self.job.run, self.steps) / self.steps)
        self.alone_s.append(seconds_of(self.alone, self.alone_steps) / self.alone_steps)
        return 1 / self.step_s[-1]

    def record(self, ceiling: Ceiling, ceiling_s: Sequence[float]) -> dict[str, Any]:
        """What was found, beside the seconds of the large product in the same rounds."""
        size, flop = self.job.batch_size, flop_of(self.job.products)
        pairs = list(zip(self.step_s, self.alone_s, ceiling_s, strict=True))
        return {
            "batch_size": size,
            "compile_s": self.job.compile_s,
            "memory_bytes": self.job.memory_bytes,
            "flop_a_step": flop,
            "steps_a_round": self.steps,
            "steps_per_s": spread([1 / seconds for seconds in self.step_s]),
            "examples_per_s": spread([size / seconds for seconds in self.step_s]),
            "flop_per_s": spread([flop / seconds for seconds in self.step_s]),
            "efficiency": spread([alone / step for step, alone, _ in pairs]),
            "of_matmul": spread([flop / step * s / ceiling.flop for step, _, s in pairs]),
        }


def require_usable(rounds: int, seconds_a_round: float) -> None:
    """Raise where there is nothing to time.

    Raises:
        InputError: rounds below 1, or a time that is not positive and finite.
    """
    require_positive(rounds=rounds)
    if not 0 < seconds_a_round < float("inf"):
        raise InputError(
            f"seconds_a_round: expected a number of seconds above 0, got {seconds_a_round!r}"
        )


def require_batch_size(batch_size: int, num_rows: int) -> None:
    """Raise where a batch cannot be drawn from the rows.

    Raises:
        InputError: below 1, or more than there are rows.
    """
    require_positive(batch_size=batch_size)
    if batch_size > num_rows:
        raise InputError(
            f"batch_size: expected at most {num_rows:,}, the number of rows, got {batch_size:,}"
        )


def require_known(names: Sequence[str]) -> None:
    """Raise where there is no such workload, or none is named.

    Raises:
        InputError: see above.
    """
    known = ", ".join(WORKLOADS)
    if not names:
        raise InputError(f"workloads: expected at least one of {known}, got none")
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"workloads: expected some of {known}, got {name!r}")
