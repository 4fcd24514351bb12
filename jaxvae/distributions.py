"""Densities and divergences beyond `numpyro.distributions`, and the checks that every density gets."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, kl_divergence

from jaxvae.types import InputError, PRNGKey


@contextmanager
def _numpyro_promotion() -> Iterator[None]:
    """NumPyro mixes dtypes and ranks on purpose; strict promotion stops at its door."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def log_prob(distribution: Distribution, value: Array) -> Float[Array, ""]:
    """Log-density of one event, nats."""
    with _numpyro_promotion():
        return jnp.asarray(distribution.log_prob(value))


def rsample(distribution: Distribution, key: PRNGKey) -> Array:
    """One reparameterised sample: its gradient flows to the distribution's parameters."""
    with _numpyro_promotion():
        return jnp.asarray(distribution.rsample(key))


def sample(distribution: Distribution, key: PRNGKey) -> Array:
    """One sample, whether or not a gradient can flow through it."""
    with _numpyro_promotion():
        return jnp.asarray(distribution.sample(key))


def analytic_kl(q: Distribution, p: Distribution) -> Float[Array, ""]:
    """KL(q || p) in closed form, summed over the event.

    Args:
        q: the distribution that the expectation is under.
        p: the other one, of the same event shape.

    Returns:
        A scalar, in nats.

    Raises:
        InputError: no closed form is known for this pair. There is no silent Monte Carlo fallback.

    >>> import numpyro.distributions as dist
    >>> q, p = (dist.Normal(jnp.full(2, m), 1.0).to_event(1) for m in (1.0, 0.0))
    >>> float(analytic_kl(q, p))
    1.0
    """
    try:
        with _numpyro_promotion():
            return jnp.asarray(kl_divergence(q, p))
    except NotImplementedError:
        raise InputError(
            f'kl: expected "monte_carlo", because no closed form of KL({describe(q)} || {describe(p)})'
            ' is known, got "analytic"'
        ) from None


def describe(distribution: Distribution) -> str:
    """The name of a distribution with the wrappers around it, such as `Independent(Normal)`."""
    base = getattr(distribution, "base_dist", None)
    name = type(distribution).__name__
    return f"{name}({describe(base)})" if base is not None else name


def require_one_event(distribution: Distribution, role: str) -> None:
    """Refuse a distribution over a batch of events: per-example functions see one event.

    Raises:
        InputError: the batch shape is not `()`, as when `.to_event` was forgotten.
    """
    if distribution.batch_shape != ():
        raise InputError(
            f"{role}: expected a distribution over one event, got {describe(distribution)} with "
            f"batch shape {distribution.batch_shape}; make these axes part of the event with "
            f".to_event({len(distribution.batch_shape)}), or vmap over the batch axis"
        )


def require_event(distribution: Distribution, value: Array, role: str, name: str) -> None:
    """Refuse a value whose shape is not the event shape of its distribution.

    Raises:
        InputError: the shapes differ, or the distribution is not over one event.
    """
    require_one_event(distribution, role)
    if value.shape != distribution.event_shape:
        raise InputError(
            f"{name}: expected one example of shape {distribution.event_shape}, the event shape of "
            f"{role}, got shape {value.shape}; jax.vmap the call over a batch axis"
        )
