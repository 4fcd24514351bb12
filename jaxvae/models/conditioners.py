"""The networks inside flows; their inputs determine whether a flow is autoregressive."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.networks import MLP, MaskedMLP

__all__ = ["ContextMLP", "MaskedMLP"]


class ContextMLP(nnx.Module):
    """An MLP of x and a context, concatenated, with an initial output near zero, which makes a spline the identity."""

    def __init__(
        self,
        size: int,
        context_size: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.mlp = MLP(size + context_size, hidden, out_features, rngs=rngs)
        last = self.mlp.layers[-1].kernel
        last[...] = 0.1 * last[...]

    def __call__(self, x: Float[Array, "D"], context: Float[Array, "C"]) -> Array:
        """Return a vector of `out_features`."""
        return self.mlp(jnp.concatenate([x, context]))
