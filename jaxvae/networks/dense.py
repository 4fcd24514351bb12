"""Fully connected networks."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.rows import dot_general
from jaxvae.types import InputError, PRNGKey, require_positive

Activation: TypeAlias = Literal["elu", "gelu", "relu", "silu", "softplus", "tanh"]
Initializer: TypeAlias = Literal["lecun_normal", "glorot_uniform", "fan_in_uniform"]


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


def linear(
    fan_in: int, fan_out: int, *, initializer: Initializer = "lecun_normal", rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear layer with its initial weights.

    Args:
        fan_in: size of the input.
        fan_out: size of the output.
        initializer: "lecun_normal", variance 1 / fan_in, zero biases; "glorot_uniform", variance
            2 / (fan_in + fan_out), zero biases; "fan_in_uniform", kernel and biases uniform in
            +-1 / sqrt(fan_in), which is what PyTorch's `nn.Linear` does.
        rngs: where the weights come from.

    Raises:
        InputError: a size is below 1, or the initializer is not known.
    """
    require_positive(layer_size=fan_in)
    require_positive(layer_size=fan_out)
    limit = 1 / math.sqrt(fan_in)
    kernels = {
        "lecun_normal": nnx.initializers.lecun_normal(),
        "glorot_uniform": nnx.initializers.glorot_uniform(),
        "fan_in_uniform": nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    }
    if initializer not in kernels:
        raise InputError(f"initializer: expected one of {', '.join(kernels)}, got {initializer!r}")

    def uniform(key: PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)

    biases = uniform if initializer == "fan_in_uniform" else nnx.initializers.zeros_init()
    return nnx.Linear(
        fan_in,
        fan_out,
        kernel_init=kernels[initializer],
        bias_init=biases,
        dot_general=dot_general,
        rngs=rngs,
    )


class MLP(nnx.Module):
    """Fully connected network: flattened input, hidden layers with one activation, linear output.

    Args:
        in_features: size of the flattened input.
        hidden: width of each hidden layer; `()` makes the network linear.
        out_features: size of the output.
        activation: what follows each hidden layer.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: where they come from.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: Activation = "tanh",
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        if not isinstance(hidden, Sequence):
            raise InputError(
                f"hidden: expected a sequence of widths such as (256, 256), got {hidden!r}"
            )
        for width in hidden:
            require_positive(hidden=width)
        sizes = (in_features, *hidden, out_features)
        self.layers = nnx.List(
            linear(fan_in, fan_out, initializer=initializer, rngs=rngs)
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.activation = activation_function(activation)

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, "out_features"]:
        """Map one example, of any shape, to a vector."""
        expected = self.layers[0].in_features
        if x.size != expected:
            raise InputError(
                f"x: expected one example of {expected} values, got shape {x.shape}; "
                "jax.vmap the call over a batch axis"
            )
        h = x.reshape(-1)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h)
