"""The aggregate posterior q(z) = mean_n q(z|x_n): its density, and its distance from the prior."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution, Independent

from jaxvae.batching import Examples, unpack
from jaxvae.binding import bind
from jaxvae.checks import known_number, require_key, require_positive
from jaxvae.coupled.info import Kernel, kernel_function
from jaxvae.distributions import log_prob, sample, sample_with_log_prob
from jaxvae.evaluation.streams import Constant, hold, is_there, stream, weights_of
from jaxvae.keys import OfComparison, OfExample, fold_each, stream_key
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import AnyModel, Batch, InputError, Model, PRNGKey

NUMBERS = 4_000_000
"""The approximate number of densities in memory at a time."""


class AggregateMMD(NamedTuple):
    """The MMD between aggregate posterior and prior, with a permutation test."""

    mmd2: float
    """The squared MMD, without unit; about 0, of either sign, if the two agree."""
    p_value: float
    """The fraction of the permutations, the observed one included, with an MMD at least as large."""
    null: Float[np.ndarray, "P"]
    """The squared MMD of every permutation of the pooled draws."""

    @property
    def deviations(self) -> float:
        """The distance of `mmd2` from the mean of `null`, in standard deviations of `null`."""
        return float((self.mmd2 - self.null.mean()) / self.null.std(ddof=1))

    def __str__(self) -> str:
        return (
            f"MMD^2 of aggregate posterior and prior: {self.mmd2:.2g}, {self.deviations:.1f} standard "
            f"deviations above chance, p = {self.p_value:.2g} of {len(self.null):,} permutations"
        )


def aggregate_mmd(
    key: PRNGKey,
    model: AnyModel,
    xs: Batch,
    *,
    kernel: Kernel = "rbf",
    bandwidth: float | None = None,
    num_permutations: int = 500,
    batch_size: int = 500,
) -> AggregateMMD:
    """Test whether the aggregate posterior differs from the prior, by a permutation test of the MMD.

    `mmd2` is `jaxvae.coupled.mmd2` of one `z_n ~ q(z|x_n)` and one sample of the prior per example. Its
    null distribution comes from random exchanges between the two samples. For independent examples of
    a distribution under which q(z) = p(z), `p_value <= a` has a probability of at most a, for every N.
    N^2 kernels are computed, in memory proportional to N times the number of permutations.

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`.
        model: any object with `prior` and `posterior`, or with `given`.
        xs: two examples or more [N, *event], or a batch with `x` and optionally `label` and `mask`; rows
            of weight 0 are left out, all others count equally, which a permutation test requires.
        kernel: "rbf" or "imq", see `jaxvae.coupled.mmd2`.
        bandwidth: length scale of the kernel; None is sqrt(2 D).
        num_permutations: P; no p-value is below 1 / (P + 1).
        batch_size: examples encoded at a time.

    Returns:
        `mmd2`, without bias and unit; `p_value`; `null` [P].

    Raises:
        InputError: there are fewer than two examples, or an option is invalid.

    >>> from jaxvae.testing import draw_examples, linear_gaussian
    >>> model = linear_gaussian().with_exact_posterior()
    >>> xs = draw_examples(jax.random.key(0), model, 100)
    >>> aggregate_mmd(jax.random.key(1), model, xs).p_value > 0.05
    True

    Source: Gretton et al. (2012), "A kernel two-sample test"; Tolstikhin et al. (2018), "Wasserstein
    auto-encoders", for this pair of samples.
    """
    require_key(key)
    require_positive(num_permutations=num_permutations)
    require_two(xs)
    if bandwidth is not None:
        bandwidth = known_number("bandwidth", bandwidth, above=0)
    there = is_there(xs)
    z, prior = (rows[there] for rows in stream(_pair, model, key, xs, batch_size=batch_size))
    size = len(z)
    if z.shape[1] == 0:
        raise InputError(
            "model: expected one with latents, to be held against the prior, got latent_dim=0"
        )
    points = jnp.concatenate([z, prior])
    shuffles = fold_each(stream_key(key, OfComparison.PERMUTATIONS), jnp.arange(num_permutations))
    rows, forms = jax.device_get(_forms(points, shuffles, kernel=kernel, bandwidth=bandwidth))
    total, signed = (np.asarray(a, np.float64).sum(axis=0) for a in (rows, forms))
    # The kernels within the two samples sum to (total + signed) / 2, those between them to (total - signed) / 4.
    mmd2 = (total + signed) / (2 * size * (size - 1)) - (total - signed) / (2 * size**2)
    observed, null = float(mmd2[0]), mmd2[1:]
    p_value = (1 + np.sum(null >= observed)) / (1 + num_permutations)
    return AggregateMMD(observed, float(p_value), null)


def _pair(model: Model, key: PRNGKey, x: Array) -> tuple[Array, Array]:
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)
    draws = sample(q, jax.random.fold_in(key, 0)), sample(p, stream_key(key, OfExample.PRIOR))
    z, prior = (draw.reshape(-1).astype(jnp.float32) for draw in draws)
    return z, prior


@partial(jax.jit, static_argnames=("kernel", "bandwidth"))
def _forms(
    points: Float[Array, "M D"], shuffles: Array, *, kernel: Kernel, bandwidth: float | None
) -> tuple[Float[Array, "M"], Float[Array, "M assignments"]]:
    """Row sums of the kernel without its diagonal, and the rows of the sum s' k s for every assignment s.

    s is +1 for one sample and -1 for the other; the first assignment is the observed one.
    """
    size, latent_dim = points.shape
    k = kernel_function(kernel, bandwidth, latent_dim)
    sides = jnp.where(jnp.arange(size) < size // 2, 1.0, -1.0)
    permuted = jax.vmap(lambda key: jax.random.permutation(key, sides))(shuffles)
    signs = jnp.concatenate([sides[:, None], permuted.T], axis=1)

    def row(i: Array) -> tuple[Array, Array]:
        others = k(points[i][None], points)[0].at[i].set(0.0)
        return jnp.sum(others), signs[i] * jnp.matmul(others, signs, precision="highest")

    return jax.lax.map(row, jnp.arange(size), batch_size=min(size, max(1, NUMBERS // size)))


class Draws(NamedTuple):
    """K samples of q(z|x) for each of N examples, and their log-densities, nats."""

    z: Float[Array | np.ndarray, "N K *latent"]
    log_q: Float[Array | np.ndarray, "N K"]
    log_p: Float[Array | np.ndarray, "N K"]
    log_q_each: Float[Array | np.ndarray, "N K D"] | None
    """log q of each latent, if q factorises over latents; else None."""
    log_p_each: Float[Array | np.ndarray, "N K D"] | None
    """log p of each latent, if the prior factorises over latents; else None."""
    log_p_x_z: Float[Array | np.ndarray, "N K"] | None
    """log p(x|z), if requested; else None."""


def posterior_draws(
    key: PRNGKey, model: AnyModel, xs: Batch, *, num_samples: int, batch_size: int, decode: bool
) -> Draws:
    """Draw sample k of example i from `fold_in(fold_in(key, i), k)`, as NumPy arrays; with log p(x|z) if `decode`."""
    options = {"num_samples": num_samples, "decode": decode}
    return stream(_draws, model, key, xs, batch_size=batch_size, **options)


def _draws(model: Model, key: PRNGKey, x: Array, *, num_samples: int, decode: bool) -> Draws:
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)

    def one(k: Array) -> Draws:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        q_each, p_each = log_prob_each(q, z), log_prob_each(p, z)
        log_q = log_q if q_each is None else jnp.sum(q_each)
        log_p_x_z = log_p_x_given_z(model, x, z) if decode else None
        return Draws(z, log_q, log_prob(p, z), q_each, p_each, log_p_x_z)

    return jax.vmap(one)(jnp.arange(num_samples))


def log_prob_each(distribution: Distribution, z: Array) -> Float[Array, "D"] | None:
    """The log-density of each latent separately, nats, or None if the distribution does not factorise."""
    if not isinstance(distribution, Independent) or distribution.base_dist.event_shape != ():
        return None
    return log_prob(distribution.base_dist, z).reshape(-1)


class _LogSum(NamedTuple):
    """A running log-sum-exp, `peak + log(total)`."""

    peak: Array
    total: Array

    def add(self, values: Array) -> "_LogSum":
        """Return the sum with more terms, given along the first axis."""
        peak = jnp.maximum(self.peak, jnp.max(values, axis=0))
        safe = jnp.where(jnp.isfinite(peak), peak, 0.0)
        new = jnp.sum(jnp.exp(values - safe[None]), axis=0)
        return _LogSum(peak, self.total * jnp.exp(self.peak - safe) + new)

    def log(self) -> np.ndarray:
        peak, total = (np.asarray(a, np.float64) for a in self)
        return peak + np.log(total)


def log_aggregate(
    model: AnyModel, xs: Batch, zs: Float[Array | np.ndarray, "M *latent"], *, each: bool = False
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M D"] | None]:
    """Return `log q(z) = log mean_n q(z|x_n)` of latents, the mean weighted by the examples' weights, nats.

    The examples are processed in chunks, each encoded once; the chunk size bounds chunk x M.

    Args:
        model: any object with `posterior`, or with `given`.
        xs: the examples that define q(z), [N, *event], or a batch.
        zs: latents.
        each: whether to return the density of each latent separately as well, for factorised posteriors.

    Returns:
        `log q(z)` [M], and `log q(z_d)` [M, D] if requested, float64.

    Raises:
        InputError: the posterior cannot score a latent that it did not draw.
    """
    examples = unpack(xs)
    size, latent_dim = len(examples.x), math.prod(np.shape(zs)[1:])
    held = hold(model)
    chunk = min(size, max(1, NUMBERS // max(1, len(zs) * latent_dim)))
    zs = jnp.asarray(zs)
    shapes = [zs.shape[:1], (len(zs), latent_dim)] if each else [zs.shape[:1]]
    sums = [_LogSum(jnp.full(shape, -jnp.inf), jnp.zeros(shape)) for shape in shapes]
    given = weights_of(xs)
    weight = np.ones(size) if given is None else given
    for start in range(0, size, chunk):
        index = np.arange(start, start + chunk)
        row = np.minimum(index, size - 1)
        counts = jnp.asarray(np.where(index < size, weight[row], 0.0), jnp.float32)
        sums = _add(held, sums, zs, examples, jnp.asarray(row), counts)
        jax.block_until_ready(sums)
    logs = [total.log() - math.log(np.sum(weight)) for total in sums]
    return logs[0], logs[1] if each else None


@jax.jit
def _add(
    held: Any,
    sums: list[_LogSum],
    zs: Array,
    examples: Examples,
    index: Int[Array, "C"],
    counts: Float[Array, "C"],
) -> list[_LogSum]:
    model = held.model if isinstance(held, Constant) else held

    def one(row: Examples, weight: Array) -> list[Array]:
        q = bind(model, row.label, row.mask).posterior(row.x)

        def score(z: Array) -> list[Array]:
            each = log_prob_each(q, z)
            log_q = log_prob(q, z) if each is None else jnp.sum(each)
            wanted = [log_q] if len(sums) == 1 or each is None else [log_q, each]
            return [jnp.where(weight > 0, value + jnp.log(weight), -jnp.inf) for value in wanted]

        return jax.vmap(score)(zs)

    rows = jax.tree.map(lambda column: column[index], examples)
    values = jax.vmap(one)(rows, counts)
    return [total.add(value) for total, value in zip(sums, values, strict=True)]


def require_two(xs: Batch) -> None:
    """Refuse fewer than two examples.

    Raises:
        InputError: there are fewer than two examples of positive weight.
    """
    if np.sum(is_there(xs)) < 2:
        raise InputError(
            "xs: expected two examples or more, whose posteriors are mixed, got one; pass many"
        )
