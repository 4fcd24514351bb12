"""k-means clustering, the initialisation of mixtures."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from jaxvae.checks import require_key, require_positive
from jaxvae.distributions.checks import as_real
from jaxvae.types import AnyArray, InputError, PRNGKey


def kmeans(
    key: PRNGKey,
    rows: Real[AnyArray, "N E"],
    num_clusters: int,
    *,
    weights: Float[AnyArray, "N"] | None = None,
    num_steps: int = 30,
    num_restarts: int = 10,
) -> tuple[Float[Array, "C E"], Int[Array, "N"]]:
    """Cluster rows by k-means: k-means++ seeds, then Lloyd's steps.

    Each seed is a row drawn with probability in proportion to its squared distance from the seeds
    before it. A step moves each centre to the mean of the rows nearest to it; a centre without rows
    stays. Of `num_restarts` runs, the one with the least sum of squared distances is returned.

    Args:
        key: one typed key.
        rows: the rows to cluster.
        num_clusters: C, at most N.
        weights: weights of the rows; equal if None.
        num_steps: number of Lloyd's steps.
        num_restarts: number of runs, each with its own seeds.

    Returns:
        The centres, and for each row the index of its nearest centre.

    Raises:
        InputError: the key or a size is invalid.

    >>> rows = jnp.array([[0.0], [0.1], [5.0], [5.1]])
    >>> centres, nearest = kmeans(jax.random.key(0), rows, 2)
    >>> bool(nearest[0] == nearest[1] != nearest[2]) and bool(nearest[2] == nearest[3])
    True

    Source: Arthur and Vassilvitskii (2007), "k-means++: the advantages of careful seeding".
    """
    require_key(key)
    require_positive(num_clusters=num_clusters, num_steps=num_steps, num_restarts=num_restarts)
    if num_clusters > len(rows):
        raise InputError(
            f"num_clusters: expected at most {len(rows)}, the number of rows, got {num_clusters}"
        )
    rows = as_real(jnp.asarray(rows))
    w = jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32)

    def distances(centres: Array) -> Float[Array, "N C"]:
        return jax.vmap(lambda c: jnp.sum((rows - c[None]) ** 2, axis=1), out_axes=1)(centres)

    def move(_: Array, centres: Array) -> Array:
        members = jax.nn.one_hot(jnp.argmin(distances(centres), axis=1), num_clusters)
        members = members * w[:, None]
        sizes = jnp.sum(members, axis=0)[:, None]
        return jnp.where(sizes > 0, members.T @ rows / jnp.where(sizes > 0, sizes, 1.0), centres)

    def run(index: Array) -> tuple[Array, Array]:
        run_key = jax.random.fold_in(key, index)

        def seed(count: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            centres, nearest = carry
            logits = jnp.log(w * nearest)
            chosen = rows[jax.random.categorical(jax.random.fold_in(run_key, count), logits)]
            return centres.at[count].set(chosen), jnp.minimum(
                nearest, distances(chosen[None])[:, 0]
            )

        start = jnp.zeros((num_clusters, rows.shape[1])), jnp.ones(len(rows))
        centres, _ = jax.lax.fori_loop(0, num_clusters, seed, start)
        centres = jax.lax.fori_loop(0, num_steps, move, centres)
        return centres, w @ jnp.min(distances(centres), axis=1)

    centres, costs = jax.lax.map(run, jnp.arange(num_restarts))
    centres = centres[jnp.argmin(costs)]
    return centres, jnp.argmin(distances(centres), axis=1)
