"""Imputation of missing values given the observed ones, by importance resampling of the latents."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.batching import unpack
from jaxvae.binding import Observed
from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import log_prob, sample, sample_with_log_prob
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.evaluation.streams import stream
from jaxvae.keys import OfImputation, stream_key
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import AnyModel, Batch, InputError, PRNGKey


class Imputation(NamedTuple):
    """Examples with their missing values imputed; observed values are unchanged."""

    draws: Float[np.ndarray, "M N *event"]
    """M samples of p(x_missing|x_observed) per example."""
    mean: Float[np.ndarray, "N *event"] | None
    """E[x_missing|x_observed] from all K weights; None if p(x|z) has no known mean."""
    ess: Float[np.ndarray, "N"]
    """Effective sample size of the weights, (sum w)^2 / sum w^2, from 1 to K."""


class _Kept(NamedTuple):
    """The running state over latents: sums of weights relative to exp(peak), and the latents chosen so far."""

    peak: Float[Array, ""]
    first: Float[Array, ""]
    second: Float[Array, ""]
    mean: Float[Array, "*event"] | None
    lead: Float[Array, "M"]
    z: Float[Array, "M *latent"]


def impute(
    key: PRNGKey,
    model: AnyModel,
    xs: Batch,
    *,
    num_draws: int = 1,
    num_samples: int = 1000,
    chunk_size: int = 100,
    batch_size: int | None = None,
) -> Imputation:
    """Impute missing values given the observed ones, by importance resampling.

    `z_k ~ q(z|x_observed)`, `w[k] = p(x_observed|z_k) p(z_k) / q(z_k|x_observed)`: each draw takes one
    of the K latents with probability `w[k] / sum w`, then `x_missing ~ p(x|z)`; `mean` is
    `sum_k w[k] E[x|z_k] / sum w`. Both converge to the exact results as K grows; for K = 1 they are the
    reconstruction from q. All draws of an example use the same K latents: if `ess` is near 1, they all
    come from a single latent. The encoder's input has zeros in place of missing values.

    Args:
        key: one typed key; sample k of example i draws from `fold_in(fold_in(key, i), k)`.
        model: any object with `prior`, `posterior` and a `likelihood` that factorises over the
            values of x, or with `given`.
        xs: a mapping with `x` [N, *event], `mask` of the same shape, 1 for an observed value and 0 for a
            missing one, and `label` if the model needs one. The values stored in place of missing
            ones, NaN included, have no effect.
        num_draws: M, the number of draws per example.
        num_samples: K, the number of latents from which the draws are resampled.
        chunk_size: latents at a time; memory does not grow with K, and no result depends on it.
        batch_size: examples at a time; by default chosen so that batch x chunk is about 1,000.

    Returns:
        `draws` [M, N, *event], `mean` [N, *event] and `ess` [N]; the first two contain the observed
        values unchanged.

    Raises:
        InputError: there is no mask or it is of another shape, a size is below 1, or the likelihood
            does not factorise.

    >>> from jaxvae.testing import linear_gaussian
    >>> batch = {"x": jnp.ones((2, 3)), "mask": jnp.array([[1, 1, 0], [0, 1, 1]])}
    >>> filled = impute(jax.random.key(0), linear_gaussian(), batch, num_draws=5)
    >>> filled.draws.shape, filled.mean[0, :2].tolist()
    ((5, 2, 3), [1.0, 1.0])

    Source: Mattei and Frellsen (2019), "MIWAE: deep generative modelling and imputation of
    incomplete data sets", section 3.3; Rezende, Mohamed and Wierstra (2014), "Stochastic
    backpropagation", appendix F, who iterate without weights.
    """
    require_key(key)
    require_positive(num_draws=num_draws, num_samples=num_samples, chunk_size=chunk_size)
    if unpack(xs).mask is None:
        raise InputError(
            'xs: expected a mapping with "x" and "mask" of its shape, 1 where a value was observed, '
            "got no mask of values; without one nothing is missing"
        )
    chunk_size = min(chunk_size, num_samples)
    result = stream(
        _impute,
        model,
        key,
        xs,
        batch_size=max(1, 1000 // chunk_size) if batch_size is None else batch_size,
        num_draws=num_draws,
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    draws, mean, ess = result
    return Imputation(np.moveaxis(draws, 1, 0), mean, ess)


def _impute(
    model: Observed, key: PRNGKey, x: Array, *, num_draws: int, num_samples: int, chunk_size: int
) -> tuple[Array, Array | None, Array]:
    q, p, decode = model.posterior(x), model.prior(), model.model.likelihood
    require_latents(q, p)
    draws = jnp.arange(num_draws)
    choices = stream_key(key, OfImputation.LATENT)
    values = stream_key(key, OfImputation.VALUES)

    def one(k: Array) -> tuple[Array, ...]:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        log_w = log_p_x_given_z(model, x, z) + log_prob(p, z) - log_q
        noise = jax.random.gumbel(jax.random.fold_in(choices, k), (num_draws,))
        return z, jnp.where(k < num_samples, log_w, -jnp.inf), noise

    def chunk(kept: _Kept, start: Array) -> tuple[_Kept, None]:
        z, log_w, noise = jax.vmap(one)(start + jnp.arange(chunk_size))
        peak = jnp.maximum(kept.peak, jnp.max(log_w))
        safe = jnp.where(jnp.isfinite(peak), peak, 0.0)
        old, w = jnp.exp(kept.peak - safe), jnp.exp(log_w - safe)
        mean = kept.mean
        if mean is not None:
            means = jnp.asarray(jax.vmap(lambda z: _mean(decode(z)))(z))
            mean = mean * old + jnp.tensordot(w, means, 1, precision="highest")
        # Gumbel-max trick: argmax_k of log w[k] + Gumbel noise is a sample of k in proportion to w.
        race = log_w[:, None] + noise
        first, ahead = jnp.argmax(race, axis=0), jnp.max(race, axis=0) > kept.lead
        taken = jax.vmap(lambda ahead, new, old: jnp.where(ahead, new, old))
        return _Kept(
            peak,
            kept.first * old + jnp.sum(w),
            kept.second * old**2 + jnp.sum(w**2),
            mean,
            jnp.maximum(kept.lead, jnp.max(race, axis=0)),
            taken(ahead, z[first], kept.z),
        ), None

    z = sample(q, jax.random.fold_in(key, 0))
    zero = jnp.zeros(())
    known = _mean(decode(z)) is not None
    start = _Kept(
        -jnp.inf + zero,
        zero,
        zero,
        jnp.zeros(x.shape) if known else None,
        jnp.full(num_draws, -jnp.inf),
        jnp.broadcast_to(z[None], (num_draws, *z.shape)),
    )
    kept, _ = jax.lax.scan(chunk, start, jnp.arange(0, num_samples, chunk_size))

    def fill(m: Array, z: Array) -> Array:
        drawn = sample(decode(z), jax.random.fold_in(values, m))
        return jnp.where(model.mask > 0, x, drawn.astype(x.dtype))

    mean = None
    if kept.mean is not None:
        mean = jnp.where(model.mask > 0, x.astype(jnp.float32), kept.mean / kept.first)
    return jax.vmap(fill)(draws, kept.z), mean, kept.first**2 / kept.second


def _mean(likelihood: Distribution) -> Float[Array, "*event"] | None:
    try:
        with numpyro_promotion():
            return jnp.asarray(likelihood.mean, jnp.float32)
    except NotImplementedError:
        return None
