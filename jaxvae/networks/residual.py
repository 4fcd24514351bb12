"""Fully connected networks with residual blocks."""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from jaxvae.networks.dense import (
    Activation,
    Initializer,
    activation_function,
    flat,
    linear,
    require_widths,
)


class ResidualBlock(nnx.Module):
    """A residual block of constant width, `h + W2 act(W1 act(h) + b1) + b2`.

    Source: He et al. (2016), "Identity mappings in deep residual networks".
    """

    def __init__(
        self,
        width: int,
        *,
        activation: Activation | None = None,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        self.first = linear(width, width, initializer=initializer, rngs=rngs)
        self.second = linear(width, width, initializer=initializer, rngs=rngs)
        self.activation = activation_function(activation)

    def __call__(self, h: Float[Array, "width"]) -> Float[Array, "width"]:
        """Return h plus the block's residual."""
        return h + self.second(self.activation(self.first(self.activation(h))))


class ResidualMLP(nnx.Module):
    """A residual network: linear input, one residual block per hidden width, linear output.

    `h = A x + a`, then `h <- h + W2 act(W1 act(h) + b1) + b2` in every block, then `B h + b`. Between
    blocks of different width there is a linear layer.

    Args:
        in_features: size of the flattened input.
        hidden: width of each block; `()` makes the network linear.
        out_features: size of the output.
        activation: the nonlinearity of the blocks; tanh if None.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: source of the initial weights.

    Raises:
        InputError: a size, the activation or the initializer is invalid.

    Source: He et al. (2016), "Identity mappings in deep residual networks". Departs from the source:
    no batch normalisation, which couples examples.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: Activation | None = None,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        activation_function(activation)  # an unknown name is refused even if no block would use it
        layers: list[nnx.Module] = []
        width = in_features
        for i, wanted in enumerate(require_widths("hidden", hidden)):
            if i == 0 or wanted != width:
                layers.append(linear(width, wanted, initializer=initializer, rngs=rngs))
            width = wanted
            layers.append(
                ResidualBlock(width, activation=activation, initializer=initializer, rngs=rngs)
            )
        layers.append(linear(width, out_features, initializer=initializer, rngs=rngs))
        self.layers = nnx.List(layers)
        self.in_features = in_features

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, "out_features"]:
        """Map one example, of any shape, to a vector."""
        h = flat(x, self.in_features)
        for layer in self.layers:
            h = layer(h)
        return h
