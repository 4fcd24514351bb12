"""The numbers of a run in words: the headline table, and what to say of dead latents."""

import math
from collections.abc import Sequence
from typing import Any

from jaxvae.evaluation import ActiveUnits

Row = tuple[str, str, str]

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
    """Rows of name, value with its standard error, and meaning.

    Args:
        results: what `results.json` holds, nats.
        event_shape: shape of one example.
        support: of the data as the model sees them, by name.

    Returns:
        One row a number.
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
            f"{results['ess']:.0f}",
        ),
        (
            "Above the ELBO by",
            _nats(results["log_likelihood_minus_elbo"]),
            "the gap between the two",
        ),
        (
            "Bits per dimension",
            _plus_minus([-bits[0], bits[1]], 3),
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
        rows.append(("Accuracy", f"{_plus_minus(percent, 2)} %", meaning))
    return rows


def dead_latents(units: ActiveUnits) -> str | None:
    """A warning that names the latents which ignore the data, or None where there are none."""
    dead = [d for d, alive in enumerate(units.active) if not alive]
    if not dead:
        return None
    total = len(units.active)
    if len(dead) == total:
        which = "The only latent is" if total == 1 else f"All {total} latents are"
        return (
            f"Posterior collapse: {which} dead. The posterior mean does not follow x, so the "
            "decoder has nothing to go by. A smaller beta, a KL warm-up (kl_warmup_steps) or a "
            "longer run may help."
        )
    names = ", ".join(f"z[{d}]" for d in dead)
    verb = "is" if len(dead) == 1 else "are"
    return (
        f"{len(dead)} of {total} latents {verb} dead: {names}. Over the test split the variance of "
        "the posterior mean is at most 0.01, so next to nothing of x is in there."
    )


def _nats(pair: Sequence[float]) -> str:
    return f"{_plus_minus(pair, 2)} nats"


def _plus_minus(pair: Sequence[float], digits: int) -> str:
    value, error = pair
    spread = f"{error:.{digits}f}" if math.isfinite(error) else "unknown"
    return f"{value:.{digits}f} ± {spread}"
