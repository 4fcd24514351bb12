"""Comparison of trained runs on the same examples, with paired differences."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxvae.evaluation import mean_and_error
from jaxvae.runs.evaluate import measure, observed, summary
from jaxvae.runs.folder import RunFolder
from jaxvae.runs.train import load_model
from jaxvae.runs.watch import SAME_DATA
from jaxvae.types import InputError

Progress = Callable[[str, int, int], None]


class Compared(NamedTuple):
    """One run of a comparison."""

    name: str
    model: str
    objective: str
    step: int
    num_parameters: int
    results: dict[str, Any]
    """The numbers of `results.json`."""
    bound: Float[np.ndarray, "N"]
    """ELBO of every example, nats."""
    log_likelihood: Float[np.ndarray, "N"]
    """Importance-weighted estimate of every example, nats."""
    weight: Float[np.ndarray, "N"] | None = None
    """The weight of each example in means; equal weights if None."""

    def minus(self, other: "Compared") -> dict[str, tuple[float, float]]:
        """Paired differences on the same examples: mean and standard error, nats."""
        return {
            "elbo": mean_and_error(self.bound - other.bound, self.weight),
            "log_likelihood": mean_and_error(
                self.log_likelihood - other.log_likelihood, self.weight
            ),
        }


def compare(
    runs: Sequence[RunFolder],
    *,
    which: str = "best",
    split: str = "test",
    num_samples: int = 1000,
    chunk_size: int = 100,
    on_progress: Progress | None = None,
) -> list[Compared]:
    """Evaluate runs on the same examples, with the first run's draws of the data (such as binarisation).

    Args:
        runs: two or more, trained on the same data.
        which: the checkpoint, "best" (on the validation split) or "last".
        split: the split to evaluate on.
        num_samples: K of the importance-weighted estimate.
        chunk_size: the number of samples of an example that are computed at once.
        on_progress: called with a run's name, the number of examples done, and the total.

    Returns:
        One `Compared` per run, in the order given.

    Raises:
        InputError: there are fewer than two runs, a run is given twice, or their data differ.
    """
    _require_comparable(runs)
    first, *_ = load_model(runs[0], which)
    xs, (*_, key) = observed(first, split), first.config.keys()
    found: list[Compared] = []
    for run in runs:
        parts, model, step = load_model(run, which)
        name = run.path.resolve().name
        sizes = {"num_samples": num_samples, "chunk_size": chunk_size}
        report = _of_run(on_progress, name)
        measured = measure(parts, model, xs, key, **sizes, on_progress=report)
        config = parts.config
        results = summary(measured, split=split, binarize=config.binarize, num_samples=num_samples)
        objective = "EM" if config.fit == "em" else config.objective
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(model))
        head = name, config.model, objective, step, size, results
        likelihood, bound = measured.likelihood, np.asarray(measured.terms.bound)
        found.append(Compared(*head, bound, likelihood.estimate, likelihood.weight))
    return found


def _of_run(on_progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(name, done, total)


def _require_comparable(runs: Sequence[RunFolder]) -> None:
    if len(runs) < 2:
        raise InputError(f"runs: expected two run folders or more, got {len(runs)}")
    paths = sorted(run.path.resolve() for run in runs)
    if twice := [a for a, b in pairwise(paths) if a == b]:
        raise InputError(f"runs: expected different run folders, got {twice[0]} twice")
    first, *others = (run.read("data.json") for run in runs)
    for run, data in zip(runs[1:], others, strict=True):
        for name in reversed(SAME_DATA):  # the difference that is easiest to understand first
            if data[name] != first[name]:
                raise InputError(
                    f"runs: expected runs on the same data, but {name} of {run.path} is "
                    f"{data[name]} and of {runs[0].path} {first[name]}; their likelihoods cannot be "
                    "compared"
                )
