"""Reals."""

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxvae.models.likelihoods.base import variance_of


class Gaussian(nnx.Module):
    """Independent reals with `[mean] = params` and one learned variance for all of them."""

    num_params, support = 1, constraints.real

    def __init__(self):
        self.raw_variance = nnx.Param(jnp.asarray(math.log(math.expm1(1.0)), jnp.float32))

    def features(self, x: Float[Array, "*event"]) -> Array:
        """The values themselves."""
        return x

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (mean,) = params
        scale = jnp.sqrt(variance_of(self.raw_variance[...]))
        return dist.Normal(mean, jnp.broadcast_to(scale, mean.shape)).to_event(mean.ndim)
