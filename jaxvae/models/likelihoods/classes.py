"""Classes: amino acids, words, or the grey levels of an image taken one by one."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxvae.checks import require_integer
from jaxvae.distributions import FloatCategorical


class Categorical(nnx.Module):
    """Independent classes 0, 1, ..., C - 1, as floats, with `logits = params` [C, *event].

    `log p(x) = log_softmax(logits)[x]` of each value. The encoder sees one-hot vectors [*event, C].
    For 8-bit images whose values are the numbers 0 to 255, C is 256.

    Args:
        num_categories: C, at least 2.

    Raises:
        InputError: it is not such an integer.
    """

    def __init__(self, num_categories: int):
        require_integer("num_categories", num_categories, at_least=2)
        self.num_categories = self.num_params = num_categories

    @property
    def support(self) -> constraints.Constraint:
        """The integers from 0 to C - 1."""
        return constraints.integer_interval(0, self.num_categories - 1)

    def features(self, x: Float[Array, "*event"]) -> Float[Array, "*event C"]:
        """One-hot vectors."""
        return jax.nn.one_hot(x.astype(jnp.int32), self.num_categories, dtype=x.dtype)

    def __call__(self, params: Float[Array, "C *event"]) -> dist.Distribution:
        """p(x|z) over one example."""
        return FloatCategorical(jnp.moveaxis(params, 0, -1)).to_event(params.ndim - 1)
