"""Grey levels in [0, 1]: densities, and masses of the levels of an 8-bit image."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxvae import distributions
from jaxvae.checks import require_positive
from jaxvae.models.likelihoods.base import variance_of

LOG_SCALE_FLOOR = -7.7
"""Of a discretised logistic, in units of the whole grey scale: about a ninth of an 8-bit step."""


class _Grey(nnx.Module):
    """What the encoder sees of grey levels."""

    def features(self, x: Float[Array, "*event"]) -> Array:
        """The grey levels themselves."""
        return x


class ContinuousBernoulli(_Grey):
    """Independent grey levels with `[logits] = params`; support [0, 1].

    `log p(x) = logits * x - log(expm1(logits) / logits)`: the Bernoulli's formula with the constant
    that makes it a density. See `jaxvae.distributions.ContinuousBernoulli`.

    Source: Loaiza-Ganem and Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error
    in variational autoencoders".
    """

    num_params, support = 1, constraints.unit_interval

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (logits,) = params
        return distributions.ContinuousBernoulli(logits).to_event(logits.ndim)


class Beta(_Grey):
    """Independent values in (0, 1) with `[raw1, raw0] = params`, two concentrations for each.

    `p(x) ~ x^(a - 1) (1 - x)^(b - 1)` with `a = softplus(raw1) + 1e-8`, `b = softplus(raw0) + 1e-8`.
    The concentrations, and not a mean with their sum, because then both stay positive at any output
    of the decoder. The density of 0 and 1 is 0 or infinite, so they lie outside the support:
    dequantise grey levels k of 0 to 255 as `(k + uniform(0, 1)) / 256`.
    """

    num_params, support = 2, constraints.open_interval(0.0, 1.0)

    def __call__(self, params: Float[Array, "2 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        a, b = variance_of(params)
        return distributions.Beta(a, b).to_event(a.ndim)


class _Discretized(_Grey):
    """Values that lie on `num_levels` levels from 0 to 1."""

    num_levels: int

    @property
    def support(self) -> constraints.Constraint:
        """The levels 0, 1 / (L - 1), ..., 1."""
        return distributions.Levels(self.num_levels)


class DiscretizedLogistic(_Discretized):
    """Independent levels of 8-bit images, x = k / 255, with `[raw_mean, raw_log_scale] = params`.

    The mass that a logistic density of mean `1/2 + raw_mean` and log-scale
    `floor + softplus(raw_log_scale - floor)` has around the level; the outermost levels have its
    tails. The floor, -7.7, is where nearly all of the mass is on one level.

    Args:
        num_levels: L, at least 2.

    Raises:
        InputError: `num_levels` is not such an integer.

    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive flow";
    Salimans et al. (2017), "PixelCNN++".
    Departs from the source: the log-scale approaches its floor smoothly, and is not clipped.
    """

    num_params = 2

    def __init__(self, num_levels: int = 256):
        distributions.require_levels(num_levels)
        self.num_levels = num_levels

    def __call__(self, params: Float[Array, "2 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        mean, raw = params
        each = distributions.DiscretizedLogistic(0.5 + mean, _log_scale(raw), self.num_levels)
        return each.to_event(mean.ndim)


class DiscretizedLogisticMixture(_Discretized):
    """Independent levels of 8-bit images, each from a mixture of M discretised logistics.

    `[logits, raw_mean, raw_log_scale]`, of M numbers each, `= params`; the mean of component m is
    `(m + 1/2) / M + raw_mean`, so that components begin apart; the rest is as for one component.
    Every channel has a mixture of its own, independent of the others.

    Args:
        num_components: M.
        num_levels: L, at least 2.

    Raises:
        InputError: one of them is not such an integer.

    Source: Salimans et al. (2017), "PixelCNN++".
    Departs from the source: its channels depend on each other, these do not, so that values can be
    missing one by one; the log-scale approaches its floor smoothly, and is not clipped.
    """

    def __init__(self, num_components: int = 5, num_levels: int = 256):
        require_positive(num_components=num_components)
        distributions.require_levels(num_levels)
        self.num_components, self.num_levels = num_components, num_levels
        self.num_params = 3 * num_components

    def __call__(self, params: Float[Array, "num_params *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        count = self.num_components
        parts = jnp.moveaxis(params.reshape(3, count, *params.shape[1:]), 1, -1)
        logits, mean, raw = parts
        start = (jnp.arange(count, dtype=mean.dtype) + 0.5) / count
        each = distributions.DiscretizedLogisticMixture(
            logits, mean + jnp.broadcast_to(start, mean.shape), _log_scale(raw), self.num_levels
        )
        return each.to_event(params.ndim - 1)


def _log_scale(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    return LOG_SCALE_FLOOR + jax.nn.softplus(raw - LOG_SCALE_FLOOR)
