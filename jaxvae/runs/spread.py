"""The spread of results over runs: a row per run, and mean and standard deviation over seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvae.runs.config import Parts

SPLIT = "test"
TERMS = ("log_likelihood", "elbo", "rate", "distortion", "active_units")


def spread(parts: Mapping[str, Parts], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the final content of `many.json`.

    Args:
        parts: the parts of each run.
        results: the content of each run's `results.json`; None for a failed run.

    Returns:
        `rows`: one per run, with the mean of every term over examples and its standard error.
        `groups`: one per learning rate and beta, with the mean of every term over seeds and `sd`, the
        standard deviation between runs (ddof 1; None for one run). In nats, except active units.
    """
    rows, groups = [], {}
    for name, one in parts.items():
        config, found = one.config, results[name]
        own = {"learning_rate": config.learning_rate, "beta": config.beta}
        row = {"name": name, "seed": config.seed, **own}
        rows.append({**row, **({term: found[term] for term in TERMS} if found else {})})
        if found:
            groups.setdefault(tuple(own.items()), []).append(found)
    first = next(found for found in results.values() if found)
    return {
        "split": SPLIT,
        "examples": first["examples"],
        "log_likelihood_num_samples": first["log_likelihood_num_samples"],
        "latent_dim": first["latent_dim"],
        "rows": rows,
        "groups": [{**dict(own), **_over_runs(found)} for own, found in groups.items()],
    }


def _over_runs(results: list[dict[str, Any]]) -> dict[str, Any]:
    values = {t: [np.atleast_1d(found[t])[0] for found in results] for t in TERMS}
    return {
        "runs": len(results),
        **{
            term: {
                "mean": float(np.mean(each)),
                "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
            }
            for term, each in values.items()
        },
    }
