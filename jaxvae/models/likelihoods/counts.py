"""Counts: photons, words, molecules."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxvae import distributions
from jaxvae.models.likelihoods.base import require_event_shape


class _Counts(nnx.Module):
    """What the encoder sees of counts."""

    support = constraints.nonnegative_integer

    def features(self, x: Float[Array, "*event"]) -> Array:
        """`log1p(x)`, about the same size for few and many."""
        return jnp.log1p(x)


class Poisson(_Counts):
    """Independent counts with `[log_rate] = params`; mean and variance are the rate."""

    num_params = 1

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (log_rate,) = params
        return distributions.PoissonLogRate(log_rate).to_event(log_rate.ndim)


class NegativeBinomial(_Counts):
    """Independent counts of mean m and variance `m + m^2 / r`.

    `[log_mean, log_inverse_dispersion] = params`, of each value; or, given an event shape,
    `[log_mean] = params`, with one learned r at each place of x, shared by all examples, from 1.

    Args:
        event_shape: of one example, such as (num_genes,); None for an r from the decoder.

    Raises:
        InputError: the event shape is not usable.

    Source: Lopez et al. (2018), "Deep generative modeling for single-cell transcriptomics".
    Departs from the source: the mean is not multiplied by the cell's library size; a model of that
    kind calls `jaxvae.distributions.NegativeBinomial` itself.
    """

    def __init__(self, event_shape: Sequence[int] | None = None):
        self.shared = event_shape is not None
        self.num_params = 1 if self.shared else 2
        if event_shape is not None:
            zeros = jnp.zeros(require_event_shape(event_shape))
            self.log_inverse_dispersion = nnx.Param(zeros)

    def __call__(self, params: Float[Array, "P *event"]) -> dist.Distribution:
        """p(x|z) over one example.

        Raises:
            InputError: `params` are not of the event shape that r was made for.
        """
        return self._each(params).to_event(params.ndim - 1)

    def _each(self, params: Array) -> dist.Distribution:
        log_r = self.log_inverse_dispersion[...] if self.shared else params[1]
        return distributions.NegativeBinomial(params[0], log_r)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts that turn into zeros with the chance `sigmoid(dropout)`.

    `[log_mean, log_inverse_dispersion, dropout] = params`, of each value; or, given an event shape,
    `[log_mean, dropout] = params`, with one learned r at each place of x.

    Args:
        event_shape: as for `NegativeBinomial`.

    Raises:
        InputError: the event shape is not usable.

    Source: Lopez et al. (2018), "Deep generative modeling for single-cell transcriptomics".
    Departs from the source: as `NegativeBinomial` does.
    """

    def __init__(self, event_shape: Sequence[int] | None = None):
        super().__init__(event_shape)
        self.num_params += 1

    def _each(self, params: Array) -> dist.Distribution:
        return distributions.ZeroInflated(super()._each(params), params[-1])
