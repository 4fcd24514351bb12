"""Inference gaps: the approximation gap of the family of q and the amortisation gap of the encoder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.batching import unpack
from jaxvae.binding import bind
from jaxvae.checks import require_choice, require_key, require_positive
from jaxvae.distributions import log_prob, sample_with_log_prob
from jaxvae.evaluation.streams import mean_and_error, stream, weights_of
from jaxvae.inference.families import FamilyName, family_of, require_family
from jaxvae.inference.fit_posterior import (
    FitOptions,
    Start,
    error_of_mean,
    log_weights,
    optimise,
    require_options,
)
from jaxvae.log_weights import log_p_x_given_z, over_samples
from jaxvae.types import Batch, InputError, Model, PRNGKey

LogEvidence: TypeAlias = Literal["iwae", "exact"] | Float[np.ndarray, "N"]

CHUNK_SIZE = 100


class FamilyGap(NamedTuple):
    """The gaps measured with the optimal q of one family, one number per example, nats."""

    best: Float[np.ndarray, "N"]
    """ELBO of the fitted q, from samples that were not used in the fit."""
    best_error: Float[np.ndarray, "N"]
    """Standard error of `best`."""
    approximation: Float[np.ndarray, "N"]
    """log p(x) - best, the approximation gap of the family."""
    amortisation: Float[np.ndarray, "N"]
    """best - ELBO of the encoder, the amortisation gap relative to the optimal q of this family."""


class Gaps(NamedTuple):
    """The parts of the gap between the ELBO and log p(x); every array is [N], nats."""

    log_evidence: Float[np.ndarray, "N"]
    """log p(x), or the lower bound on it, relative to which the gaps are measured."""
    log_evidence_error: Float[np.ndarray, "N"]
    """Monte Carlo error of `log_evidence`: 0 if it is exact, NaN if it was given."""
    encoder: Float[np.ndarray, "N"]
    """ELBO of the encoder's q(z|x)."""
    encoder_error: Float[np.ndarray, "N"]
    """Standard error of `encoder`."""
    total: Float[np.ndarray, "N"]
    """log p(x) - encoder, equal to approximation + amortisation for every family."""
    families: Mapping[str, FamilyGap]
    """The gaps of each family, by its name."""
    encoder_family: str
    """The family of the encoder's q(z|x); only for this family is the amortisation gap due to the encoder alone."""
    source: str
    """The source of log p(x)."""
    weight: Float[np.ndarray, "N"] | None = None
    """Weights of the examples in means; equal if None."""

    def mean(self, name: str, family: str | None = None) -> tuple[float, float]:
        """Return the mean over examples and its standard error, for a named array of this object or of a family."""
        values = getattr(self if family is None else self.families[family], name)
        return mean_and_error(values, self.weight)

    def __str__(self) -> str:
        shown = partial(_number_with_error, weight=self.weight)
        count = len(self.total) if self.weight is None else np.count_nonzero(self.weight)
        lines = [
            f"log p(x) of {count} examples, {self.source}: {shown(self.log_evidence)} nats",
            f"encoder, {self.encoder_family}: ELBO {shown(self.encoder)}, "
            f"total gap {shown(self.total)}",
        ]
        for name, of in self.families.items():
            also = "" if name == self.encoder_family else ", which is not the encoder's family"
            lines.append(
                f"best {name} q: ELBO {shown(of.best)}, approximation gap "
                f"{shown(of.approximation)}, amortisation gap {shown(of.amortisation)}{also}"
            )
        return "\n".join(lines)


def _number_with_error(
    values: Float[np.ndarray, "N"], weight: Float[np.ndarray, "N"] | None
) -> str:
    """Return the mean and its standard error as text."""
    mean, error = mean_and_error(values, weight)
    return f"{round(mean, 2) + 0.0:.2f} +- {error:.2f}"  # + 0.0 turns -0.00 into 0.00


def gaps(
    key: PRNGKey,
    model: Any,
    xs: Batch,
    *,
    families: Sequence[FamilyName] = ("diagonal", "full"),
    num_samples: int = 1000,
    log_evidence: LogEvidence = "iwae",
    num_steps: int = 500,
    num_fit_samples: int = 8,
    learning_rate: float = 0.05,
    start: Start = "encoder",
    batch_size: int = 100,
    on_progress: Callable[[int], None] | None = None,
) -> Gaps:
    """Split the gap between log p(x) and the ELBO into approximation gap and amortisation gap.

        total         = log p(x)  - ELBO[q(z|x)]
        approximation = log p(x)  - ELBO[q*]        q*: the optimal q of a family, for each x separately
        amortisation  = ELBO[q*]  - ELBO[q(z|x)]

    For every example approximation + amortisation = total. The ELBOs are means over `num_samples`
    samples drawn after the fit, from the same noise for every q. For a family other than the encoder's,
    the amortisation gap also includes the difference between the two families.

    With `log_evidence="iwae"` log p(x) is the importance-weighted bound whose proposal is the mixture
    of the fitted q with equal weights, with K = `num_samples` samples of each: `log mean_k p(x, z_k) /
    mean_j q_j(z_k)`. These fit x better than the encoder's q, but it is still a lower bound, so that the
    true total gap is at least the one shown; to use another estimate pass
    `jaxvae.evaluation.ais(..).estimate`. If a fit stops short of the optimum, the shortfall is counted
    in the approximation gap instead of the amortisation gap.

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`.
        model: any object with `prior`, `posterior` and `likelihood`, or with `given`.
        xs: examples [N, *event], or a batch: a mapping with `x` and optionally `label` and `mask`.
        families: the families whose optimal q are fitted, see `jaxvae.inference.fit_posterior`.
        num_samples: K, the number of samples of each q.
        log_evidence: "iwae"; "exact", the model's own `log_evidence(x)`; or an estimate of log p(x)
            for every example [N], nats.
        num_steps: number of updates of each q.
        num_fit_samples: samples per update.
        learning_rate: learning rate of the first update.
        start: the initial q, from the "encoder" or the "prior".
        batch_size: examples at a time.
        on_progress: called after every batch with the number of finished examples.

    Returns:
        `Gaps`: arrays [N], and one `FamilyGap` per family; `str` gives their means and standard errors.

    Raises:
        InputError: the latent is not a vector of reals, an option or a shape is invalid, or
            log p(x) is not known.

    >>> import jaxvae as jv
    >>> model = jv.testing.linear_gaussian()
    >>> result = gaps(jax.random.key(0), model, jnp.ones((3, 3)), log_evidence="exact", num_steps=50)
    >>> diagonal = result.families["diagonal"]
    >>> bool(np.all(diagonal.approximation + diagonal.amortisation == result.total))
    True

    Source: Cremer, Li and Duvenaud (2018), "Inference suboptimality in variational autoencoders";
    Veach and Guibas (1995), "Optimally combining sampling techniques for Monte Carlo rendering", for
    the mixture as one proposal.
    Departs from the source: log p(x) is not the maximum of two estimates, which would be biased upwards.
    """
    require_key(key)
    require_positive(num_samples=num_samples, batch_size=batch_size)
    fits = tuple(
        require_options(FitOptions(name, num_steps, num_fit_samples, learning_rate, start))
        for name in _require_families(families)
    )
    known = _require_log_evidence(log_evidence, len(unpack(xs).x))
    source = known if isinstance(known, str) else "given"
    if source == "exact":
        known = stream(_exact_evidence, model, None, xs, batch_size=batch_size)
    encoder, *best, evidence = stream(
        _bounds,
        model,
        key,
        xs,
        batch_size=batch_size,
        on_progress=on_progress,
        fits=fits,
        num_samples=num_samples,
        with_evidence=source == "iwae",
    )
    encoder, best, evidence = jax.tree.map(np.float64, (encoder, best, evidence))
    if source == "iwae":
        source = f"at least, by {num_samples * len(fits)} samples of the best q"
    else:
        error = 0.0 if source == "exact" else np.nan
        evidence = np.asarray(known, np.float64), np.full(len(known), error)
    (log_p, log_p_error), (elbo, elbo_error) = evidence, encoder
    return Gaps(
        log_evidence=log_p,
        log_evidence_error=log_p_error,
        encoder=elbo,
        encoder_error=elbo_error,
        total=log_p - elbo,
        families={
            fit.family: FamilyGap(
                top, top_error, approximation=log_p - top, amortisation=top - elbo
            )
            for fit, (top, top_error) in zip(fits, best, strict=True)
        },
        encoder_family=_encoder_family(model, xs),
        source=source,
        weight=weights_of(xs),
    )


def _bounds(
    model: Model,
    key: PRNGKey,
    x: Array,
    *,
    fits: tuple[FitOptions, ...],
    num_samples: int,
    with_evidence: bool,
) -> list[tuple[Array, Array]]:
    """ELBO and standard error of the encoder and of each fitted q, then the evidence with its error
    (zeros if it is not requested).
    """
    fit_key, bound_key = jax.random.split(key)
    qs = [
        optimise(jax.random.fold_in(fit_key, i), model, x, fit)[0].distribution()
        for i, fit in enumerate(fits)
    ]
    elbos = [
        (jnp.mean(log_w), error_of_mean(log_w))
        for q in (model.posterior(x), *qs)
        for log_w in (log_weights(bound_key, model, x, q, num_samples),)
    ]
    zero = jnp.zeros(())
    evidence = zero, zero
    if with_evidence:
        evidence = _mixture_evidence(bound_key, model, x, qs, num_samples)
    return [*elbos, evidence]


def _mixture_evidence(
    key: PRNGKey, model: Model, x: Array, qs: Sequence[Distribution], num_samples: int
) -> tuple[Array, Array]:
    """`log mean_k p(x, z_k) / mean_j q_j(z_k)` over samples of every q, and its standard error (delta method)."""
    p = model.prior()

    def log_w(i: int, k: Array) -> Array:
        z, own = sample_with_log_prob(qs[i], jax.random.fold_in(key, k))
        log_q = jnp.stack([own if j == i else log_prob(q, z) for j, q in enumerate(qs)])
        mixture = jax.nn.logsumexp(log_q) - jnp.log(float(len(qs)))
        return log_p_x_given_z(model, x, z) + log_prob(p, z) - mixture

    def some(ks: Array) -> Array:
        return jax.vmap(lambda k: jnp.stack([log_w(i, k) for i in range(len(qs))]))(ks)

    each = over_samples(some, jnp.arange(num_samples), CHUNK_SIZE)  # [K, families]
    peak = jax.lax.stop_gradient(jnp.max(each))
    w = jnp.mean(jnp.exp(each - peak), axis=1)  # samples with the same k share their noise
    return peak + jnp.log(jnp.mean(w)), error_of_mean(w) / jnp.mean(w)


def _exact_evidence(model: Any, _: None, x: Array) -> Array:
    known = getattr(model, "log_evidence", None)
    if known is None:
        raise InputError(
            f'log_evidence: expected "iwae" or an array, since {type(model).__name__} has no '
            'log_evidence(x), got "exact"'
        )
    return jnp.asarray(known(x))


def _encoder_family(model: Any, xs: Batch) -> str:
    """Return the name of the family of q(z|x), from a trace without computation."""
    names: list[str] = []

    def look(row: Any) -> None:
        names.append(family_of(bind(model, row.label, row.mask).posterior(row.x)))

    jax.eval_shape(look, jax.tree.map(lambda column: column[0], unpack(xs)))
    return names[0]


def _require_families(families: Sequence[FamilyName]) -> tuple[FamilyName, ...]:
    if isinstance(families, str) or not families or len(set(families)) < len(families):
        raise InputError(
            f'families: expected some names, each once, such as ("diagonal", "full"), got {families!r}'
        )
    for name in families:
        require_family(name)
    return tuple(families)


def _require_log_evidence(given: LogEvidence, size: int) -> str | Float[np.ndarray, "N"]:
    if isinstance(given, str):
        known, numbers = ("iwae", "exact"), ", or one number an example"
        require_choice("log_evidence", given, known, or_else=numbers)
        return given
    values = np.asarray(given, np.float64)
    if values.shape != (size,) or not np.all(np.isfinite(values)):
        raise InputError(
            f"log_evidence: expected finite nats of shape {(size,)}, one an example, got "
            f"shape {values.shape}{'' if values.shape != (size,) else ' with NaN or infinity'}"
        )
    return values
