"""Disentanglement scores, which measure whether each latent represents one factor: MIG, SAP, modularity, DCI.

All of them compare codes [N, D], one row per example, with the known generative factors [N, F] of the
examples. Scores that need probabilities divide the range of each latent into equal-width bins.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxvae.evaluation.factors import (
    NUM_BINS,
    each_pair,
    entropy,
    factor_information,
    require_factors,
)
from jaxvae.evaluation.latents import posterior_moments
from jaxvae.evaluation.streams import is_there
from jaxvae.types import AnyModel, Batch, PRNGKey

ROUNDING = 1e-10  # nats; a sum that should be 0 may differ from it by rounding up to this
FOREST: dict[str, Any] = {
    "n_estimators": 20,
    "min_samples_leaf": 0.01,  # as a fraction of the examples; smaller leaves give importance to noise
    "max_features": None,  # all latents are candidates: with few, a tree must split at useless ones
    "random_state": 0,
}


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each from 0 to 1."""

    disentanglement: float
    """1 if each latent is important for at most one factor."""
    completeness: float
    """1 if each factor is predicted by one latent."""
    informativeness: float
    """Accuracy of the prediction of factors on held-out examples, the mean over factors."""
    importance: Float[np.ndarray, "D F"]
    """Importance of latent d for the prediction of factor f; columns sum to 1, or to 0."""


class Disentanglement(NamedTuple):
    """Every score of `disentanglement`, each from 0 to 1, larger is better."""

    mig: float
    sap: float
    modularity: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float


def disentanglement(
    model: AnyModel,
    xs: Batch,
    factors: Int[ArrayLike, "N F"],
    *,
    num_samples: int | None = None,
    key: PRNGKey | None = None,
    num_bins: int = NUM_BINS,
    batch_size: int = 500,
) -> Disentanglement:
    """Return all disentanglement scores of a model's posterior means.

    Args:
        model: any object with `posterior`.
        xs: examples as inputs of the model, [N, *event], or a batch, whose rows of weight 0 are left out.
        factors: generative factors, such as `dataset.splits["test"]["factors"]`, integers [N, F].
        num_samples: for posteriors without a closed-form mean, see `posterior_moments`.
        key: one typed key for the samples of `num_samples`.
        num_bins: bins of each latent.
        batch_size: examples at a time.

    Returns:
        `mig`, `sap`, `modularity` and the three scores of `dci`.

    Raises:
        InputError: there are fewer than two latents or factors, or the factors do not fit.

    Source: Locatello et al. (2019), "Challenging common assumptions in the unsupervised learning of
    disentangled representations", for posterior means as codes, and for the bins.
    """
    means = posterior_moments(
        model, xs, num_samples=num_samples, key=key, batch_size=batch_size
    ).mean
    there = is_there(xs)
    codes, factors = means.reshape(len(means), -1)[there], np.asarray(factors)[there]
    found = dci(codes, factors)
    return Disentanglement(
        mig(codes, factors, num_bins=num_bins),
        sap(codes, factors, num_bins=num_bins),
        modularity(codes, factors, num_bins=num_bins),
        found.disentanglement,
        found.completeness,
        found.informativeness,
    )


def mig(
    codes: Real[ArrayLike, "N D"], factors: Int[ArrayLike, "N F"], *, num_bins: int = NUM_BINS
) -> float:
    """The mutual information gap between the two most informative latents of a factor.

    `MIG = mean_f (I[d1, f] - I[d2, f]) / H[f]`, d1 and d2 the latents most informative about factor f.

    Args:
        codes: one row per example, D >= 2.
        factors: integers, each with two values or more.
        num_bins: bins of each latent.

    Returns:
        0 to 1.

    Raises:
        InputError: codes or factors are invalid.

    >>> factors = np.array(list(np.ndindex(4, 5)))
    >>> round(mig(factors, factors), 6)
    1.0

    Source: Chen et al. (2018), "Isolating sources of disentanglement in variational autoencoders".
    Departs from the source: information from binned codes, as in Locatello et al. (2019), instead of
    samples of q(z|x).
    """
    codes, factors = require_factors(codes, factors, latents=2)
    information = factor_information(codes, factors, num_bins=num_bins)
    entropies = np.array([entropy(np.bincount(f) / len(f)) for f in factors.T])
    return float(np.mean(_gap(information) / entropies))


def sap(
    codes: Real[ArrayLike, "N D"], factors: Int[ArrayLike, "N F"], *, num_bins: int = NUM_BINS
) -> float:
    """Separated attribute predictability: the gap in accuracy between a factor's two best latents.

    `S[d, f] = (1 / K) sum_b max_k p(bin b of latent d | factor f = k)`: the balanced accuracy of the
    best prediction of the K values of a factor from the bin of one latent. At chance level it is 1 / K, so
    that SAP is at most the mean of 1 - 1 / K.

    Args:
        codes: one row per example, D >= 2.
        factors: integers, each with two values or more.
        num_bins: bins of each latent.

    Returns:
        The mean over factors of the gap, 0 to 1.

    Raises:
        InputError: codes or factors are invalid.

    >>> factors = np.array(list(np.ndindex(4, 5)))
    >>> round(sap(factors, factors), 6)  # (3/4 + 4/5) / 2
    0.775

    Source: Kumar et al. (2018), "Variational inference of disentangled latent concepts from unlabeled
    observations", section 3. Departs from the source: the thresholds are the edges of the bins, and
    an inactive latent is at chance, not at 0.
    """
    codes, factors = require_factors(codes, factors, latents=2)
    return float(np.mean(_gap(each_pair(_balanced_accuracy, codes, factors, num_bins))))


def modularity(
    codes: Real[ArrayLike, "N D"], factors: Int[ArrayLike, "N F"], *, num_bins: int = NUM_BINS
) -> float:
    """Modularity: the degree to which each latent is informative about a single factor.

    `modularity = mean_d (1 - sum_{f != best} I[d, f]^2 / ((F - 1) I[d, best]^2))`; an uninformative
    latent counts as 0.

    Args:
        codes: one row per example.
        factors: integers, F >= 2, each with two values or more.
        num_bins: bins of each latent.

    Returns:
        0 to 1.

    Raises:
        InputError: codes or factors are invalid.

    >>> factors = np.array(list(np.ndindex(4, 5)))
    >>> round(modularity(factors, factors), 6)
    1.0

    Source: Ridgeway and Mozer (2018), "Learning deep disentangled embeddings with the F-statistic
    loss", section 3; Locatello et al. (2019) for uninformative latents.
    """
    codes, factors = require_factors(codes, factors, factors_at_least=2)
    squares = factor_information(codes, factors, num_bins=num_bins) ** 2
    best = squares.max(axis=1)
    told = best > ROUNDING**2
    others = (squares.sum(axis=1) - best)[told] / (best[told] * (factors.shape[1] - 1))
    return float(np.sum(1 - others) / len(best))


def dci(codes: Real[ArrayLike, "N D"], factors: Int[ArrayLike, "N F"]) -> DCI:
    """Disentanglement, completeness and informativeness, from the importance of latents in predictors of factors.

    With importances R, `disentanglement = sum_d rho[d] (1 - H_F(R[d] / sum_f R[d, f]))`, H_F the
    entropy to the base F, `rho[d]` the share of latent d in the sum of R; completeness is the same for
    R transposed.

    Args:
        codes: one row per example, D >= 2.
        factors: integers, F >= 2, each with two values or more.

    Returns:
        The three scores, and R.

    Raises:
        InputError: codes or factors are invalid.

    Source: Eastwood and Williams (2018), "A framework for the quantitative evaluation of disentangled
    representations". Departs from the source: the forests are scikit-learn's, of 20 trees with at least
    a hundredth of the examples per leaf, which take seconds, while the boosted trees of Locatello et al.
    (2019) take minutes; factors are classes, so that informativeness is an accuracy, on a random quarter
    of the examples, and importance is the reduction of impurity by splits at a latent.
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = require_factors(codes, factors, latents=2, factors_at_least=2)
    order = np.random.default_rng(0).permutation(len(codes))
    test, train = np.split(order, [max(1, len(codes) // 4)])
    importance, accuracy = [], []
    for factor in factors.T:
        forest = RandomForestClassifier(**FOREST)
        forest.fit(codes[train], factor[train])
        importance.append(forest.feature_importances_)
        accuracy.append(np.mean(forest.predict(codes[test]) == factor[test]))
    matrix = np.stack(importance, axis=1)
    return DCI(_specificity(matrix), _specificity(matrix.T), float(np.mean(accuracy)), matrix)


def _balanced_accuracy(joint: np.ndarray) -> float:
    given = joint / joint.sum(axis=0)
    return given.max(axis=1).sum() / given.shape[1]


def _gap(scores: Float[np.ndarray, "D F"]) -> Float[np.ndarray, "F"]:
    """Return the difference between the two largest entries of each column."""
    second, first = np.sort(scores, axis=0)[-2:]
    return first - second


def _specificity(importance: Float[np.ndarray, "A B"]) -> float:
    """The mean over rows of 1 - entropy to the base of the row's length, weighted by the row's share of the sum."""
    mass = importance.sum(axis=1)
    if not mass.any():
        return 0.0
    rows = importance[mass > 0] / mass[mass > 0, None]
    each = [1 - entropy(row) / np.log(len(row)) for row in rows]
    return float(np.average(each, weights=mass[mass > 0]))
