"""Reals."""

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxvae.checks import known_number
from jaxvae.models.likelihoods.base import variance_of


class _Reals(nnx.Module):
    """Reals with one number from the decoder for each, and what the encoder sees of them."""

    num_params, support = 1, constraints.real

    def features(self, x: Float[Array, "*event"]) -> Array:
        """The values themselves."""
        return x


class Gaussian(_Reals):
    """Independent reals with `[mean] = params` and one learned variance for all of them.

    The variance that is best for a data set, given everything else, is known in closed form: see
    `jaxvae.inference.optimal_variance`.
    """

    def __init__(self):
        self.raw_variance = _parameter(1.0)

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (mean,) = params
        scale = jnp.sqrt(variance_of(self.raw_variance[...]))
        return dist.Normal(mean, jnp.broadcast_to(scale, mean.shape)).to_event(mean.ndim)


class FixedGaussian(_Reals):
    """Independent reals with `[mean] = params` and a variance that is given and stays.

    Args:
        variance: of every value, above 0.

    Raises:
        InputError: the variance is not a finite positive number.
    """

    def __init__(self, variance: float = 1.0):
        self.variance = known_number("variance", variance, above=0)

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (mean,) = params
        return dist.Normal(mean, jnp.full_like(mean, math.sqrt(self.variance))).to_event(mean.ndim)


class GaussianPerValue(_Reals):
    """Independent reals with `[mean, raw] = params` and `variance = softplus(raw) + 1e-8` of each.

    Its density has no upper limit: where a value is the same in every example, the variance falls to
    its floor. Dequantise grey levels, or share the variance, where that happens.
    """

    num_params = 2

    def __call__(self, params: Float[Array, "2 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        mean, raw = params
        return dist.Normal(mean, jnp.sqrt(variance_of(raw))).to_event(mean.ndim)


class Laplace(_Reals):
    """Independent reals with `[median] = params` and one learned scale b for all of them.

    `log p(x) = -|x - median| / b - log(2 b)`, with `b = softplus(raw_scale) + 1e-8`.
    """

    def __init__(self):
        self.raw_scale = _parameter(1.0)

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (median,) = params
        scale = variance_of(self.raw_scale[...])
        return dist.Laplace(median, jnp.broadcast_to(scale, median.shape)).to_event(median.ndim)


class StudentT(_Reals):
    """Independent reals with `[mean] = params`, one learned scale, and heavy tails.

    `log p(x) = -(df + 1) / 2 * log1p(((x - mean) / scale)^2 / df) + normaliser`, with
    `scale = softplus(raw_scale) + 1e-8`. Its variance is `scale^2 * df / (df - 2)`.

    Args:
        df: degrees of freedom, above 2, so that the variance is finite; None to learn them, from 5,
            as `2 + softplus(raw_df) + 1e-8`.

    Raises:
        InputError: `df` is not a finite number above 2.

    Source: Lange, Little and Taylor (1989), "Robust statistical modeling using the t distribution".
    """

    def __init__(self, df: float | None = None):
        self.df = None if df is None else known_number("df", df, above=2)
        self.raw_scale = _parameter(1.0)
        if df is None:
            self.raw_df = _parameter(3.0)

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (mean,) = params
        scale = variance_of(self.raw_scale[...])
        df = 2 + variance_of(self.raw_df[...]) if self.df is None else jnp.float32(self.df)
        df, scale = (jnp.broadcast_to(value, mean.shape) for value in (df, scale))
        return dist.StudentT(df, mean, scale).to_event(mean.ndim)


def _parameter(value: float) -> nnx.Param:
    """A learned number that `variance_of` makes into about `value`."""
    return nnx.Param(jnp.asarray(math.log(math.expm1(value)), jnp.float32))
