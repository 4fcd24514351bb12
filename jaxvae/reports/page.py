"""The report of a run: one HTML page with its numbers, figures, configuration, data and environment."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae import evaluation
from jaxvae.binding import bind
from jaxvae.checks import require_choice
from jaxvae.distributions import Chain
from jaxvae.evaluation import dead_latents, unused_latents
from jaxvae.reports import figures, markup
from jaxvae.reports.findings import findings
from jaxvae.reports.images import as_images
from jaxvae.reports.numbers import headline
from jaxvae.runs import RunFolder
from jaxvae.runs.config import Parts
from jaxvae.runs.evaluate import moment_samples, observed
from jaxvae.runs.train import Kept, load_model
from jaxvae.types import Conditional, InputError, PRNGKey

PAIRS, SAMPLES = 24, 72
SCATTERED = 2000
RELIANCE_EXAMPLES = 300
WALKS = 4
FEWER = 8  # for examples that are not images, since each needs its own panel


class Contents(NamedTuple):
    """The data from which a page is made."""

    run: RunFolder
    which: str
    parts: Parts
    model: Any
    step: int
    batch: dict[str, np.ndarray]
    labels: np.ndarray | None
    draws: int | None
    """The number of draws that estimate the mean of q(z|x); None if it is known."""
    units: evaluation.ActiveUnits
    records: list[dict[str, Any]]
    key: PRNGKey
    """The key of draws, used if latents or examples have no mean."""


def write_report(run: RunFolder, which: str = "best") -> Path:
    """Write `report.html` of a run: its numbers, figures, configuration, data and environment.

    Args:
        run: a run with at least one checkpoint, finished or not.
        which: the checkpoint shown in the figures, "best" (on the validation split) or "last".

    Returns:
        The path of the page. It needs no other file, no network and no script.

    Raises:
        InputError: there is no checkpoint, a file is damaged, or the data have changed.
    """
    require_choice("which", which, ("best", "last"))
    kept = run.kept if which == "best" else None
    parts, model, step, batch = kept or _loaded(run, which)
    batch = jax.device_get(batch)  # slicing an array on a device would compile a program per slice
    labels = parts.dataset.splits["test"].get("label")
    draws = moment_samples(parts)
    *_, key = parts.config.keys()
    units = evaluation.active_units(model, batch, num_samples=draws, key=key)
    contents = Contents(
        run, which, parts, model, step, batch, labels, draws, units, run.metrics(), key
    )
    name = run.path.resolve().name
    body = [*_top(contents, name), *_figures(contents), *_origin(contents)]
    run.write_text("report.html", markup.page(f"{name}: jaxvae report", body))
    return run.report_path


def _loaded(run: RunFolder, which: str) -> Kept:
    parts, model, step = load_model(run, which)
    return Kept(parts, model, step, observed(parts, "test"))


def _top(contents: Contents, name: str) -> Iterator[str]:
    config = contents.parts.config
    yield markup.heading(name, 1)
    yield markup.paragraph(
        f"{contents.parts.dataset.name}, model {config.model}, {_likelihood(contents)}"
        f"{len(contents.units.variance)} latents, {_objective(contents)}. "
        f"Figures are of {_checkpoint(contents)}.",
        "quiet",
    )
    yield from _numbers(contents)
    for warning in _warnings(contents):
        yield markup.paragraph(warning, "warning")


def _warnings(contents: Contents) -> Iterator[str]:
    """Yield warnings about inactive or unused latents."""
    if warning := dead_latents(contents.units):
        yield warning
    if len(contents.units.variance) and len(contents.batch["x"]) > 1:
        *_, key = contents.parts.config.keys()
        few = {name: rows[:RELIANCE_EXAMPLES] for name, rows in contents.batch.items()}
        reliance = evaluation.reliance_on_latents(key, contents.model, few, kl="monte_carlo")
        if warning := unused_latents(reliance):
            yield warning


def _likelihood(contents: Contents) -> str:
    name = contents.parts.config.likelihood
    return f"{name} likelihood, " if name else ""


def _objective(contents: Contents) -> str:
    config = contents.parts.config
    samples = f", {config.num_samples} samples an example" if config.num_samples > 1 else ""
    weight = f", beta {config.beta:g}" if config.beta not in (None, 1) else ""
    if config.fit == "em":
        return "fitted by EM"
    return f"trained by {config.objective.upper()}{samples}{weight}"


def _checkpoint(contents: Contents) -> str:
    where = f"step {contents.step:,} of {contents.parts.config.total_steps:,}"
    if "valid" not in contents.parts.dataset.splits:
        return f"the last checkpoint, {where} (no validation split to choose a best one by)"
    rule = "best on the validation split" if contents.which == "best" else "last"
    return f"the checkpoint of {where} ({rule})"


def _numbers(contents: Contents) -> Iterator[str]:
    yield markup.heading("Numbers")
    if not (contents.run.path / "results.json").exists():
        yield markup.paragraph(
            "This run has no results.json: it was stopped before its evaluation on the test split. "
            f"Go on with it by: jaxvae train --resume {shlex.quote(str(contents.run.path))}",
            "warning",
        )
        return
    results, data = contents.run.read("results.json"), contents.run.read("data.json")
    yield markup.paragraph(
        f"{results['split'].capitalize()} split, {results['examples']:,} examples; binarisation: "
        f"{results['binarize']} ({data['binarize_meaning']}). Means over examples with their "
        "standard errors.",
        "quiet",
    )
    rows = headline(results, event_shape=data["event_shape"], support=data["support"])
    yield markup.table(rows, "numbers")
    if "confusion" in results:
        counts = results["confusion"]
        head = tuple(map(str, range(len(counts))))
        yield markup.paragraph("Test examples by label (row) and most probable class (column):")
        cells = [("", *head)] + [(str(c), *map(str, row)) for c, row in enumerate(counts)]
        yield markup.table(cells, "confusion")
    if contents.which == "last" and "valid" in contents.parts.dataset.splits:
        yield markup.paragraph(
            "These numbers are of the best checkpoint, the figures of the last one.", "quiet"
        )


def _figures(contents: Contents) -> Iterator[str]:
    yield markup.heading("Training")
    yield from _training(contents)
    yield markup.heading("Examples")
    yield from _examples(contents)
    yield markup.heading("Latents")
    yield from _latents(contents)
    yield from findings(contents.run, contents.which)


def _training(contents: Contents) -> Iterator[str]:
    records, config = contents.records, contents.parts.config
    if not records:
        yield markup.paragraph("No evaluation was written before the run stopped.")
        return
    speed = np.median([record["steps_per_s"] for record in records])
    yield markup.paragraph(f"{speed:,.0f} steps/s (median between evaluations).", "quiet")
    caption = (
        "Mean per example, lower is better. Training: over the steps since the point before it"
    )
    if "valid" in records[-1]:
        caption += "; validation: examples held out"
    caption += "."
    if config.beta not in (None, 1):
        caption += (
            f" The rate is weighted by beta = {config.beta:g}: minus the loss is not the ELBO."
        )
    if config.num_labels:
        caption += " The loss includes what the classifier misses of the labels that are kept."
    if config.kl_warmup_steps:
        caption += (
            f" Over the first {config.kl_warmup_steps:,} steps the rate's weight rises in the "
            "training loss; validation has the full weight throughout."
        )
    yield markup.figure(figures.loss_curves(records), "Loss", caption)
    if "rate" in records[-1]["train"]:
        yield markup.figure(
            figures.rate_distortion(records),
            "Rate and distortion",
            "The path of training; both are unweighted. Along a dashed line the ELBO stays the "
            "same, and it rises towards the lower left. Early points may lie outside the frame.",
        )


WORDS = {
    "mean": "Means of p(x|z)",
    "mode": "The most probable classes under p(x|z)",
    "draw": "Draws of p(x|z)",
}
"""Captions of the pictures of p(x|z), by the result of `figures.how_shown`."""


def _plain(contents: Contents) -> Any:
    """Return the model, given the first test example's label if it is conditional."""
    label = contents.batch.get("label")
    return bind(contents.model, None if label is None else label[0])


def _has_path(plain: Any, xs: np.ndarray) -> bool:
    """Return whether q(z|x) is reparameterised, by tracing it without running it."""
    found: list[bool] = []
    jax.eval_shape(lambda x: found.append(plain.posterior(x).has_rsample), xs[0])
    return found[0]


def _examples(contents: Contents) -> Iterator[str]:
    model, xs = contents.model, contents.batch["x"]
    images = as_images(xs[:1]) is not None
    count = PAIRS if images else FEWER
    first = {name: rows[:count] for name, rows in contents.batch.items()}
    shown, below = first["x"], "below each" if images else "as a line"
    plain = _plain(contents)
    words = WORDS[figures.how_shown(plain)]
    path, closed = _has_path(plain, xs), contents.draws is None
    at = "the mean of q(z|x)" if path and closed else "a draw of q(z|x)"
    yield markup.figure(
        figures.reconstructions(shown, figures.reconstruction_means(model, first)),
        "Reconstructions",
        f"The first {len(shown)} test examples as the model observes them, and {below} what comes "
        f"back. {words} at {at}.",
    )
    if isinstance(model, Conditional):
        num_classes = contents.parts.dataset.num_classes or 0
        samples = figures.class_samples(model, num_classes=num_classes, num=12, seed=0)
        yield markup.figure(
            figures.example_grid(samples, columns=12),
            "Samples of each class",
            f"{words}: a row a class, from the same 12 draws of z in every row.",
        )
    if plain is contents.model:
        samples = figures.prior_samples(plain, num=SAMPLES, seed=0)
        yield markup.figure(
            figures.example_grid(samples, columns=12),
            "Samples from the prior",
            f"{words} at {SAMPLES} independent draws of z from the prior, none left out.",
        )


def _latents(contents: Contents) -> Iterator[str]:
    if not len(contents.units.variance):
        yield markup.paragraph("The model has no latents.")
        return
    yield from _rates(contents)
    means = evaluation.posterior_moments(
        contents.model, contents.batch, num_samples=contents.draws, key=contents.key
    ).mean
    labels = contents.labels
    coloured = "" if labels is None else ", coloured by label"
    yield markup.figure(
        figures.latent_scatter(means, labels, most=SCATTERED),
        "Posterior means",
        f"{min(len(means), SCATTERED):,} test examples on the latents whose posterior means vary "
        f"most{coloured}.",
    )
    plain = _plain(contents)
    if _has_path(plain, contents.batch["x"]):
        yield from _directions(contents, plain, means)


def _rates(contents: Contents) -> Iterator[str]:
    """Yield the rate of each latent, if the rate is a sum over latents in closed form; else of each layer, if any."""
    try:
        rates = evaluation.kl_per_latent(contents.model, contents.batch)
    except InputError:
        if isinstance(_plain(contents).prior(), Chain):
            yield from _layers(contents)
        return
    yield markup.figure(
        figures.kl_bars(rates, contents.units.active),
        "Rate of each latent",
        "Mean over the test split, largest first; a dead latent's posterior mean does not follow x "
        "(its variance is at most 0.01). Latents count from 0.",
    )


def _layers(contents: Contents) -> Iterator[str]:
    """Yield the rate of each layer of a hierarchical model."""
    *_, key = contents.parts.config.keys()
    layers = evaluation.kl_per_layer(key, contents.model, contents.batch, num_samples=10)
    rows = [
        (f"layer {i}", f"{mean:.2f} ± {error:.2f} nats")
        for i, (mean, error) in enumerate(zip(layers.mean, layers.standard_error, strict=True), 1)
    ]
    yield markup.paragraph("Rate of each layer of latents, the lowest first; they sum to the rate:")
    yield markup.table(rows, "layers")


def _directions(contents: Contents, plain: Any, means: np.ndarray) -> Iterator[str]:
    xs, words = contents.batch["x"], WORDS[figures.how_shown(plain)]
    images = as_images(xs[:1]) is not None
    standard = figures.is_standard_normal(plain)
    if means.shape[1] == 2 and images and standard:
        yield markup.figure(
            figures.latent_manifold(plain, key=contents.key),
            "The latent plane",
            f"{words} on a grid of z that is even in prior probability, so the picture "
            "shows each z in proportion to how often the prior draws it.",
        )
        return
    span = "-3 to 3" if standard else "-3 to 3 standard deviations of its posterior means"
    yield markup.figure(
        figures.latent_traversals(plain, xs, num_samples=contents.draws, key=contents.key),
        "Traversals",
        f"{words} as one latent goes from {span}, the others held at the posterior mean of "
        "the first test example; a latent that changes nothing is not used. Latents with the most "
        "varying posterior means come first.",
    )
    pairs, closed = min(WALKS, len(xs) // 2), contents.draws is None
    if images and pairs and closed and plain is contents.model:
        yield markup.figure(
            figures.interpolations(plain, xs[:pairs], xs[pairs : 2 * pairs], key=contents.key),
            "Interpolations",
            f"{words} on the straight way between the posterior means of two test examples, a row "
            "a pair.",
        )


def _origin(contents: Contents) -> Iterator[str]:
    run = contents.run
    environment = dict(run.read("environment.json"))
    environment["command"] = shlex.join(environment["command"])
    environment["commit"] = environment["commit"] or "not known"
    versions = environment["versions"].items()
    environment["versions"] = {name: version or "not installed" for name, version in versions}
    for title, record in (
        ("Configuration", run.read("config.json")),
        ("Data", run.read("data.json")),
        ("Environment", environment),
    ):
        yield markup.heading(title)
        yield markup.values(record)
