"""InfoVAE, which couples the examples of a batch, and the MMD between two samples."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxvae.batching import fill_rows
from jaxvae.checks import is_known, require_choice, require_number
from jaxvae.coupled.terms import (
    draw_each,
    elbo_of,
    latents,
    off_diagonal,
    pairs,
    ratio,
    relative,
    require_rows,
    weighted_mean,
)
from jaxvae.distributions import sample
from jaxvae.keys import OfExample, stream_key
from jaxvae.objectives import KL
from jaxvae.types import InputError, Model, Scalar, Terms

Kernel: TypeAlias = Literal["imq", "rbf"]


def info_vae(
    keys: Key[Array, "B"],
    model: Model,
    xs: Float[Array, "B *event"],
    *,
    weight: Float[Array, "B"] | None = None,
    alpha: Scalar,
    lambda_: Scalar,
    kernel: Kernel = "imq",
    bandwidth: float | None = None,
    kl: KL = "analytic",
) -> Terms:
    """The InfoVAE objective, which also penalises the MMD between the aggregate posterior and the prior.

    `objective[i] = -distortion[i] - (1 - alpha) rate[i] - (alpha + lambda_ - 1) mmd2(z, z_p)` with
    one `z[i] ~ q(z|x[i])` and one `z_p[i] ~ p(z)` per example. `alpha = 0, lambda_ = 1` is the ELBO;
    `alpha = 1` is the MMD-VAE, in which the rate has weight 0.

    Args:
        keys: typed keys, one per example.
        model: any object with `prior`, `posterior` and `likelihood`.
        xs: B >= 2 examples.
        weight: weights of the examples in the MMD, for both z and z_p, see `mmd2`; equal if None.
        alpha: at most 1; 1 - alpha is the weight of the rate.
        lambda_: at least 1 - alpha; alpha + lambda_ - 1 is the weight of the MMD.
        kernel: "imq" or "rbf", see `mmd2`.
        bandwidth: length scale of the kernel; None is sqrt(2 D), see `mmd2`.
        kl: how the rate is computed, "analytic" or "monte_carlo".

    Returns:
        `Terms` of [B], nats; the squared MMD has no unit, its weight is in nats.

    Raises:
        InputError: a batch of one, invalid weights of examples, a weight of the rate or the MMD below 0,
            an unknown kernel, or keys of another shape.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> keys = jax.random.split(jax.random.key(1), 3)
    >>> terms = info_vae(keys, model, jnp.ones((3, 4)), alpha=0.0, lambda_=1.0)
    >>> bool(jnp.allclose(terms.objective, terms.bound))
    True

    Source: Zhao, Song and Ermon (2019), "InfoVAE: balancing learning and inference in variational
    autoencoders", the objective of section 3 with the MMD as its divergence.
    Departs from the source: the unbiased U-statistic of the MMD; a weight below 0 is refused, since
    the MMD, unlike the KL that it replaces, does not cancel against the rate.
    """
    _require_weights(alpha, lambda_)
    s = draw_each(keys, model, xs, weight)
    terms = elbo_of(s, kl)
    prior = jax.vmap(lambda key: sample(model.prior(), stream_key(key, OfExample.PRIOR)))(keys)
    z = latents(s)
    mmd = mmd2(
        z,
        prior.reshape(z.shape),
        x_weight=weight,
        y_weight=weight,
        kernel=kernel,
        bandwidth=bandwidth,
    )
    # Written as the bound plus a correction, so that alpha = 0, lambda_ = 1 gives exactly the bound.
    return terms._replace(objective=terms.bound + alpha * terms.rate - (alpha + lambda_ - 1) * mmd)


def mmd2(
    xs: Float[Array, "N D"],
    ys: Float[Array, "M D"],
    *,
    x_weight: Float[Array, "N"] | None = None,
    y_weight: Float[Array, "M"] | None = None,
    kernel: Kernel = "rbf",
    bandwidth: float | None = None,
) -> Float[Array, ""]:
    """The unbiased squared maximum mean discrepancy of two samples.

    `mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)`, with
    h = `bandwidth` and r = |x - y|: `k = exp(-r^2 / (2 h^2))` ("rbf") or `h^2 / (h^2 + r^2)` ("imq").
    It is below 0 about half of the time if the two distributions are equal.

    With weights each mean is weighted, `sum_{i != j} w_i w_j k(x_i, x_j) / sum_{i != j} w_i w_j` and likewise.
    Samples of weight 0 are ignored; equal weights have no effect; no sample is compared with itself,
    whatever its weight. If fewer than two samples have positive weight and the weights are traced, so
    that they cannot be refused, the result is 0.

    Args:
        xs: N >= 2 independent samples of one distribution.
        ys: M >= 2 independent samples of the other.
        x_weight: weights of xs; equal if None.
        y_weight: weights of ys; equal if None.
        kernel: "rbf" or "imq" (inverse multiquadratic, whose heavy tail keeps a gradient at a distance).
        bandwidth: h; None is sqrt(2 D), the distance between two samples of N(0, I).

    Returns:
        A scalar without unit, with expectation MMD^2 >= 0.

    Raises:
        InputError: fewer than 2 samples, different D, invalid weights, an unknown kernel, or h not
            above 0.

    >>> xs = jnp.array([[0.0], [1.0]])
    >>> round(float(mmd2(xs, xs, kernel="imq", bandwidth=1.0)), 6)  # 1/2 + 1/2 - 2 (3/4)
    -0.5

    Source: Gretton et al. (2012), "A kernel two-sample test", lemma 6; Tolstikhin et al.
    (2018), "Wasserstein auto-encoders", section 4, for "imq" and its h^2 = 2 D.
    """
    if xs.ndim != 2 or ys.ndim != 2 or xs.shape[1] != ys.shape[1] or min(len(xs), len(ys)) < 2:
        raise InputError(
            "xs, ys: expected samples [N, D] and [M, D] with N and M of at least 2, "
            f"got shapes {xs.shape} and {ys.shape}"
        )
    k = kernel_function(kernel, bandwidth, xs.shape[1])
    for samples, weight in ((xs, x_weight), (ys, y_weight)):
        require_rows(weight, len(samples), at_least=2)
    xs, ys = fill_rows(xs, x_weight), fill_rows(ys, y_weight)
    within = _mean_of_pairs(k(xs, xs), x_weight) + _mean_of_pairs(k(ys, ys), y_weight)
    across = weighted_mean(weighted_mean(k(xs, ys), x_weight), y_weight)
    enough = _has_pairs(x_weight) & _has_pairs(y_weight)
    return jnp.where(enough, within - 2 * across, 0.0)


def kernel_function(
    name: Kernel, bandwidth: float | None, latent_dim: int
) -> Callable[[Array, Array], Array]:
    """Return the kernel of `mmd2`, a function of samples [N, D] and [M, D] that returns k [N, M].

    Raises:
        InputError: an unknown kernel, or a bandwidth not above 0.
    """
    require_choice("kernel", name, get_args(Kernel))
    if bandwidth is not None:
        require_number("bandwidth", bandwidth, above=0)
    variance = 2.0 * latent_dim if bandwidth is None else bandwidth**2

    def k(xs: Array, ys: Array) -> Array:
        squares = jnp.sum((xs[:, None] - ys[None, :]) ** 2, axis=-1)
        return (
            jnp.exp(-squares / (2 * variance)) if name == "rbf" else variance / (variance + squares)
        )

    return k


def _mean_of_pairs(k: Float[Array, "N N"], weight: Float[Array, "N"] | None) -> Float[Array, ""]:
    """The mean of k off its diagonal, since the diagonal, k(x, x) = 1, would add a bias of order 1 / N."""
    if weight is None:
        size = len(k)
        return (jnp.sum(k) - jnp.trace(k)) / (size * (size - 1))
    share = pairs(relative(jnp.asarray(weight, k.dtype)))
    return ratio(jnp.sum(share * off_diagonal(k)), jnp.sum(share))


def _has_pairs(weight: Float[Array, "N"] | None) -> Bool[Array, ""] | bool:
    return True if weight is None else jnp.sum(jnp.asarray(weight) > 0) >= 2


def _require_weights(alpha: Scalar, lambda_: Scalar) -> None:
    if not (is_known(alpha) and is_known(lambda_)):
        return  # a schedule's
    of_rate, of_mmd = (
        ", for the rate has the weight 1 - alpha",
        " = 1 - alpha, for the MMD has the weight alpha + lambda_ - 1",
    )
    require_number("alpha", alpha, at_most=1, or_else=of_rate)
    require_number("lambda_", lambda_, at_least=float(1 - alpha), or_else=of_mmd)
