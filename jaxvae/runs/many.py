"""Many runs trained at once, each kept as a run folder of its own: `jaxvae train --seeds 8`."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxvae.checks import require_positive
from jaxvae.runs.config import Parts, TrainConfig, build
from jaxvae.runs.many_folder import ManyFolder
from jaxvae.runs.stop import Deadline
from jaxvae.runs.together import Together
from jaxvae.runs.watch import Reporter, require_same_data, say_other_versions
from jaxvae.types import InputError


class Member(NamedTuple):
    """One of many runs."""

    name: str
    config: TrainConfig


def members(
    config: TrainConfig,
    *,
    seeds: int | None = None,
    learning_rates: Sequence[float] = (),
    betas: Sequence[float] = (),
) -> list[Member]:
    """The runs asked for: every combination of seed, learning rate and beta.

    Args:
        config: what they have in common; the seeds count up from its own.
        seeds: how many; one if None, which no name then tells.
        learning_rates: those to try; that of the configuration if there are none.
        betas: likewise.

    Raises:
        InputError: there is no seed, or a value comes twice or twice differently.

    >>> [name for name, _ in members(TrainConfig(seed=3), seeds=2, betas=(0.5, 2.0))]
    ['seed-3-beta-0.5', 'seed-3-beta-2', 'seed-4-beta-0.5', 'seed-4-beta-2']
    """
    axes: list[tuple[str, str, Sequence[Any]]] = []
    if seeds is not None:
        require_positive(seeds=seeds)
        axes.append(("seed", "seed", range(config.seed, config.seed + seeds)))
    if learning_rates:
        config.refuse_without_effect("each of --learning-rates is one", "learning_rate")
        axes.append(("lr", "learning_rate", learning_rates))
    if betas:
        config.refuse_without_effect("each of --betas is one", "beta")
        axes.append(("beta", "beta", betas))
    for _, field, values in axes:
        if twice := [a for i, a in enumerate(values) if a in values[:i]]:
            raise InputError(f"{field}s: expected different values, got {twice[0]:g} twice")
    found = []
    for values in itertools.product(*(values for *_, values in axes)):
        chosen = list(zip(axes, values, strict=True))
        name = "-".join(f"{short}-{str(v).removesuffix('.0')}" for (short, *_), v in chosen)
        own = {field: value for (_, field, _), value in chosen}
        found.append(Member(name, dataclasses.replace(config, **own)))
    return found


def train_many(
    config: TrainConfig,
    path: Path,
    *,
    seeds: int | None = None,
    learning_rates: Sequence[float] = (),
    betas: Sequence[float] = (),
    reporter: Reporter | None = None,
    devices: int | None = None,
    max_minutes: float | None = None,
) -> ManyFolder:
    """Train new runs, all at once, in a new folder.

    Each of them is what a single run of its configuration is, to float32 rounding: the same initial
    weights, batches and noise.

    Args:
        config: what they have in common.
        path: the folder to make.
        seeds: see `members`, as the next two.
        learning_rates: the same.
        betas: the same.
        reporter: what to tell about progress, which is that of all: nats are means over runs.
        devices: how many may share the runs, each with as many as the others; all there are if None.
        max_minutes: save and leave before so many have passed since the call, as far as a look at the clock
            after each dispatch can tell; no limit if None.

    Returns:
        The folder, with a finished run folder for each run, and the spread between them in `many.json`.

    Raises:
        InputError: a value is not usable, the runs cannot be trained together, or the folder cannot
            be written.
        Interrupted: SIGINT or SIGTERM came, or the minutes are up; the runs are saved and can be resumed, together or apart.
    """
    deadline = Deadline(max_minutes)
    chosen = members(config, seeds=seeds, learning_rates=learning_rates, betas=betas)
    parts = _built(dict(chosen))
    many = ManyFolder.create(path, parts)
    with many.locked() as runs:
        Together(many, runs, parts, reporter or Reporter(), devices, deadline).train()
    return many


def resume_many(
    path: Path,
    *,
    reporter: Reporter | None = None,
    devices: int | None = None,
    max_minutes: float | None = None,
) -> ManyFolder:
    """Go on with all runs from where they last stood together, to the bits of unbroken ones.

    Args:
        path: the folder of the runs.
        reporter: what to tell about progress.
        devices: how many may share the runs; the numbers do not depend on it.
        max_minutes: those of this call; no limit if None.

    Raises:
        InputError: a run is missing or in use, or the data have changed.
        Interrupted: SIGINT or SIGTERM came, or the minutes are up; the runs are saved and can be resumed.
    """
    deadline = Deadline(max_minutes)
    many, reporter = ManyFolder(path), reporter or Reporter()
    with many.locked() as runs:
        parts = _built({name: run.config() for name, run in runs.items()})
        for name, run in runs.items():
            require_same_data(run, parts[name])
        say_other_versions(next(iter(runs.values())), reporter)
        Together(many, runs, parts, reporter, devices, deadline).train()
    return many


def _built(configs: Mapping[str, TrainConfig]) -> dict[str, Parts]:
    """The parts of every run, on the same data.

    Raises:
        InputError: a value is not usable, or the runs cannot be trained together.
    """
    if jax.process_count() > 1:
        raise InputError(
            f"seeds: expected one process, got {jax.process_count()}; train them apart"
        )
    first, *others = configs.values()
    if first.stream:
        raise InputError(
            "stream: expected training rows in memory, which many runs share; leave it out, or train the "
            "runs one by one"
        )
    of_first = build(first)
    if of_first.dataset.binarize == "static" and any(c.seed != first.seed for c in others):
        raise InputError(
            "seeds: expected data that all seeds see, but binarize=static draws them anew for each; "
            "choose dynamic or threshold, or train the seeds one by one"
        )
    parts = [of_first, *(build(config, dataset=of_first.dataset) for config in others)]
    return dict(zip(configs, parts, strict=True))
