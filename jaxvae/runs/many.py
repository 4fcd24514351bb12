"""Several runs trained together, each with its own run folder: `jaxvae train --seeds 8`."""

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
    """The name and configuration of one of several runs."""

    name: str
    config: TrainConfig


def members(
    config: TrainConfig,
    *,
    seeds: int | None = None,
    learning_rates: Sequence[float] = (),
    betas: Sequence[float] = (),
) -> list[Member]:
    """Return one run for every combination of seed, learning rate and beta.

    Args:
        config: the common configuration; the seeds count up from its own.
        seeds: number of seeds; if None there is one, and it is not part of the names.
        learning_rates: the learning rates; the one of the configuration if empty.
        betas: the values of beta; the one of the configuration if empty.

    Raises:
        InputError: `seeds` is below 1, a value is given twice, or the configuration sets it too.

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
    """Train new runs together, in a new folder.

    Each has the same initial weights, batches and noise as a single run of its configuration, and the
    same results up to float32 rounding.

    Args:
        config: the common configuration.
        path: the folder to make.
        seeds: see `members`.
        learning_rates: see `members`.
        betas: see `members`.
        reporter: receives the progress of all runs together; nats are means over runs.
        devices: the largest number of devices to use, each with equally many runs; all devices if None.
        max_minutes: save and stop before this time since the call has passed, checked after each dispatch;
            no limit if None.

    Returns:
        The folder, with a finished run folder for each run, and the spread between runs in `many.json`.

    Raises:
        InputError: a value is not usable, the runs cannot be trained together, or the folder cannot
            be written.
        Interrupted: SIGINT or SIGTERM came, or the minutes are up; the runs are saved and can be resumed,
            together or separately.
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
    """Resume all runs from their last common checkpoint, with the same bits as uninterrupted runs.

    Args:
        path: the folder of the runs.
        reporter: receives the progress.
        devices: the largest number of devices to use; the results do not depend on it.
        max_minutes: the time limit of this call; no limit if None.

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
    """Build the parts of every run, with one shared data set.

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
