"""The comparison of runs on one HTML page: a table, paired differences, and two figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.figure import Figure

from jaxvae.reports import markup
from jaxvae.reports.style import BLUE, CLASSES, FAINT, MUTED, frame
from jaxvae.runs.compare import Compared
from jaxvae.types import InputError

ORDER = ("log_likelihood", "elbo")
HEAD = ("Run", "log p(x)", "ELBO", "Rate", "Distortion", "Active units")


def table_rows(compared: Sequence[Compared]) -> list[tuple[str, ...]]:
    """Return one row per run with the columns `HEAD`: means over examples with their standard errors, nats."""
    rows = []
    for run in compared:
        numbers = [run.results[n] for n in ("log_likelihood", "elbo", "rate", "distortion")]
        units = f"{run.results['active_units']} of {run.results['latent_dim']}"
        rows.append((run.name, *(f"{m:.2f} ± {e:.2f}" for m, e in numbers), units))
    return rows


def difference_rows(compared: Sequence[Compared]) -> list[tuple[str, str, str, str]]:
    """Return one row per run except the first: its mean difference from the first run on the same examples."""
    rows = []
    for run in compared[1:]:
        differences = run.minus(compared[0])
        log_p, elbo = (f"{m:+.2f} ± {e:.2f}" for m, e in (differences[n] for n in ORDER))
        rows.append((run.name, log_p, elbo, _verdict(differences[ORDER[0]], compared[0].name)))
    return rows


def _verdict(difference: tuple[float, float], first: str) -> str:
    mean, error = difference
    if not abs(mean) > 2 * error:
        return f"not told apart from {first} (within two standard errors)"
    return f"{'better' if mean > 0 else 'worse'} than {first}, by {abs(mean) / error:.0f} standard errors"


def differences_figure(compared: Sequence[Compared]) -> Figure:
    """Draw the log p(x) of every run minus that of the first, on the same examples, with 95 % intervals."""
    if len(compared) < 2:
        raise InputError(f"compared: expected two runs or more, got {len(compared)}")
    figure, axes = frame(0.9 + 0.42 * len(compared))
    names = [run.name for run in compared]
    pairs = [(0.0, 0.0)] + [run.minus(compared[0])["log_likelihood"] for run in compared[1:]]
    mean, error = np.array(pairs).T
    places = np.arange(len(compared))[::-1]
    axes.axvline(0, color=FAINT, lw=1, zorder=1)
    axes.errorbar(mean, places, xerr=1.96 * error, fmt="o", color=BLUE, ms=6, capsize=3, zorder=2)
    for x, y, (m, e) in zip(mean[1:], places[1:], pairs[1:], strict=True):
        axes.annotate(
            f"{m:+.2f} ± {e:.2f}",
            (float(x), float(y)),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=MUTED,
            path_effects=[effects.withStroke(linewidth=3, foreground="white")],
        )
    axes.set_yticks(places, [_short(name) for name in names])
    axes.set_ylim(-0.6, len(compared) - 0.3)
    axes.margins(x=0.2)
    axes.set_xlabel(f"log p(x) minus that of {_short(names[0])} (nats)")
    return figure


def plane_figure(compared: Sequence[Compared]) -> Figure:
    """Draw the runs in the plane of rate and distortion; the ELBO is constant along a dashed line."""
    figure, axes = frame(4.2)
    rate = np.array([run.results["rate"][0] for run in compared])
    distortion = np.array([run.results["distortion"][0] for run in compared])
    for i, run in enumerate(compared):
        colour = CLASSES[i % len(CLASSES)]
        axes.plot(rate[i], distortion[i], "o", ms=8, color=colour, label=_short(run.name), zorder=3)
    axes.margins(0.25)
    left, right = axes.get_xlim()
    ends, limits = np.array([left, right]), axes.get_ylim()
    for level in rate + distortion:
        axes.plot(ends, level - ends, "--", color=FAINT, lw=0.8, zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(limits)
    axes.set_xlabel("rate (nats)")
    axes.set_ylabel("distortion (nats)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def write_comparison(compared: Sequence[Compared], path: Path) -> Path:
    """Write the page, and its numbers as a JSON file with the same name.

    Args:
        compared: two runs or more, see `jaxvae.runs.compare`.
        path: the path of the page, ending in .html.

    Returns:
        The path of the page.
    """
    first = compared[0].results
    samples = first["log_likelihood_num_samples"]
    body = [
        markup.heading(f"{len(compared)} runs compared", 1),
        markup.paragraph(
            f"{first['split'].capitalize()} split, the same {first['examples']:,} examples and the "
            f"same draws of them (binarisation: {first['binarize']}) for every run. log p(x) is the "
            f"importance-weighted estimate of {samples:,} samples an example. Nats, means over "
            "examples with their standard errors; those of the differences are of paired ones, so "
            "they are smaller than the table's.",
            "quiet",
        ),
        markup.table([HEAD, *table_rows(compared)], "compared"),
        markup.heading("Differences"),
        markup.paragraph(f"On the same examples, from {compared[0].name}:"),
        markup.table([("Run", *HEAD[1:3], ""), *difference_rows(compared)], "compared"),
        markup.figure(
            differences_figure(compared),
            "Difference of log p(x)",
            "Paired on the same examples, with 95 % intervals over examples. Further right is better.",
        ),
        markup.figure(
            plane_figure(compared),
            "Rate and distortion",
            "The ELBO is the same along a dashed line, and it rises towards the lower left.",
        ),
    ]
    path.write_text(markup.page("jaxvae: runs compared", body))
    record = [_record(run, compared[0]) for run in compared]
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    return path


def _record(run: Compared, first: Compared) -> dict[str, Any]:
    said = {n: getattr(run, n) for n in ("name", "model", "objective", "step", "num_parameters")}
    return {**said, **run.results, "minus_first": run.minus(first)}
