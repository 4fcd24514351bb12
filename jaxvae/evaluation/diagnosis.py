"""A diagnosis of the latents, such as posterior collapse, in numbers and sentences."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvae.evaluation.information import Surgery, elbo_surgery
from jaxvae.evaluation.latents import ActiveUnits, active_units, kl_per_latent
from jaxvae.evaluation.reliance import Reliance, reliance_on_latents
from jaxvae.keys import OfEvaluation, stream_key
from jaxvae.types import Batch, InputError, PRNGKey

SHARE = 0.1
"""The fraction of the rate that the marginal KL must exceed by three standard errors for a sentence."""


class Diagnosis(NamedTuple):
    """Measures of the latents, and sentences on their problems."""

    units: ActiveUnits
    """The active latents, whose posterior mean varies with x."""
    kl: Float[np.ndarray, "D"] | None
    """KL(q(z_d|x) || p(z_d)) of each latent, nats; None if it has no closed form."""
    surgery: Surgery
    """Distortion, the rate and its two parts, and the mutual information of each latent."""
    reliance: Reliance
    """The decoder's use of z."""
    sentences: tuple[str, ...]
    """Sentences on problems; empty if there are none."""

    def __str__(self) -> str:
        return "\n".join(self.sentences) or "Nothing is amiss with the latents."


def diagnose(
    key: PRNGKey,
    model: Any,
    xs: Batch,
    *,
    num_samples: int = 1,
    moment_samples: int | None = None,
    batch_size: int = 100,
) -> Diagnosis:
    """Diagnose dead latents, a decoder that ignores z, and a rate that is not mutual information.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`, or with `given`.
        xs: two examples or more [N, *event], in random order; or a batch with `x` and optionally `label`
            and `mask`. More examples raise the ceiling log N of the mutual information.
        num_samples: K of `elbo_surgery` and of `reliance_on_latents`.
        moment_samples: number of samples for the posterior means, if these have no closed form.
        batch_size: examples at a time.

    Returns:
        The results of `active_units`, `kl_per_latent`, `elbo_surgery` and `reliance_on_latents`, and
        sentences on problems; `str` gives these sentences, one per line.

    Raises:
        InputError: there are fewer than two examples, an option is invalid, q cannot score a
            latent, or its mean has no closed form and `moment_samples` is not given.

    >>> import jax
    >>> from jaxvae.testing import draw_examples, linear_gaussian
    >>> model = linear_gaussian().with_exact_posterior()
    >>> print(diagnose(jax.random.key(0), model, draw_examples(jax.random.key(1), model, 200)))
    Nothing is amiss with the latents.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.2, for active units; Hoffman and Johnson
    (2016), "ELBO surgery", for the parts of the rate.
    """
    options = {"num_samples": num_samples, "batch_size": batch_size}
    surgery = elbo_surgery(key, model, xs, **options)
    reliance = reliance_on_latents(key, model, xs, kl="monte_carlo", **options)
    units = active_units(
        model,
        xs,
        num_samples=moment_samples,
        key=stream_key(key, OfEvaluation.MOMENTS),
        batch_size=batch_size,
    )
    try:
        kl = kl_per_latent(model, xs, batch_size=batch_size)
    except InputError:  # no closed form, or no factorisation over latents
        kl = None
    said = (dead_latents(units), unused_latents(reliance), _surgery(surgery))
    return Diagnosis(units, kl, surgery, reliance, tuple(s for s in said if s))


def dead_latents(units: ActiveUnits) -> str | None:
    """Return a warning that names the dead latents, or None if there are none."""
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
        f"{len(dead)} of {total} latents {verb} dead: {names}. Over the examples the variance of "
        "the posterior mean is close to 0: these latents hold next to nothing of x."
    )


def unused_latents(reliance: Reliance) -> str | None:
    """Return a warning if the decoder ignores z or may ignore it, or None if it uses z."""
    (drop, error), (rate, _) = reliance.mean_drop, reliance.mean_rate
    worth = f"z of another example costs it {drop:.2f} +- {error:.2f} nats, the rate is {rate:.2f}"
    match reliance.verdict:
        case "ignored":
            return f"The decoder ignores z: {worth}. What the encoder puts into z is wasted."
        case "undecided":
            return f"Whether the decoder uses z is not decided by these examples: {worth}."
    return None


def _surgery(surgery: Surgery) -> str | None:
    information, (rate, _), (kl, error) = (
        surgery.mutual_information,
        surgery.rate,
        surgery.marginal_kl,
    )
    if information.near_ceiling:
        return (
            f"Mutual information is at its ceiling: {information.mean[0]:.2f} of log N = "
            f"{information.ceiling:.2f} nats. Of the rate of {rate:.2f} nats at most {kl:.2f} are "
            "marginal KL; more examples, or aggregate_mmd, can say how far the aggregate posterior "
            "is from the prior."
        )
    if kl - 3 * error > SHARE * rate:
        return (
            f"The rate is {rate:.2f} nats, of which {kl:.2f} +- {error:.2f} are marginal KL: the "
            "aggregate posterior is not the prior, so samples from the prior will look worse than "
            "reconstructions."
        )
    return None
