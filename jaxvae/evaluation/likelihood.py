"""Importance-weighted log-likelihoods and the terms of an objective, for every example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvae import objectives
from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import (
    log_prob,
    sample_with_log_prob,
)
from jaxvae.evaluation.pareto import pareto_k_of_tail, tail_length
from jaxvae.evaluation.streams import mean_and_error, mean_of_rows, stream, there, weights_of
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import AnyModel, Batch, Model, Objective, PRNGKey

UNKNOWN = -jnp.inf
"""The value that represents an unknown error or k-hat on the device; it becomes NaN in the result."""


class LogLikelihood(NamedTuple):
    """Importance-weighted estimates of log p(x), one per example, as NumPy arrays."""

    estimate: Float[np.ndarray, "N"]
    """log mean_k w[k], nats: in expectation a lower bound on log p(x)."""
    standard_error: Float[np.ndarray, "N"]
    """The standard error of `estimate`, from the spread of the weights (delta method), nats."""
    ess: Float[np.ndarray, "N"]
    """Effective sample size, (sum w)^2 / sum w^2, from 1 to K."""
    pareto_k: Float[np.ndarray, "N"]
    """Shape of the tail of the weights, see `pareto_k`; above 0.7 `standard_error` is unreliable."""
    weight: Float[np.ndarray, "N"] | None = None
    """Weights of the examples in means and fractions over examples; equal if None."""

    def mean(self) -> tuple[float, float]:
        """Return the mean over examples and its standard error, nats.

        The error is that of a sample of examples from a population, sd / sqrt(N); it includes the Monte
        Carlo error, which `standard_error` gives separately.
        """
        return mean_and_error(self.estimate, self.weight)

    def monte_carlo_error(self) -> float:
        """The Monte Carlo part of the mean's error, which more samples of z reduce, sqrt(sum e^2) / N, nats."""
        errors, weight = there(self.standard_error, self.weight)
        return float(np.sqrt(np.sum((weight * errors) ** 2)) / np.sum(weight))

    def unreliable(self, threshold: float = 0.7) -> float:
        """The fraction of the examples whose k-hat exceeds the threshold; an unknown k-hat does not."""
        return float(mean_of_rows(self.pareto_k > threshold, self.weight))


class _Sums(NamedTuple):
    """Running sums of w and w^2 relative to exp(peak), and the largest values of log w, for one example."""

    peak: Float[Array, ""]
    first: Float[Array, ""]
    second: Float[Array, ""]
    largest: Float[Array, "tail"]

    @staticmethod
    def of_none(num_samples: int) -> "_Sums":
        none = jnp.full(tail_length(num_samples) + 1, -jnp.inf)
        return _Sums(none[0], jnp.zeros(()), jnp.zeros(()), none)

    def add(self, log_w: Float[Array, "K"]) -> "_Sums":
        peak = jnp.maximum(self.peak, jnp.max(log_w))
        safe = jnp.where(jnp.isfinite(peak), peak, 0.0)
        old, new = jnp.exp(self.peak - safe), jnp.exp(log_w - safe)
        first, second = self.first * old + jnp.sum(new), self.second * old**2 + jnp.sum(new**2)
        largest = jax.lax.top_k(jnp.concatenate([self.largest, log_w]), len(self.largest))[0]
        return _Sums(peak, first, second, largest)


def log_likelihood(
    key: PRNGKey,
    model: AnyModel,
    xs: Batch,
    *,
    num_samples: int,
    chunk_size: int = 100,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> LogLikelihood:
    """Estimate the log-likelihood of every example by importance weighting, in memory that does not grow with K.

    `estimate = log mean_k w[k]`, `w[k] = p(x, z_k) / q(z_k|x)`, `z_k ~ q(z|x)`. The example is
    encoded once; the samples are processed in chunks, with running sums of w and w^2. Sample k of
    example i draws from `fold_in(fold_in(key, i), k)`: the estimate depends neither on the batch size
    nor on the chunk size, and these need not divide the numbers of examples and samples.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        xs: examples as inputs of the model, [N, *event]; or a batch: a mapping with `x` and optionally
            `label`, `mask`, and `weight` [N], the weights of examples in `mean()` and the other summaries.
        num_samples: K.
        chunk_size: samples at a time.
        batch_size: examples at a time; by default chosen so that batch x chunk is about 1,000.
        on_progress: called after every batch with the number of finished examples.

    Returns:
        `estimate` [N] and its `standard_error` [N], nats; `ess` [N] and `pareto_k` [N], which measure
        the reliability of the error.

    Raises:
        InputError: a size is below 1, or the shapes do not fit the model.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.1; standard error by the delta method,
    Owen (2013), "Monte Carlo theory, methods and examples"; k-hat: Vehtari et al. (2024).
    """
    require_key(key)
    require_positive(num_samples=num_samples, chunk_size=chunk_size)
    if batch_size is None:
        batch_size = max(1, 1000 // min(chunk_size, num_samples))
    chunk_size = min(chunk_size, num_samples)
    result = stream(
        _log_likelihood,
        model,
        key,
        xs,
        batch_size=batch_size,
        on_progress=on_progress,
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    # Unknown values become NaN here, not on the device, where `jax_debug_nans` would stop the program.
    estimate, error, ess, k = result
    error, k = (np.where(value == UNKNOWN, np.nan, value) for value in (error, k))
    return LogLikelihood(estimate, error, ess, k, weights_of(xs))


def _log_likelihood(
    model: Model, key: PRNGKey, x: Array, *, num_samples: int, chunk_size: int
) -> tuple[Array, Array, Array, Array]:
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)

    def log_w(k: Array) -> Array:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        value = log_p_x_given_z(model, x, z) + log_prob(p, z) - log_q
        return jnp.where(k < num_samples, value, -jnp.inf)

    def chunk(sums: _Sums, start: Array) -> tuple[_Sums, None]:
        return sums.add(jax.vmap(log_w)(start + jnp.arange(chunk_size))), None

    starts = jnp.arange(0, num_samples, chunk_size)
    sums, _ = jax.lax.scan(chunk, _Sums.of_none(num_samples), starts)
    peak, first, second, largest = sums
    estimate = peak + jnp.log(first) - jnp.log(float(num_samples))
    ess = first**2 / second
    # var(mean w) / mean(w)^2 = (K / ess - 1) / (K - 1)
    relative_variance = jnp.maximum(num_samples / ess - 1, 0) / max(num_samples - 1, 1)
    error = jnp.sqrt(relative_variance) if num_samples > 1 else jnp.full((), UNKNOWN)
    return estimate, error, ess, pareto_k_of_tail(largest, unknown=UNKNOWN)


def terms(
    key: PRNGKey,
    model: AnyModel,
    xs: Batch,
    *,
    objective: Objective = objectives.elbo,
    batch_size: int = 500,
) -> Any:
    """Return the terms of an objective for every example, as NumPy arrays [N], nats.

    Row i draws from `fold_in(key, i)`: the result does not depend on the batch size.

    Raises:
        InputError: the shapes do not fit the model.
    """
    require_key(key)
    return stream(_terms, model, key, xs, batch_size=batch_size, objective=objective)


def _terms(model: Model, key: PRNGKey, x: Array, *, objective: Objective) -> Any:
    return objective(key, model, x)
