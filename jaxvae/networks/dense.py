"""Fully connected networks."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_choice, require_positive
from jaxvae.rows import dot_general
from jaxvae.types import InputError, PRNGKey

Activation: TypeAlias = Literal["elu", "gelu", "relu", "silu", "softplus", "tanh"]
Initializer: TypeAlias = Literal["lecun_normal", "glorot_uniform", "fan_in_uniform"]
Draw: TypeAlias = Callable[..., Array]

DEFAULT_ACTIVATION: Activation = "tanh"


def activation_function(name: Activation | None) -> Callable[[Array], Array]:
    """Return the function of `jax.nn` with this name; tanh if None.

    Raises:
        InputError: the name is not one of `Activation`.
    """
    name = DEFAULT_ACTIVATION if name is None else name
    require_choice("activation", name, get_args(Activation))
    return getattr(jax.nn, name)


def linear(
    fan_in: int, fan_out: int, *, initializer: Initializer = "lecun_normal", rngs: nnx.Rngs
) -> nnx.Linear:
    """Return a linear layer with initial weights.

    Args:
        fan_in: size of the input.
        fan_out: size of the output.
        initializer: "lecun_normal", variance 1 / fan_in, zero biases; "glorot_uniform", variance
            2 / (fan_in + fan_out), zero biases; "fan_in_uniform", kernel and biases uniform in
            +-1 / sqrt(fan_in), as in PyTorch's `nn.Linear`.
        rngs: source of the initial weights.

    Raises:
        InputError: a size is below 1, or the initializer is unknown.
    """
    require_positive(layer_size=fan_in)
    require_positive(layer_size=fan_out)
    kernel, bias = draws(initializer, fan_in)
    return nnx.Linear(
        fan_in, fan_out, kernel_init=kernel, bias_init=bias, dot_general=dot_general, rngs=rngs
    )


def draws(initializer: Initializer, fan_in: int) -> tuple[Draw, Draw]:
    """Return the initialisers of the kernel [fan_in, fan_out] and the biases [fan_out] of a layer.

    Raises:
        InputError: the initializer is unknown.
    """
    limit = 1 / math.sqrt(fan_in)
    kernels = {
        "lecun_normal": nnx.initializers.lecun_normal(),
        "glorot_uniform": nnx.initializers.glorot_uniform(),
        "fan_in_uniform": nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    }
    require_choice("initializer", initializer, kernels)

    def uniform(key: PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)

    biases = uniform if initializer == "fan_in_uniform" else nnx.initializers.zeros_init()
    return kernels[initializer], biases


def require_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of layers as a tuple.

    Raises:
        InputError: the widths are not a sequence of positive integers.
    """
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise InputError(f"{name}: expected a sequence of widths such as (32, 64), got {widths!r}")
    for width in widths:
        require_positive(**{name: width})
    return tuple(widths)


def flat(x: Float[Array, "*event"], size: int) -> Float[Array, "size"]:
    """Return one example as a vector.

    Raises:
        InputError: the example does not have `size` values, as when it has a batch axis.
    """
    if x.size != size:
        remedy = (
            "; jax.vmap the call over a batch axis" if x.size > size and x.size % size == 0 else ""
        )
        raise InputError(f"x: expected one example of {size} values, got shape {x.shape}{remedy}")
    return x.reshape(-1)


class MLP(nnx.Module):
    """Fully connected network: flattened input, hidden layers with one activation, linear output.

    Args:
        in_features: size of the flattened input.
        hidden: width of each hidden layer; `()` makes the network linear.
        out_features: size of the output.
        activation: the activation after each hidden layer; tanh if None.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: source of the initial weights.
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
        sizes = (in_features, *require_widths("hidden", hidden), out_features)
        self.layers = nnx.List(
            linear(fan_in, fan_out, initializer=initializer, rngs=rngs)
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.activation = activation_function(activation)

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, "out_features"]:
        """Map one example, of any shape, to a vector."""
        h = flat(x, self.layers[0].in_features)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h)


class Gated(nnx.Module):
    """One gated layer: `(A h + a) * sigmoid(B h + b)`.

    Source: Dauphin et al. (2017), "Language modeling with gated convolutional networks".
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        self.value = linear(in_features, out_features, initializer=initializer, rngs=rngs)
        self.gate = linear(in_features, out_features, initializer=initializer, rngs=rngs)

    def __call__(self, h: Float[Array, "in_features"]) -> Float[Array, "out_features"]:
        """Return the values times the gates."""
        return self.value(h) * jax.nn.sigmoid(self.gate(h))


class GatedMLP(nnx.Module):
    """Fully connected network of gated layers: `h <- (A h + a) * sigmoid(B h + b)`, linear output.

    Args:
        in_features: size of the flattened input.
        hidden: width of each hidden layer; `()` makes the network linear.
        out_features: size of the output.
        activation: None; the gates are the nonlinearity.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: source of the initial weights.

    Raises:
        InputError: an activation is given, or a size is invalid.

    Source: Tomczak and Welling (2018), "VAE with a VampPrior", for the gated layers in a VAE.
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
        if activation is not None:
            raise InputError(
                "activation: has no effect on a gated network, whose gates are the nonlinearity, "
                f"got {activation!r}; leave it out"
            )
        sizes = (in_features, *require_widths("hidden", hidden))
        self.layers = nnx.List(
            Gated(fan_in, fan_out, initializer=initializer, rngs=rngs)
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.last = linear(sizes[-1], out_features, initializer=initializer, rngs=rngs)
        self.in_features = in_features

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, "out_features"]:
        """Map one example, of any shape, to a vector."""
        h = flat(x, self.in_features)
        for layer in self.layers:
            h = layer(h)
        return self.last(h)
