"""Codes [N, D] and generative factors [N, F] of examples: checks, joint counts, mutual information."""

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxvae.checks import require_positive
from jaxvae.evaluation.probes import require_codes
from jaxvae.types import InputError

NUM_BINS = 20  # of each latent, as Locatello et al. (2019)


def factor_information(
    codes: Real[ArrayLike, "N D"], factors: Int[ArrayLike, "N F"], *, num_bins: int = NUM_BINS
) -> Float[np.ndarray, "D F"]:
    """The mutual information of each latent, in equal-width bins, and each factor, nats.

    `I[d, f] = sum p(b, k) log(p(b, k) / (p(b) p(k)))` from the counts of the examples. The estimate is
    biased: if the true value is 0, it is about (num_bins - 1)(K - 1) / (2 N).

    Args:
        codes: one row per example.
        factors: integers, each with two values or more.
        num_bins: number of bins of each latent between its smallest and its largest value.

    Returns:
        I [D, F], nats.

    Raises:
        InputError: codes or factors are invalid.

    Source: Locatello et al. (2019), "Challenging common assumptions in the unsupervised learning of
    disentangled representations", appendix C.
    """
    codes, factors = require_factors(codes, factors)
    return each_pair(_information, codes, factors, num_bins)


def require_factors(
    codes: Real[ArrayLike, "N D"],
    factors: Int[ArrayLike, "N F"],
    *,
    latents: int = 1,
    factors_at_least: int = 1,
) -> tuple[Float[np.ndarray, "N D"], Int[np.ndarray, "N F"]]:
    """Return codes in float64, and factors with their values renumbered 0, 1, ..

    Raises:
        InputError: codes or factors have a wrong shape or type, there are too few latents or factors, or
            a factor has only one value.
    """
    codes = require_codes("codes", codes)
    if codes.shape[1] < latents:
        raise InputError(
            f"codes: expected {latents} latents or more, to compare them, got {codes.shape[1]}"
        )
    factors = np.asarray(factors)
    if factors.ndim != 2 or len(factors) != len(codes) or factors.shape[1] < factors_at_least:
        raise InputError(
            f"factors: expected shape [{len(codes)}, F], one row an example, with F of at least "
            f"{factors_at_least}, got {factors.shape}"
        )
    if factors.dtype.kind not in "iu":
        raise InputError(
            f"factors: expected integers, got {factors.dtype}; number the values of each factor "
            "0, 1, .., real ones after cutting them into bins"
        )
    numbered = np.stack([np.unique(f, return_inverse=True)[1] for f in factors.T], axis=1)
    if not numbered.any(axis=0).all():
        constant = int(np.flatnonzero(~numbered.any(axis=0))[0])
        raise InputError(
            f"factors: expected two values or more of each, got {factors[0, constant]} for every "
            f"example in column {constant}; leave it out"
        )
    return codes, numbered


def each_pair(
    score: Callable[[Float[np.ndarray, "bins K"]], float],
    codes: Float[np.ndarray, "N D"],
    factors: Int[np.ndarray, "N F"],
    num_bins: int,
) -> Float[np.ndarray, "D F"]:
    """Return `score(p)` for every latent and factor, p the joint probabilities of its bins and its values."""
    require_positive(num_bins=num_bins)
    low, high = codes.min(axis=0), codes.max(axis=0)
    width = np.where(high > low, high - low, 1) / num_bins
    bins = np.minimum(((codes - low) / width).astype(int), num_bins - 1)
    return np.array([[score(_joint(b, f, num_bins)) for f in factors.T] for b in bins.T])


def entropy(p: Float[np.ndarray, "..."]) -> float:
    """The entropy of probabilities, nats."""
    p = p[p > 0]
    return -float(np.sum(p * np.log(p)))


def _joint(bins: np.ndarray, factor: np.ndarray, num_bins: int) -> Float[np.ndarray, "bins K"]:
    counts = np.zeros((num_bins, factor.max() + 1))
    np.add.at(counts, (bins, factor), 1)
    return counts / len(bins)


def _information(joint: np.ndarray) -> float:
    return entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)
