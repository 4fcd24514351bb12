"""The networks inside flows: what they see decides what is autoregressive."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.distributions import made_masks
from jaxvae.networks import MLP, linear


class MaskedMLP(nnx.Module):
    """`shift[d], raw[d]` from the entries of x before d and a context: one pass, all entries.

    Args:
        size: D.
        context_size: C.
        hidden: widths of the hidden layers, with tanh after each.
        reverse: whether the last entry of x comes first.
        rngs: where the initial weights come from.

    Source: Germain et al. (2015), "MADE: masked autoencoder for distribution estimation".
    """

    def __init__(
        self,
        size: int,
        context_size: int,
        hidden: Sequence[int],
        *,
        reverse: bool = False,
        rngs: nnx.Rngs,
    ):
        self.size, self.context_size, self.reverse = size, context_size, reverse
        self.hidden = tuple(hidden)
        sizes = (size + context_size, *self.hidden, 2 * size)
        self.layers = nnx.List(linear(*pair, rngs=rngs) for pair in itertools.pairwise(sizes))

    def __call__(
        self, x: Float[Array, "D"], context: Float[Array, "C"]
    ) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
        """Two numbers for every entry of x."""
        *masks, last = made_masks(self.size, self.context_size, self.hidden, reverse=self.reverse)
        h = jnp.concatenate([x, context])
        for layer, mask in zip(self.layers[:-1], masks, strict=True):
            h = jnp.tanh(_masked(layer, mask, h))
        shift, raw = jnp.split(_masked(self.layers[-1], np.tile(last, (1, 2)), h), 2)
        return shift, raw


def _masked(layer: nnx.Linear, mask: np.ndarray, h: Array) -> Array:
    assert layer.bias is not None
    return h @ jnp.where(mask, layer.kernel[...], 0) + layer.bias[...]


class ContextMLP(nnx.Module):
    """An MLP of x and a context, side by side, whose output starts near zero: the spline of a straight line."""

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
        """A vector of `out_features`."""
        return self.mlp(jnp.concatenate([x, context]))
