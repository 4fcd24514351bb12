"""The headline table: the numbers of a run with their meaning in words."""

import math
from collections.abc import Sequence
from typing import Any

from jaxvae.runs.words import Row, plus_minus

UNITS = {
    "boolean": "bits per binary dimension",
    "category": "bits per symbol",
    "nonnegative_integer": "bits per count",
    "open_unit_interval": "bits per dimension of a density over (0, 1); add log2 of the number of levels "
    "for a bound on that of the levels",
    "unit_interval": "bits per dimension of a density over [0, 1]; may be negative",
    "real": "bits per dimension of a density over reals; depends on their unit, may be negative",
}


def headline(results: dict[str, Any], *, event_shape: Sequence[int], support: str) -> list[Row]:
    """Return rows of name, value with its standard error, and meaning.

    Args:
        results: the content of `results.json`, nats.
        event_shape: shape of one example.
        support: the name of the support of the data as the model sees them.

    Returns:
        One row per number.
    """
    k = results["log_likelihood_num_samples"]
    size = math.prod(event_shape)
    bits = [value / (size * math.log(2)) for value in results["log_likelihood"]]
    unit = UNITS.get(support, "bits per dimension")
    rows = [
        ("ELBO", _nats(results["elbo"]), "lower bound on log p(x): minus distortion minus rate"),
        ("Distortion", _nats(results["distortion"]), "-E log p(x|z): what reconstruction costs"),
        ("Rate", _nats(results["rate"]), "KL(q(z|x) || p(z)): what the latent carries"),
        (
            f"log p(x), IWAE-{k:,}",
            _nats(results["log_likelihood"]),
            f"tighter lower bound, from {k:,} samples of z an example; mean effective sample size "
            f"{results['ess']:.0f}{_trust(results)}",
        ),
        (
            "Above the ELBO by",
            _nats(results["log_likelihood_minus_elbo"]),
            "the gap between the two",
        ),
        (
            "Bits per dimension",
            plus_minus([-bits[0], bits[1]], 3),
            f"-log p(x) / ({size:,} ln 2): {unit}",
        ),
        (
            "Active units",
            f"{results['active_units']} of {results['latent_dim']}",
            "latents whose posterior mean varies with x by more than 0.01",
        ),
    ]
    if "exact_log_likelihood" in results:
        exact = _nats(results["exact_log_likelihood"])
        rows.insert(4, ("log p(x), exact", exact, "in closed form: what the bounds are bounds on"))
    if "accuracy" in results:
        percent = [100 * value for value in results["accuracy"]]
        meaning = "how often the most probable class under q(y|x) is the label"
        rows.append(("Accuracy", f"{plus_minus(percent, 2)} %", meaning))
    return rows


def _nats(pair: Sequence[float]) -> str:
    return f"{plus_minus(pair)} nats"


def _trust(results: dict[str, Any]) -> str:
    """Describe the reliability of the estimate by the tails of its weights; "" with too few samples."""
    share = results.get("unreliable")
    return "" if share is None else f"; Pareto k-hat above 0.7 for {100 * share:.1f} % of examples"
