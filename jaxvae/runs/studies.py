"""Further studies of a run by `jaxvae evaluate`, each with a record for JSON and rows for humans."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxvae import evaluation
from jaxvae.batching import unpack
from jaxvae.checks import require_choice, require_number, require_positive
from jaxvae.evaluation import mean_and_error
from jaxvae.evaluation.streams import weights_of
from jaxvae.runs.config import Parts
from jaxvae.runs.evaluate import moment_samples, observed
from jaxvae.types import Batch, Conditional, InputError, Model, PRNGKey

Record = dict[str, Any]
Progress = Callable[[int, int], None]

MOST_PROBED = 10_000  # training examples of probes: more improve a linear classifier little
MOST_PAIRED = 5_000  # examples whose posteriors are compared in pairs: N^2 densities


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes and options of the studies."""

    study_examples: int = 100
    """Number of examples for annealed importance sampling, the gaps and imputation."""
    study_samples: int = 1000
    """Samples of z per example in the importance-weighted estimates of these studies."""
    num_chains: int = 16
    """Chains of annealed importance sampling per example."""
    num_temperatures: int = 1000
    """Temperatures of annealed importance sampling."""
    ais_start: Literal["prior", "posterior"] = "posterior"
    """Where its chains start: at q(z|x), which is near the target, or at the prior, as is usual."""
    missing: float = 0.5
    """Share of the values that imputation hides."""

    def check(self) -> None:
        """Refuse settings that are not usable.

        Raises:
            InputError: a size is below 1, or `missing` is not strictly between 0 and 1.
        """
        names = ("study_examples", "study_samples", "num_chains", "num_temperatures")
        require_positive(**{name: getattr(self, name) for name in names})
        share = ", the share of each example that is hidden"
        require_number("missing", self.missing, above=0, below=1, or_else=share)


class Subject(NamedTuple):
    """The subject of a study: a model, and examples as it sees them."""

    parts: Parts
    model: Any
    split: str
    xs: Mapping[str, Array]
    key: PRNGKey
    settings: Settings

    def first(self, count: int) -> dict[str, Array]:
        """Return the first examples, at most `count`."""
        return {name: rows[:count] for name, rows in self.xs.items()}


def study_file(name: str, split: str, checkpoint: str) -> str:
    """Return the name of the file with the record of a study, in its run folder."""
    return f"{name}-{split}-{checkpoint}.json"


def require_possible(names: tuple[str, ...], parts: Parts, split: str) -> None:
    """Refuse a study that is impossible with the data of a run, before anything is computed.

    Raises:
        InputError: probes are requested without labels, or on the training split.
    """
    if "probes" in names:
        if parts.dataset.num_classes is None:
            raise InputError(
                f"probes: expected data with labels to predict, {parts.dataset.name} has none; "
                "leave --probes out"
            )
        if split == "train":
            raise InputError(
                "probes: expected a split that the probes do not learn from, got train; "
                "use --split test"
            )


def study(
    name: str,
    parts: Parts,
    model: Model,
    *,
    split: str = "test",
    settings: Settings | None = None,
    on_progress: Progress | None = None,
) -> Record:
    """Run one of `STUDIES`.

    Args:
        name: the name of the study.
        parts: the parts of the run.
        model: the trained model.
        split: the split to study.
        settings: sizes and options; the defaults if None.
        on_progress: called with the number of examples done, and the total.

    Returns:
        Numbers ready for JSON: means with their standard errors, nats unless stated otherwise, and
        the `seconds` that the study took.

    Raises:
        InputError: the study does not exist, a setting is not usable, or the study is impossible with
            the model or the data.
    """
    require_choice("study", name, STUDIES)
    settings = settings or Settings()
    settings.check()
    require_possible((name,), parts, split)
    *_, key = parts.config.keys()
    key = jax.random.fold_in(key, 1 + list(STUDIES).index(name))
    subject = Subject(parts, model, split, observed(parts, split), key, settings)
    begin = time.perf_counter()
    record = STUDIES[name](subject, on_progress)
    return {"study": name, "split": split, **record, "seconds": time.perf_counter() - begin}


def _ais(subject: Subject, on_progress: Progress | None) -> Record:
    """Compare AIS with the importance-weighted estimate on data, and bound log p(x) from both sides on simulations."""
    settings = subject.settings
    xs = subject.first(settings.study_examples)
    count = len(xs["x"])
    sizes = {
        "num_chains": settings.num_chains,
        "num_temperatures": settings.num_temperatures,
        "start": settings.ais_start,
    }
    keys = list(jax.random.split(subject.key, 3))
    model, of_label = _plain(subject)
    iwae = evaluation.log_likelihood(keys[0], subject.model, xs, num_samples=settings.study_samples)
    annealed = evaluation.ais(
        keys[1], subject.model, xs, **sizes, on_progress=_part(on_progress, 0, 2 * count)
    )
    both = evaluation.bdmc(
        keys[2],
        model,
        num_examples=count,
        **sizes,
        on_progress=_part(on_progress, count, 2 * count),
    )
    return {
        "examples": count,
        **sizes,
        "num_samples": settings.study_samples,
        "iwae": iwae.mean(),
        "ais": annealed.mean(),
        "ais_minus_iwae": mean_and_error(annealed.estimate - iwae.estimate, iwae.weight),
        "acceptance": mean_and_error(annealed.acceptance, iwae.weight)[0],
        "lower": both.lower.mean(),
        "upper": both.upper.mean(),
        "gap": both.gap,
        "label": of_label,
    }


def _plain(subject: Subject) -> tuple[Model, int | None]:
    """Return a model to simulate from, and its label: `given` the first example's label if it needs one."""
    model = subject.model
    if isinstance(model, Conditional) and not isinstance(model, Model):
        label = int(subject.xs["label"][0])
        return model.given(label), label
    return model, None


def _part(on_progress: Progress | None, before: int, total: int) -> Callable[[int], None] | None:
    return None if on_progress is None else lambda done: on_progress(before + done, total)


def _gaps(subject: Subject, on_progress: Progress | None) -> Record:
    settings = subject.settings
    xs = subject.first(settings.study_examples)
    count = len(xs["x"])
    exact = hasattr(subject.model, "log_evidence")
    found = evaluation.gaps(
        subject.key,
        subject.model,
        xs,
        num_samples=settings.study_samples,
        log_evidence="exact" if exact else "iwae",
        on_progress=_part(on_progress, 0, count),
    )
    families = {
        name: {part: found.mean(part, name) for part in ("best", "approximation", "amortisation")}
        for name in found.families
    }
    return {
        "examples": count,
        "num_samples": settings.study_samples,
        "contour": _contour(subject),
        "source": found.source,
        "log_evidence": found.mean("log_evidence"),
        "encoder": found.mean("encoder"),
        "total": found.mean("total"),
        "encoder_family": found.encoder_family,
        "families": families,
    }


def _contour(subject: Subject) -> Record | None:
    """Compute the ELBO surface of the first example over the two most active latents; None if not possible."""
    model, parts = subject.model, subject.parts
    plain = _plain(subject)[0]
    if moment_samples(parts) is not None or len(plain.prior().event_shape) != 1:
        return None
    variance = evaluation.active_units(model, subject.xs).variance
    if len(variance) < 2:
        return None
    first, second = (int(d) for d in np.argsort(-variance)[:2])
    key = jax.random.fold_in(subject.key, 1)
    x = subject.xs["x"][0]
    found = evaluation.contour(key, plain, x, coordinates=(first, second), num_points=60)
    lists = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in found._asdict().items()}
    return {**lists, "coordinates": [first, second]}


def _structure(subject: Subject, on_progress: Progress | None) -> Record:
    del on_progress
    xs = subject.first(MOST_PAIRED)
    keys = list(jax.random.split(subject.key, 2))
    found = evaluation.diagnose(
        keys[0], subject.model, xs, moment_samples=moment_samples(subject.parts)
    )
    mmd = evaluation.aggregate_mmd(keys[1], subject.model, xs)
    surgery, information = found.surgery, found.surgery.mutual_information
    each, marginal = information.per_latent, surgery.marginal_kl_per_latent
    return {
        "examples": len(xs["x"]),
        "distortion": surgery.distortion,
        "rate": surgery.rate,
        "mutual_information": information.mean,
        "ceiling": information.ceiling,
        "marginal_kl": surgery.marginal_kl,
        "drop": found.reliance.mean_drop,
        "verdict": found.reliance.verdict,
        "active_units": found.units.count,
        "mmd2": mmd.mmd2,
        "p_value": mmd.p_value,
        "mutual_information_per_latent": None if each is None else each.mean.tolist(),
        "marginal_kl_per_latent": None if marginal is None else marginal.mean.tolist(),
        "kl_per_latent": None if found.kl is None else found.kl.tolist(),
        "sentences": list(found.sentences),
    }


def _probes(subject: Subject, on_progress: Progress | None) -> Record:
    del on_progress
    parts, model = subject.parts, subject.model
    train = {n: rows[:MOST_PROBED] for n, rows in observed(parts, "train").items()}
    draws = moment_samples(parts)
    found = evaluation.probes(model, train, dict(subject.xs), num_samples=draws, key=subject.key)
    codes = evaluation.posterior_moments(model, subject.xs, num_samples=draws, key=subject.key).mean
    codes = np.reshape(codes, (len(codes), -1))
    classes = parts.dataset.num_classes or 0
    clusters = evaluation.clustering(
        evaluation.kmeans_assignments(codes, classes), np.asarray(subject.xs["label"])
    )
    record: Record = {
        "train_examples": len(train["x"]),
        "examples": len(codes),
        **{name: tuple(probe) for name, probe in found._asdict().items()},
        "clusters": classes,
        **clusters._asdict(),
    }
    factors = parts.dataset.splits[subject.split].get("factors")
    if factors is not None:
        scores = evaluation.disentanglement(
            model, subject.xs, factors, num_samples=draws, key=subject.key
        )
        record["disentanglement"] = scores._asdict()
    return record


def _imputation(subject: Subject, on_progress: Progress | None) -> Record:
    """Hide observed values, impute them, and measure the error."""
    del on_progress
    settings = subject.settings
    xs = subject.first(settings.study_examples)
    keys = list(jax.random.split(subject.key, 2))
    seen = jnp.ones(xs["x"].shape, bool)
    if (mask := unpack(xs).mask) is not None:
        seen = mask > 0
    kept = jax.random.uniform(keys[0], seen.shape) >= settings.missing
    hidden = np.asarray(seen & ~kept)
    rows = {**xs, "mask": jnp.asarray(seen & kept, jnp.float32)}
    filled = evaluation.impute(keys[1], subject.model, rows, num_samples=settings.study_samples)
    truth, weight = np.asarray(xs["x"], np.float64), weights_of(xs)
    train = observed(subject.parts, "train")
    record: Record = {
        "examples": len(truth),
        "num_samples": settings.study_samples,
        "missing": float(hidden.sum() / np.asarray(seen).sum()),
        "ess": mean_and_error(filled.ess, weight)[0],
    }
    if filled.mean is None:
        values = np.unique(train["x"])
        shares = [_column_mean(train, train["x"] == value) for value in values]
        common = values[np.argmax(shares, axis=0)]
        right = {"draw": filled.draws[0] == truth, "common": common[None] == truth}
        return record | {
            name: _of_hidden(np.asarray(hit), hidden, weight) for name, hit in right.items()
        }
    off = {"model": filled.mean - truth, "column": _column_mean(train, train["x"])[None] - truth}
    squares = {
        name: _of_hidden(np.asarray(e, np.float64) ** 2, hidden, weight) for name, e in off.items()
    }
    return record | {f"mean_square_{name}": value for name, value in squares.items()}


def _column_mean(rows: Batch, values: ArrayLike) -> Float[np.ndarray, "*event"]:
    """Compute the weighted mean of values [N, *event] over the rows that observe them; 0 where no row does."""
    values, mask = np.asarray(values, np.float64), unpack(rows).mask
    held = np.ones_like(values) if mask is None else np.asarray(mask, np.float64)
    if (weight := weights_of(rows)) is not None:
        held = held * weight.reshape(-1, *[1] * (values.ndim - 1))
    return np.sum(held * values, axis=0) / np.maximum(np.sum(held, axis=0), np.finfo(float).tiny)


def _of_hidden(
    values: np.ndarray, hidden: np.ndarray, weight: np.ndarray | None
) -> tuple[float, float]:
    """Compute the mean over hidden values, then the weighted mean over examples, with its standard error."""
    axes = tuple(range(1, hidden.ndim))
    count = hidden.sum(axis=axes)
    each = np.sum(values * hidden, axis=axes)[count > 0] / count[count > 0]
    return mean_and_error(each, None if weight is None else weight[count > 0])


STUDIES: Mapping[str, Callable[[Subject, Progress | None], Record]] = {
    "ais": _ais,
    "gaps": _gaps,
    "structure": _structure,
    "probes": _probes,
    "imputation": _imputation,
}
"""The studies, by name. `jaxvae.runs.words` describes their records in words."""
