"""Similar sequences of an alignment: the number of neighbours of each, and clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

_BLOCK = 1024
_SLACK = 1e-6  # columns: identity * columns is rounded, the number of agreeing columns is not


class Similarity(NamedTuple):
    """Neighbours and clusters of similar sequences."""

    neighbours: Int[np.ndarray, "N"]
    """The number of sequences that are similar to each one, itself included."""
    cluster: Int[np.ndarray, "N"]
    """The cluster number of each sequence: chains of similar sequences form one cluster (single linkage)."""


def similarity(
    x: UInt8[np.ndarray, "N L"],
    observed: Bool[np.ndarray, "N L"],
    num_categories: int,
    identity: float,
) -> Similarity:
    """Compare all pairs of sequences: a pair is similar if it agrees in a share `identity` of its columns or more.

    `agree(i, j) >= identity * common(i, j)`, over the columns that were observed in both; a gap counts as a
    symbol. This takes N^2 L C operations, and memory of order N L plus that of blocks.

    >>> x = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 2], [1, 1, 1, 2, 2], [3, 4, 5, 6, 7]], np.uint8)
    >>> neighbours, cluster = similarity(x, np.ones(x.shape, bool), 8, 0.8)
    >>> neighbours.tolist(), cluster.tolist()
    ([2, 3, 2, 1], [0, 0, 0, 1])
    """
    count = len(x)
    neighbours, cluster = np.zeros(count, np.int64), np.arange(count)
    starts = range(0, count, _BLOCK)
    for first in starts:
        rows = np.arange(first, min(first + _BLOCK, count))
        ours = _indicators(x[rows], observed[rows], num_categories)
        for second in range(first, count, _BLOCK):
            columns = np.arange(second, min(second + _BLOCK, count))
            theirs = _indicators(x[columns], observed[columns], num_categories)
            near = _near(ours, theirs, identity)
            if first == second:
                np.fill_diagonal(near, val=True)
            else:
                neighbours[columns] += near.sum(axis=0)
            neighbours[rows] += near.sum(axis=1)
            cluster = _joined(cluster, rows, columns, near)
    return Similarity(neighbours, np.unique(cluster, return_inverse=True)[1])


def _indicators(
    x: UInt8[np.ndarray, "B L"], observed: Bool[np.ndarray, "B L"], num_categories: int
) -> tuple[Float[np.ndarray, "B LC"], Float[np.ndarray, "B L"]]:
    one_hot = (x[..., None] == np.arange(num_categories)) & observed[..., None]
    return one_hot.reshape(len(x), -1).astype(np.float32), observed.astype(np.float32)


def _near(ours, theirs, identity: float) -> Bool[np.ndarray, "B B2"]:
    agree, common = (a @ b.T for a, b in zip(ours, theirs, strict=True))
    return (agree >= identity * common.astype(np.float64) - _SLACK) & (common > 0)


def _joined(
    cluster: Int[np.ndarray, "N"],
    rows: Int[np.ndarray, "B"],
    columns: Int[np.ndarray, "B2"],
    near: Bool[np.ndarray, "B B2"],
) -> Int[np.ndarray, "N"]:
    """Merge clusters that are connected by the similar pairs of one more block."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    i, j = np.nonzero(near)
    pairs = coo_array(
        (np.ones(len(i), bool), (cluster[rows[i]], cluster[columns[j]])), shape=(len(cluster),) * 2
    )
    return connected_components(pairs, directed=False)[1][cluster]
