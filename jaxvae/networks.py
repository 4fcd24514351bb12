"""Encoders and decoders: functions of one example, as `flax.nnx` modules."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.types import InputError, require_positive

Activation: TypeAlias = Literal["elu", "gelu", "relu", "silu", "softplus", "tanh"]


def activation_function(name: Activation) -> Callable[[Array], Array]:
    """The function of `jax.nn` that has this name.

    Raises:
        InputError: the name is not one of `Activation`.
    """
    if name not in get_args(Activation):
        raise InputError(
            f"activation: expected one of {', '.join(get_args(Activation))}, got {name!r}"
        )
    return getattr(jax.nn, name)


class MLP(nnx.Module):
    """Fully connected network: flattened input, hidden layers with one activation, linear output.

    Args:
        in_features: size of the flattened input.
        hidden: width of each hidden layer; `()` makes the network linear.
        out_features: size of the output.
        activation: what follows each hidden layer.
        rngs: where the initial weights come from (LeCun normal kernels, zero biases).
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: Activation = "tanh",
        rngs: nnx.Rngs,
    ):
        sizes = (in_features, *hidden, out_features)
        for size in sizes:
            require_positive(layer_size=size)
        self.layers = nnx.List(
            nnx.Linear(fan_in, fan_out, rngs=rngs)
            for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.activation = activation_function(activation)

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, "out_features"]:
        """Map one example, of any shape, to a vector."""
        h = x.reshape(-1)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h)
