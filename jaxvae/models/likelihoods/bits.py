"""Bits."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import constraints


class Bernoulli(nnx.Module):
    """Independent bits with `[logits] = params`; support {0, 1}."""

    num_params, support = 1, constraints.boolean

    def features(self, x: Float[Array, "*event"]) -> Array:
        """The bits themselves."""
        return x

    def __call__(self, params: Float[Array, "1 *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        (logits,) = params
        return BernoulliLogits(logits).to_event(logits.ndim)


class BernoulliLogits(dist.BernoulliLogits):
    """`log p(x) = x * logits - softplus(logits)`, for x in [0, 1].

    Departs from NumPyro's, whose gradient at a logit of exactly 0 is off by one half.
    """

    def log_prob(self, value: Array) -> Array:
        """Log-probability, nats."""
        return value * self.logits - softplus(self.logits)


@jax.custom_jvp
def softplus(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(1 + exp(a))`, whose derivative is exactly `sigmoid(a)`; finite for every finite a."""
    return jnp.maximum(a, 0) + jnp.log1p(jnp.exp(-jnp.abs(a)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]
