"""The suites of `jaxvae bench`, in order of importance: `default`, and `device` for a few minutes on a machine."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Array

from jaxvae.bench.deadline import Deadline
from jaxvae.bench.devices import over_devices, ways_on_one_device
from jaxvae.bench.findings import Findings
from jaxvae.bench.lines import scaling
from jaxvae.bench.rounds import measure
from jaxvae.bench.start_up import start_up
from jaxvae.bench.together import seeds
from jaxvae.networks import Precision
from jaxvae.types import InputError

SuiteName: TypeAlias = Literal["default", "device"]

MAIN = ("vae", "iwae50", "iwae50_128")
"""The workloads of `device` that have peers."""
TOGETHER = (8, 32)
"""Numbers of models in one program, compared with one model."""
HALF_PEERS = ("torch-compile-bf16", "torch-compile-graph-bf16")


class Part(NamedTuple):
    """A part of a suite, which is measured or left out."""

    name: str
    seconds: float
    """The seconds that must be left to start it."""
    run: Callable[[], None]
    """Measures it, and adds the result to the findings."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """The common settings of all parts.

    Args:
        findings: the record to which parts add their results.
        deadline: the time limit of the whole suite.
        rows: from `draw_rows`.
        rounds: number of turns of each.
        seconds_a_round: approximate length of a turn.
        torch_python: an interpreter with PyTorch.
        say: called with lines about the progress.
    """

    findings: Findings
    deadline: Deadline
    rows: Array
    rounds: int
    seconds_a_round: float
    torch_python: str
    say: Callable[[str], None]

    @property
    def how(self) -> dict[str, Any]:
        """The options that every measurement takes."""
        return {"rounds": self.rounds, "seconds_a_round": self.seconds_a_round, "say": self.say}

    def measured(self, names: Sequence[str], put: Callable[..., None], **options: Any) -> None:
        """Run rounds of workloads; `put` receives the result so far after each round."""
        found = measure(
            names,
            self.rows,
            **self.how,
            torch_python=self.torch_python,
            deadline=self.deadline,
            publish=lambda found: put(**found),
            leave_out=self.findings.leave_out,
            **options,
        )
        put(**found)

    def default(
        self,
        workloads: Sequence[str],
        *,
        batch_size: int | None,
        precision: Precision,
        peers: bool,
        scale: bool,
    ) -> list[Part]:
        """Return the parts for these workloads and, with `scale`, the scaling measurements."""
        put, how = self.findings.put, {**self.how, "precision": precision}
        main = partial(self.measured, workloads, put, batch_size=batch_size)
        parts = [Part("workloads", 0, partial(main, precision=precision, peers=peers))]
        if scale:
            parts += [
                Part("seeds", 20, lambda: put(seeds=seeds(**how, deadline=self.deadline))),
                Part("ways", 20, lambda: put(ways=ways_on_one_device(self.rows, **how))),
                Part("devices", 60, lambda: put(devices=over_devices(self.rows, **how))),
                Part("scaling", 60, lambda: put(scaling=scaling(self.rows, **how))),
            ]
        return parts

    def device(self) -> list[Part]:
        """Return the parts: steps and peers in two precisions, start-up, ways to run, evaluation, joint models."""
        put = self.findings.put
        timed = {**self.how, "deadline": self.deadline}

        def half(**found: Any) -> None:
            put(bfloat16=found)

        def evaluation(workloads: dict[str, Any], **_: Any) -> None:
            put(workloads=workloads)

        return [
            Part("float32", 0, partial(self.measured, MAIN, put, peers=True)),
            Part(
                "bfloat16",
                30,
                partial(self.measured, MAIN, half, peers=HALF_PEERS, precision="bfloat16"),
            ),
            Part("start_up", 30, lambda: put(start_up=start_up(deadline=self.deadline))),
            Part("ways", 15, lambda: put(ways=ways_on_one_device(self.rows, **timed))),
            Part("evaluation", 15, partial(self.measured, ["evaluation"], evaluation)),
            *(
                Part(f"seeds of {name}", 25, partial(self._seeds, name, timed))
                for name in ("iwae50", "vae")
            ),
        ]

    def _seeds(self, name: str, timed: dict[str, Any]) -> None:
        self.findings.put(seeds=seeds([name], **timed, models=TOGETHER))


def run_parts(parts: Sequence[Part], findings: Findings, deadline: Deadline) -> None:
    """Measure one part after the other, and write the findings after each.

    A part that the deadline does not allow is left out, and so is one that fails; if all of them fail,
    the first error is raised.

    Args:
        parts: from a `Suite`.
        findings: the record, which also lists the parts left out.
        deadline: the time limit.
    """
    errors, done = [], 0
    for i, (name, seconds, run) in enumerate(parts):
        findings.waiting = [part.name for part in parts[i:]]
        if deadline.left() == -math.inf:  # stopped: the caller reports it
            return
        if not deadline.allows(seconds):
            left = max(0.0, deadline.left())
            findings.leave_out(
                f"{name}: left out: it needs {seconds:.0f} s or more, {left:.0f} s are left"
            )
            continue
        begin = time.monotonic()
        try:
            run()
            done += 1
        except InputError:
            raise
        except Exception as error:  # a part that fails on this device does not end the others
            said = " ".join(f"{type(error).__name__}: {error}".split())
            findings.leave_out(f"{name}: left out: {said[:300]}")
            errors.append(error)
        findings.put(seconds={name: time.monotonic() - begin})
        findings.write()
    findings.waiting = []
    if errors and not done:
        raise errors[0]
