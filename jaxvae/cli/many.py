"""`jaxvae train --seeds N` and similar: train several runs, print a row per run and their spread."""

from collections.abc import Mapping
from typing import Any

from jaxvae.cli.commands import Train
from jaxvae.cli.progress import Terminal
from jaxvae.cli.tables import print_table
from jaxvae.runs.folder import default_name
from jaxvae.runs.many import resume_many, train_many
from jaxvae.runs.many_folder import ManyFolder, is_many
from jaxvae.runs.spread import TERMS

HEAD = ("", "log p(x)", "ELBO", "rate", "distortion", "active units")


def is_many_runs(command: Train) -> bool:
    """Return whether the command trains or resumes several runs."""
    if command.resume is not None:
        return is_many(command.resume)
    return command.seeds is not None or bool(command.learning_rates or command.betas)


def train_many_runs(command: Train, terminal: Terminal) -> ManyFolder:
    """Train or resume several runs, and print their results.

    Raises:
        InputError: a value is not usable.
        Interrupted: a signal came, or the minutes are up; the runs are saved.
    """
    limits: dict[str, Any] = {"devices": command.devices, "max_minutes": command.max_minutes}
    if command.resume is not None:
        many = resume_many(command.resume, reporter=terminal, **limits)
    else:
        path = command.runs_dir / (command.name or default_name(command.config))
        many = train_many(
            command.config,
            path,
            seeds=command.seeds,
            learning_rates=command.learning_rates,
            betas=command.betas,
            reporter=terminal,
            **limits,
        )
    print_spread(many.read())
    print(f"on the same examples: `jaxvae compare {many.path}/*/`")
    return many


def print_spread(found: Mapping[str, Any]) -> None:
    """Print a row per run, and one per group of seeds."""
    k = found["log_likelihood_num_samples"]
    print(f"{found['split']} split, {found['examples']:,} examples, log p(x) by IWAE-{k}, nats:")
    print_table([HEAD, *(_row(row, found["failed"], found["latent_dim"]) for row in found["rows"])])
    print("  +- of a run: standard error over examples")
    for group in found["groups"]:
        if group["runs"] > 1:
            print_table([HEAD, _over_runs(group, found["groups"])])
    if any(group["runs"] > 1 for group in found["groups"]):
        print("  +- here: standard deviation between runs, each of another seed")


def _row(row: Mapping[str, Any], failed: Mapping[str, int], latent_dim: int) -> tuple[str, ...]:
    if row["name"] in failed:
        return (row["name"], f"failed by step {failed[row['name']]:,}", *[""] * (len(TERMS) - 1))
    *pairs, units = (row[term] for term in TERMS)
    cells = (f"{mean:.2f} +- {error:.2f}" for mean, error in pairs)
    return row["name"], *cells, f"{units} of {latent_dim}"


def _over_runs(group: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> tuple[str, ...]:
    own = [("learning_rate", "lr"), ("beta", "beta")]
    differing = [(short, name) for name, short in own if len({g[name] for g in groups}) > 1]
    of = "".join(f", {short} {group[name]:g}" for short, name in differing)
    pairs = [group[term] for term in TERMS]
    cells = (f"{pair['mean']:.2f} +- {pair['sd']:.2f}" for pair in pairs)
    return f"mean over {group['runs']} runs{of}", *cells
