"""Distributions of counts as floats, with log parameters: Poisson, negative binomial, zero-inflated.

`log_prob` has a relative error of float32 rounding for counts up to 1e4 and more, and no gradient in
the counts.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from jaxvae.distributions.saddle_point import (
    LARGEST_LOG,
    LOG_2PI,
    bounded_log,
    deviance,
    stirling_error,
)
from jaxvae.types import InputError, PRNGKey

_LARGEST_RATE = 2.0**30  # jax.random.poisson counts in int32


class PoissonLogRate(dist.Distribution):
    """`log p(x) = x * log_rate - exp(log_rate) - log x!`, nats, for x = 0, 1, 2, ...

    Args:
        log_rate: the logarithm of the mean; beyond 60 the mean grows linearly, see `bounded_log`.
        validate_args: see NumPyro.

    >>> round(float(PoissonLogRate(jnp.log(jnp.float32(2.0))).log_prob(jnp.float32(2.0))), 5)
    -1.30685

    Departs from NumPyro's: the rate may underflow, large counts are accurate, and samples are floats.
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012 (NumPyro reads it from the class)
    support = constraints.nonnegative_integer  # pyright: ignore[reportAssignmentType]

    def __init__(self, log_rate: Float[Array, "*batch"], *, validate_args: bool | None = None):
        self.log_rate = bounded_log(log_rate)
        super().__init__(jnp.shape(log_rate), (), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each count, nats."""
        del intermediates
        zero, x, log_x = _split_zero(value)
        mean = jnp.exp(self.log_rate)
        positive = -deviance(x, mean - x, self.log_rate - log_x)
        positive -= stirling_error(x, log_x) + (LOG_2PI + log_x) / 2
        return jnp.where(zero, -mean, positive)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts [*sample_shape, *batch] as floats; no gradient flows through them."""
        assert key is not None
        shape = sample_shape + self.batch_shape
        return _poisson(key, jnp.broadcast_to(self.log_rate, shape))

    @property
    def mean(self) -> Array:
        """`exp(log_rate)`."""
        return jnp.exp(self.log_rate)

    @property
    def variance(self) -> Array:
        """The variance, equal to the mean."""
        return self.mean


class NegativeBinomial(dist.Distribution):
    """Counts of mean m and variance `m + m^2 / r`: a Poisson whose rate is Gamma-distributed.

    `log p(x) = lgamma(x + r) - lgamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m))`, nats,
    with `m = exp(log_mean)`, `r = exp(log_inverse_dispersion)`; the limit of large r is the Poisson.

    Args:
        log_mean: log m; for values of either logarithm above 60 see `bounded_log`.
        log_inverse_dispersion: log r, of the same shape.
        validate_args: see NumPyro.

    Raises:
        InputError: the two have different shapes.

    >>> p = NegativeBinomial.from_mean(jnp.float32(3.0), jnp.float32(1.0))
    >>> [round(float(jnp.exp(p.log_prob(jnp.float32(x)))), 4) for x in range(2)]
    [0.25, 0.1875]

    Departs from NumPyro's `NegativeBinomial2`: parameters are logarithms, large counts and small
    dispersions (large r) are accurate, and samples are floats.
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro reads it from the class)
        "log_mean": constraints.real,
        "log_inverse_dispersion": constraints.real,
    }
    support = constraints.nonnegative_integer  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        log_mean: Float[Array, "*batch"],
        log_inverse_dispersion: Float[Array, "*batch"],
        *,
        validate_args: bool | None = None,
    ):
        shape = jnp.shape(log_mean)
        if jnp.shape(log_inverse_dispersion) != shape:
            raise InputError(
                f"log_inverse_dispersion: expected the shape of log_mean, {shape}, got "
                f"{jnp.shape(log_inverse_dispersion)}; broadcast it"
            )
        self.log_mean = bounded_log(log_mean)
        self.log_inverse_dispersion = bounded_log(log_inverse_dispersion)
        super().__init__(shape, (), validate_args=validate_args)

    @classmethod
    def from_mean(
        cls, mean: Float[Array, "*batch"], inverse_dispersion: Float[Array, "..."]
    ) -> "NegativeBinomial":
        """Return the distribution with a positive mean, such as `library * proportion`, and a positive r.

        If a mean may underflow, pass its logarithm to the class itself instead, such as
        `log(library) + log_softmax(logits)`.

        Args:
            mean: m [*batch].
            inverse_dispersion: r [*batch], or a scalar.
        """
        return cls(jnp.log(mean), jnp.broadcast_to(jnp.log(inverse_dispersion), jnp.shape(mean)))

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each count, nats."""
        del intermediates
        zero, x, log_x = _split_zero(value)
        log_m, log_r = self.log_mean, self.log_inverse_dispersion
        m, r = jnp.exp(log_m), jnp.exp(log_r)
        log_n, log_total = jnp.logaddexp(log_x, log_r), jnp.logaddexp(log_m, log_r)
        change = jax.nn.sigmoid(log_r - log_m) * (x - m)
        positive = (
            -deviance(r, change, log_n - log_total)
            - deviance(x, -change, log_n - log_x + log_m - log_total)
            + stirling_error(x + r, log_n)
            - stirling_error(r, log_r)
            - stirling_error(x, log_x)
            - (jax.nn.softplus(log_x - log_r) + log_x + LOG_2PI) / 2
        )
        return jnp.where(zero, -r * jax.nn.softplus(log_m - log_r), positive)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts [*sample_shape, *batch] as floats; no gradient flows through them."""
        assert key is not None
        shape = sample_shape + self.batch_shape
        key_rate, key_count = jax.random.split(key)
        r = jnp.maximum(jnp.exp(self.log_inverse_dispersion), 1e-30)
        log_gamma = jax.random.loggamma(key_rate, jnp.broadcast_to(r, shape))
        return _poisson(key_count, log_gamma + self.log_mean - self.log_inverse_dispersion)

    @property
    def mean(self) -> Array:
        """The mean m, which is also the mean of the gamma-distributed rate."""
        return jnp.exp(self.log_mean)

    @property
    def variance(self) -> Array:
        """`m + m^2 / r`."""
        log_excess = 2 * self.log_mean - self.log_inverse_dispersion
        return self.mean + jnp.exp(bounded_log(log_excess))


class ZeroInflated(dist.Distribution):
    """`p(x) = pi [x = 0] + (1 - pi) base(x)` with `pi = sigmoid(logits)`, the probability of a dropout.

    Args:
        base: a distribution over counts from 0 on, without event axes.
        logits: log-odds of a dropout, of the base's batch shape.
        validate_args: see NumPyro.

    Raises:
        InputError: the shapes differ.

    >>> p = ZeroInflated(PoissonLogRate(jnp.zeros(())), jnp.zeros(()))
    >>> round(float(jnp.exp(p.log_prob(jnp.float32(0.0)))), 5)
    0.68394

    Departs from NumPyro's: `log(pi + ..)` is not computed from probabilities, so logits of +-200 are exact.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (NumPyro reads it from the class)
    pytree_data_fields = ("base_dist", "logits")

    def __init__(
        self,
        base: dist.Distribution,
        logits: Float[Array, "*batch"],
        *,
        validate_args: bool | None = None,
    ):
        if base.event_shape != () or base.batch_shape != jnp.shape(logits):
            raise InputError(
                "logits: expected the batch shape of a base without event shape, got "
                f"{jnp.shape(logits)} for batch {base.batch_shape}, event {base.event_shape}"
            )
        self.base_dist, self.logits = base, logits
        super().__init__(base.batch_shape, (), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The support of the base."""
        return self.base_dist.support

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each count, nats."""
        del intermediates
        log_p = jax.nn.log_sigmoid(-self.logits) + self.base_dist.log_prob(value)
        return jnp.where(value == 0, jnp.logaddexp(jax.nn.log_sigmoid(self.logits), log_p), log_p)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Counts [*sample_shape, *batch]; no gradient flows through them."""
        assert key is not None
        key_drop, key_count = jax.random.split(key)
        count = jnp.asarray(self.base_dist.sample(key_count, sample_shape))
        dropped = jax.random.bernoulli(key_drop, jax.nn.sigmoid(self.logits), count.shape)
        return jnp.where(dropped, jnp.zeros_like(count), count)

    @property
    def mean(self) -> Array:
        """`(1 - pi) * mean` of the base."""
        return jax.nn.sigmoid(-self.logits) * self.base_dist.mean

    @property
    def variance(self) -> Array:
        """`(1 - pi) * (variance + pi * mean^2)` of the base."""
        mean, variance = self.base_dist.mean, self.base_dist.variance
        return jax.nn.sigmoid(-self.logits) * (variance + jax.nn.sigmoid(self.logits) * mean**2)


def _split_zero(value: Array) -> tuple[Array, Array, Array]:
    """A mask of the counts that are 0, the counts with 1 in place of 0, and the logarithm of the latter."""
    x = jax.lax.stop_gradient(jnp.asarray(value, jnp.result_type(float)))
    zero = x == 0
    x = jnp.where(zero, 1.0, x)
    return zero, x, jnp.log(x)


def _poisson(key: PRNGKey, log_rate: Array) -> Array:
    rate = jnp.minimum(jnp.exp(jnp.minimum(log_rate, LARGEST_LOG)), _LARGEST_RATE)
    return jax.random.poisson(key, rate).astype(rate.dtype)
