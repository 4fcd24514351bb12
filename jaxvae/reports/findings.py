"""The studies of `jaxvae evaluate` as sections of a run's report."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxvae.evaluation import Contour
from jaxvae.reports import figures, markup
from jaxvae.runs import RunFolder
from jaxvae.runs.studies import STUDIES, study_file
from jaxvae.runs.words import TITLES, rows_of, sentences_of


def findings(run: RunFolder, which: str, split: str = "test") -> Iterator[str]:
    """Yield the HTML of each study that was run on a checkpoint."""
    for name in STUDIES:
        file = study_file(name, split, which)
        if (run.path / file).exists():
            yield from _section(run.read(file))


def _section(record: dict[str, Any]) -> Iterator[str]:
    yield markup.heading(TITLES[record["study"]])
    for sentence in sentences_of(record):
        yield markup.paragraph(sentence, "warning")
    yield markup.table(rows_of(record), "numbers")
    yield markup.paragraph(
        f"{record['split'].capitalize()} split, step {record['step']:,}; it took "
        f"{record['seconds']:.0f} s.",
        "quiet",
    )
    if record.get("contour"):
        yield _contour(record["contour"])
    if record.get("marginal_kl_per_latent") and record.get("mutual_information_per_latent"):
        yield _bars(record)


def _contour(fields: dict[str, Any]) -> str:
    arrays = {n: np.asarray(v) if isinstance(v, list) else v for n, v in fields.items()}
    surface = Contour(**{**arrays, "coordinates": tuple(fields["coordinates"])})
    first, second = surface.coordinates
    return markup.figure(
        figures.elbo_contours([surface]),
        "The ELBO around the best q of one example",
        f"Of the first example, over the means of z[{first}] and z[{second}], all else as at the "
        "optimum: nats below the best, the path of gradient steps to it, and where the encoder lands.",
    )


def _bars(record: dict[str, Any]) -> str:
    return markup.figure(
        figures.information_bars(
            record["mutual_information_per_latent"], record["marginal_kl_per_latent"]
        ),
        "Rate of each latent, in two parts",
        "What each latent tells of the example, and how far its aggregate posterior is from its prior.",
    )
