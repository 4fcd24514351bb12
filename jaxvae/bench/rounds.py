"""Timing in rounds, in each of which every workload has one turn, since the speed of a machine drifts."""

import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxvae.bench.alone import compile_alone
from jaxvae.bench.ceiling import Ceiling, prepare_ceiling
from jaxvae.bench.checks import require_batch_size, require_known, require_usable
from jaxvae.bench.deadline import Deadline
from jaxvae.bench.products import flop_of
from jaxvae.bench.turns import calibrate, seconds_a_step, spread
from jaxvae.bench.twins import PATIENCE_S, Twins
from jaxvae.bench.workloads import WORKLOADS, Job
from jaxvae.networks import Precision


def measure(
    names: Sequence[str],
    rows: Array,
    *,
    rounds: int,
    seconds_a_round: float,
    batch_size: int | None = None,
    precision: Precision = "float32",
    peers: bool | Collection[str] = False,
    torch_python: str = sys.executable,
    deadline: Deadline | None = None,
    publish: Callable[[dict[str, Any]], None] = lambda found: None,
    leave_out: Callable[[str], None] = lambda line: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time workloads in turn, each with its products alone, the library's loop, its peers, and a large product.

    `efficiency = seconds(products of a step, alone) / seconds(step)`, `of_matmul = flop/s of the step /
    flop/s of the large product`, `loop.ratio = seconds(step, bare) / seconds(step in the library's own loop)`
    and `ratio = steps/s here / steps/s of the peer`, each within a round.

    Args:
        names: names in `WORKLOADS`, the most important first.
        rows: [N, 28, 28], from `draw_rows`.
        rounds: number of turns of each.
        seconds_a_round: approximate length of a turn.
        batch_size: examples per step; each workload's own if not given.
        precision: the precision of the matrix products, see `jaxvae.networks.with_precision`.
        peers: whether to time the same steps in other libraries too, or the names of the peers to time,
            see `jaxvae.bench.twins`.
        torch_python: an interpreter with PyTorch, for the peers.
        deadline: the time limit; workloads and rounds that it does not allow are left out.
        publish: called after every round with the result so far.
        leave_out: called with a line about each part that the deadline did not allow.
        say: called with lines about the progress.

    Returns:
        `workloads`: name -> `about`, `batch_size`, `compile_s`, `memory_bytes` (without inputs and outputs),
        `flop_a_step`, `rounds`, and the median, minimum and maximum over rounds of `steps_per_s`,
        `examples_per_s`, `flop_per_s`, `efficiency` and `of_matmul`; for those that train, `loop`: `compile_s`,
        `steps_per_s` and `ratio`; with peers, `peers`: name -> `version`, `parameters`, `loss` before
        training, `warm_up_s`, `steps_per_s` and `ratio`. `matmul`: `size`, `dtype`, `flop` and
        `flop_per_s`. `peers_left_out`: a line for each peer that did not run. If the deadline did not allow
        a single round, `workloads` is empty and there is no `matmul`.

    Raises:
        InputError: a number is out of its range, or a name is not known.
    """
    names = list(dict.fromkeys(names))
    require_known(names)
    require_usable(rounds, seconds_a_round)
    if batch_size is not None:
        require_batch_size(batch_size, len(rows))
    deadline = deadline or Deadline()
    only = None if isinstance(peers, bool) else peers
    with Twins(torch_python, precision, len(rows), seconds_a_round, say, only) as twins:
        if peers:
            for name in names:
                twins.start(name, batch_size or WORKLOADS[name].batch_size)
        say(f"matmul in {precision}: compiling")
        stage = Rounds(prepare_ceiling(precision), twins, rounds, seconds_a_round)
        longest = 0.0
        for name in names:
            if not deadline.allows(stage.needs(more=1) + 2 * longest):
                leave_out(f"{name} in {precision}: left out: no time to compile and to time it")
                continue
            say(f"{name}: compiling")
            begin, size = time.monotonic(), batch_size or WORKLOADS[name].batch_size
            stage.add(name, WORKLOADS[name].prepare(size, rows, precision))
            longest = max(longest, time.monotonic() - begin)
        twins.come_up(Deadline(deadline.left() - stage.needs()))
        stage.calibrate(deadline)
        for i in range(rounds):
            if not deadline.allows(stage.round_s):
                leave_out(f"rounds {i + 1} to {rounds} in {precision}: left out: no time")
                break
            for name, speed in stage.round(deadline):
                say(f"round {i + 1}/{rounds}: {name} {speed:.4g} steps/s")
            publish(stage.record())
        return stage.record()


class Rounds:
    """Compiled workloads that are timed in turn with their twins and a large product.

    Args:
        ceiling: the large product.
        twins: the twins, started already.
        rounds: the number of rounds planned.
        seconds: approximate length of a turn.
    """

    def __init__(self, ceiling: Ceiling, twins: Twins, rounds: int, seconds: float):
        self.ceiling, self.twins = ceiling, twins
        self.rounds, self.seconds = rounds, seconds
        self.turns: dict[str, Turn] = {}
        self.ceiling_steps, self.ceiling_s = 0, list[float]()
        self.round_s = 0.0
        """Seconds of a round: an estimate, then the time of the last round."""

    def add(self, name: str, job: Job) -> None:
        """Add a workload."""
        self.turns[name] = Turn(job, self.seconds)

    def needs(self, more: int = 0) -> float:
        """Estimate the seconds of calibration and all rounds, with `more` additional workloads."""
        return (self.rounds + 2) * self._estimate(more)

    def _estimate(self, more: int = 0) -> float:
        return self.seconds * (0.5 + 1.5 * (len(self.turns) + more) + len(self.twins))

    def calibrate(self, deadline: Deadline) -> None:
        """Find the number of steps that fill a turn; call it after all compilation."""
        self.ceiling_steps = calibrate(self.ceiling.run, self.seconds / 2)
        for turn in self.turns.values():
            turn.calibrate()
        self.twins.calibrate(patience(deadline))
        self.round_s = self._estimate()

    def round(self, deadline: Deadline) -> list[tuple[str, float]]:
        """Run one round, and return the names of the workloads with their steps per second."""
        begin, found = time.monotonic(), []
        self.ceiling_s.append(seconds_a_step(self.ceiling.run, self.ceiling_steps))
        for name, turn in self.turns.items():
            speed = turn.take()
            found.append((name, speed))
            self.twins.take(name, speed, patience(deadline))
        self.round_s = time.monotonic() - begin
        return found

    def record(self) -> dict[str, Any]:
        """Return the result of `measure` for the rounds so far."""
        if not self.ceiling_s:
            return {"workloads": {}, "peers_left_out": list(self.twins.left_out)}
        found = {}
        for name, turn in self.turns.items():
            found[name] = {
                "about": WORKLOADS[name].about,
                **turn.record(self.ceiling, self.ceiling_s),
            }
            if beside := self.twins.record(name):
                found[name]["peers"] = beside
        speed = spread([self.ceiling.flop / s for s in self.ceiling_s])
        return {
            "workloads": found,
            "matmul": {**self.ceiling.record(), "flop_per_s": speed},
            "peers_left_out": list(self.twins.left_out),
        }


def patience(deadline: Deadline) -> float:
    """Return the seconds that a twin may take to answer."""
    return max(0.0, min(PATIENCE_S, deadline.left()))


class Turn:
    """A compiled workload, its products alone and the library's loop, with their times so far.

    Args:
        job: the workload.
        seconds: approximate length of a turn.
    """

    def __init__(self, job: Job, seconds: float):
        self.job, self.seconds = job, seconds
        self.loop = job.loop() if job.loop else None
        alone = compile_alone(job.products, jax.random.key(4))
        alone(1)
        self.runs = {"step": job.run, "alone": alone}
        if self.loop:
            self.runs["loop"] = self.loop.run
        self.steps: dict[str, int] = {}
        self.taken: dict[str, list[float]] = {name: [] for name in self.runs}

    def calibrate(self) -> None:
        """Find the number of steps of each that fill half a turn."""
        self.steps = {name: calibrate(run, self.seconds / 2) for name, run in self.runs.items()}

    def take(self) -> float:
        """Time each once, and return the steps per second."""
        for name, run in self.runs.items():
            self.taken[name].append(seconds_a_step(run, self.steps[name]))
        return 1 / self.taken["step"][-1]

    def record(self, ceiling: Ceiling, ceiling_s: Sequence[float]) -> dict[str, Any]:
        """Return the results, relative to the seconds of the large product in the same rounds."""
        size, flop, step_s = self.job.batch_size, flop_of(self.job.products), self.taken["step"]

        def over(others: Sequence[float]) -> dict[str, float]:
            return spread([other / step for step, other in zip(step_s, others, strict=True)])

        found = {
            "batch_size": size,
            "compile_s": self.job.compile_s,
            "memory_bytes": self.job.memory_bytes,
            "flop_a_step": flop,
            "rounds": len(step_s),
            "steps_a_round": self.steps["step"],
            "steps_per_s": spread([1 / seconds for seconds in step_s]),
            "examples_per_s": spread([size / seconds for seconds in step_s]),
            "flop_per_s": spread([flop / seconds for seconds in step_s]),
            "efficiency": over(self.taken["alone"]),
            "of_matmul": over([flop * s / ceiling.flop for s in ceiling_s]),
        }
        if self.loop:
            loop_s = self.taken["loop"]
            found["loop"] = {
                "compile_s": self.loop.compile_s,
                "steps_per_s": spread([1 / seconds for seconds in loop_s]),
                "ratio": spread([step / loop for step, loop in zip(step_s, loop_s, strict=True)]),
            }
        return found
