"""Samples and log-densities of one event, the calls by which this library uses NumPyro distributions."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.distributions.checks import describe
from jaxvae.distributions.support import can_be_bits, guarded
from jaxvae.types import InputError, PRNGKey


@contextmanager
def numpyro_promotion() -> Iterator[None]:
    """Allow dtype and rank promotion inside the context, since NumPyro mixes dtypes and ranks on purpose."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def log_prob(distribution: Distribution, value: Array) -> Float[Array, "*batch"]:
    """Log-density of one event, nats: -inf outside of the support, see `jaxvae.distributions.support`.

    Raises:
        InputError: the distribution cannot score a value that it did not draw, see `can_score`.
    """
    try:
        with numpyro_promotion():
            found = jnp.asarray(guarded(distribution).log_prob(value))
            bits = can_be_bits(distribution, value)
            return found if bits is None else jnp.where(bits, found, -jnp.inf)
    except NotImplementedError:
        raise InputError(
            "distribution: expected one that can score a given value, got "
            f"{describe(distribution)}, which has no inverse; take the log-density together with "
            "the sample, from sample_with_log_prob"
        ) from None


def rsample(distribution: Distribution, key: PRNGKey) -> Array:
    """One reparameterised sample: its gradient flows to the distribution's parameters."""
    with numpyro_promotion():
        return jnp.asarray(distribution.rsample(key))


def sample(distribution: Distribution, key: PRNGKey) -> Array:
    """One sample, reparameterised or not."""
    with numpyro_promotion():
        return jnp.asarray(distribution.sample(key))


def sample_with_log_prob(distribution: Distribution, key: PRNGKey) -> tuple[Array, Array]:
    """One sample and its log-density, computed without the inverse of a flow.

    `log_q(z) = log_base(e) - sum_t log|det J_t|` is accumulated on the forward pass from e to z.

    Args:
        distribution: a distribution over one event.
        key: one typed key.

    Returns:
        The sample, of the event shape, equal to `sample(distribution, key)` and reparameterised
        if the distribution `has_rsample`; its log-density, a scalar, nats.

    >>> import numpyro.distributions as dist
    >>> z, log_q = sample_with_log_prob(dist.Normal(0.0, 1.0), jax.random.key(0))
    >>> bool(log_q == dist.Normal(0.0, 1.0).log_prob(z))
    True
    """
    with numpyro_promotion():
        value, intermediates = distribution.sample_with_intermediates(key)
        # Only transformed distributions have intermediates, and only their log_prob accepts them.
        also = (intermediates,) if intermediates else ()
        return jnp.asarray(value), jnp.asarray(guarded(distribution).log_prob(value, *also))


def can_score(distribution: Distribution) -> bool:
    """Return whether `log_prob` of a given value can be computed: a flow without an inverse cannot.

    Estimators that evaluate log q(z) apart from drawing z require it. The check only traces, and computes nothing.

    >>> import numpyro.distributions as dist
    >>> can_score(dist.Normal(0.0, 1.0))
    True
    """

    def score(key: PRNGKey) -> Array:
        return log_prob(distribution, sample(distribution, key))

    try:
        jax.eval_shape(score, jax.eval_shape(jax.random.key, 0))
    except InputError:
        return False
    return True
