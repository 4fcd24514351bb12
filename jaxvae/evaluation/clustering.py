"""Agreement of clusters with classes, for clusters of k-means on codes or the components of a mixture."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int, Real

from jaxvae.checks import require_positive
from jaxvae.evaluation.probes import require_codes, require_label_of_each
from jaxvae.types import InputError


class Clustering(NamedTuple):
    """Scores of the agreement of clusters with classes, invariant to the numbering of clusters."""

    nmi: float
    """Normalised mutual information, the mutual information over the mean of the two entropies, 0 to 1."""
    ari: float
    """Adjusted Rand index: agreement on pairs of examples, 0 at chance level and 1 for full agreement."""
    accuracy: float
    """Fraction of examples whose cluster is matched with their class, in the best one-to-one matching."""


def clustering(assignments: Int[ArrayLike, "N"], labels: Int[ArrayLike, "N"]) -> Clustering:
    """Return NMI, ARI and accuracy of a clustering.

    `accuracy = max over matchings m of mean_i [m(assignments[i]) = labels[i]]`; each class is matched
    with at most one cluster, so that examples in surplus clusters count as wrong.

    Args:
        assignments: the cluster of each example, any integers: from `kmeans_assignments`, or the most
            probable component of a mixture.
        labels: the classes of the examples, integers.

    Returns:
        The three scores.

    Raises:
        InputError: assignments and labels are not integers of one shape [N], or there are no examples.

    >>> clustering([5, 5, 2, 2], [0, 0, 1, 1])
    Clustering(nmi=1.0, ari=1.0, accuracy=1.0)

    Source: Strehl and Ghosh (2002), "Cluster ensembles", for NMI; Hubert and Arabie (1985),
    "Comparing partitions", for ARI; Kuhn (1955), "The Hungarian method", for the matching.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    count = np.size(labels)
    if not count:
        raise InputError("labels: expected one example or more, got none")
    labels = require_label_of_each("labels", labels, count)
    assignments = require_label_of_each("assignments", assignments, count)
    table = contingency_matrix(labels, assignments)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return Clustering(
        float(normalized_mutual_info_score(labels, assignments)),
        float(adjusted_rand_score(labels, assignments)),
        float(table[rows, columns].sum() / count),
    )


def kmeans_assignments(
    codes: Real[ArrayLike, "N D"], num_clusters: int, *, num_starts: int = 10, seed: int = 0
) -> Int[np.ndarray, "N"]:
    """Return the cluster of each code by scikit-learn's k-means, the best of several runs.

    Args:
        codes: representations of the examples, such as posterior means.
        num_clusters: C, at most N.
        num_starts: number of runs from k-means++ seeds; the run with the least squared distance is used.
        seed: seed of the random initialisation.

    Returns:
        Integers 0 to C - 1, [N].

    Raises:
        InputError: the codes or a size are invalid.

    >>> one, other = kmeans_assignments(np.array([[0.0], [5.0]]), 2).tolist()
    >>> one != other
    True
    """
    from sklearn.cluster import KMeans

    require_positive(num_clusters=num_clusters, num_starts=num_starts)
    codes = require_codes("codes", codes)
    if num_clusters > len(codes):
        raise InputError(
            f"num_clusters: expected at most {len(codes)}, the number of codes, got {num_clusters}"
        )
    kmeans = KMeans(num_clusters, n_init=num_starts, random_state=seed)  # type: ignore[arg-type]
    return kmeans.fit_predict(codes)
