"""Evaluation of the trained model of a run: the numbers of `results.json`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxvae import evaluation, objectives
from jaxvae.evaluation.streams import weights_of
from jaxvae.keys import OfEvaluation, stream_key
from jaxvae.runs.config import Parts
from jaxvae.runs.models import can_differentiate_latents, has_closed_kl, has_closed_mean
from jaxvae.semi_supervised import Classifying
from jaxvae.training.loop import observe_batch
from jaxvae.types import AnyModel, InputError, Objective, PRNGKey, Terms

ELBO_SAMPLES = 100
MOMENT_SAMPLES = 100
EVALUATION_ROWS = 5_000  # decoder rows per dispatch, to limit the memory


class Measured(NamedTuple):
    """The results of evaluation for every example of a split."""

    terms: Terms
    likelihood: evaluation.LogLikelihood
    """The estimate of log p(x); its `weight` holds the example weights, which all means use."""
    units: evaluation.ActiveUnits
    more: dict[str, Any]


def measure(
    parts: Parts,
    model: AnyModel,
    xs: dict[str, Array],
    key: PRNGKey,
    *,
    num_samples: int,
    chunk_size: int = 100,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Compute the ELBO, the importance-weighted estimate and the active units of a model on its inputs."""
    # With one sample per example, the noise of the ELBO on a small set would exceed its gap to the estimate.
    elbo_samples = min(num_samples, ELBO_SAMPLES)
    terms = evaluation.terms(
        key,
        model,
        xs,
        objective=_elbo(parts, elbo_samples),
        batch_size=max(1, EVALUATION_ROWS // elbo_samples),
    )
    likelihood = evaluation.log_likelihood(
        key,
        model,
        xs,
        num_samples=num_samples,
        chunk_size=chunk_size,
        on_progress=(lambda done: on_progress(done, len(xs["x"]))) if on_progress else None,
    )
    units = evaluation.active_units(
        model, xs, num_samples=moment_samples(parts), key=stream_key(key, OfEvaluation.MOMENTS)
    )
    return Measured(terms, likelihood, units, _more(model, xs))


def summary(measured: Measured, *, split: str, binarize: str, num_samples: int) -> dict[str, Any]:
    """Return means over examples with their standard errors, nats, ready for JSON."""
    terms, likelihood, units, more = measured
    unreliable = likelihood.unreliable() if np.any(np.isfinite(likelihood.pareto_k)) else None
    weight = likelihood.weight
    mean = partial(evaluation.mean_and_error, weight=weight)
    return {
        "split": split,
        "examples": len(likelihood.estimate),
        "binarize": binarize,
        "elbo_num_samples": min(num_samples, ELBO_SAMPLES),
        "elbo": mean(terms.bound),
        "distortion": mean(terms.distortion),
        "rate": mean(terms.rate),
        "log_likelihood": likelihood.mean(),
        "log_likelihood_num_samples": num_samples,
        "log_likelihood_minus_elbo": mean(likelihood.estimate - terms.bound),
        "monte_carlo_error": likelihood.monte_carlo_error() if num_samples > 1 else None,
        "ess": mean(likelihood.ess)[0],
        "unreliable": unreliable,
        "active_units": units.count,
        "latent_dim": len(units.variance),
        **more,
    }


def evaluate(
    parts: Parts,
    model: AnyModel,
    *,
    split: str,
    num_samples: int,
    chunk_size: int = 100,
    xs: dict[str, Array] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on one split: ELBO, distortion, rate and importance-weighted estimate.

    All use the same draws of the data (`xs` if given), each with its standard error over examples, in
    nats.

    Raises:
        InputError: the data have no such split.
    """
    *_, key = parts.config.keys()
    sizes = {"num_samples": num_samples, "chunk_size": chunk_size}
    xs = observed(parts, split) if xs is None else xs
    measured = measure(parts, model, xs, key, **sizes, on_progress=on_progress)
    binarize = parts.config.binarize
    return summary(measured, split=split, binarize=binarize, num_samples=num_samples)


def _more(model: Any, xs: dict[str, Array]) -> dict[str, Any]:
    """Return numbers that only some models have: the exact evidence, the classification accuracy."""
    more: dict[str, Any] = {}
    if hasattr(model, "log_evidence"):
        evidence = np.asarray(jax.jit(jax.vmap(model.log_evidence))(xs["x"]))
        more["exact_log_likelihood"] = evaluation.mean_and_error(evidence, weights_of(xs))
    if isinstance(model, Classifying) and "label" in xs:
        found = evaluation.classification(model, xs["x"], np.asarray(xs["label"]))
        more["accuracy"] = found.accuracy, found.standard_error
        more["confusion"] = found.confusion.tolist()
    return more


def moment_samples(parts: Parts) -> int | None:
    """Return the number of draws that estimate the posterior mean; None if it is known in closed form."""
    return None if has_closed_mean(parts.model, parts.dataset) else MOMENT_SAMPLES


def _elbo(parts: Parts, num_samples: int) -> Objective:
    """Return the ELBO, with the rate in closed form if there is one, otherwise by samples."""
    kl = "analytic" if has_closed_kl(parts.model, parts.dataset) else "monte_carlo"
    path = can_differentiate_latents(parts.model, parts.dataset)
    gradient = "pathwise" if path else "score"  # the estimator does not affect the value
    return _compiled_once(num_samples, kl, gradient)


@cache
def _compiled_once(num_samples: int, kl: str, gradient: str) -> Objective:
    """Return the same object for the same options, so that programs compiled for one run serve the next."""
    return partial(objectives.elbo, num_samples=num_samples, kl=kl, gradient=gradient)  # type: ignore[arg-type]


def observed(parts: Parts, split: str) -> dict[str, Array]:
    """Return a split as the model sees it, with the other fields of its rows; every call gives the same draws.

    Raises:
        InputError: the data have no such split.
    """
    if split not in parts.dataset.splits:
        raise InputError(
            f"split: {parts.dataset.name} has {', '.join(parts.dataset.splits)}, got {split!r}"
        )
    *_, data_key, _ = parts.config.keys()
    return observe_batch(data_key, parts.dataset, split)
