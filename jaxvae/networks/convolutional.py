"""Convolutional encoders and decoders for images of any size."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_choice
from jaxvae.networks.dense import (
    Activation,
    Initializer,
    activation_function,
    draws,
    linear,
    require_widths,
)
from jaxvae.networks.precision import ProductLayer
from jaxvae.networks.strided import Size, convolve, strided_size, transposed
from jaxvae.types import InputError

ConvolutionalName: TypeAlias = Literal["conv", "residual_conv"]

KERNEL, STRIDE = 4, 2  # a multiple of the stride, so that every output depends on as many inputs


def level_sizes(size: Size, num_levels: int) -> list[Size]:
    """Return height and width before the first level and after each level, which halves them, rounded up.

    Raises:
        InputError: the image is too small to be halved by every level.
    """
    smallest = 2 ** (num_levels - 1) + 1
    if num_levels and min(size) < smallest:
        raise InputError(
            f"event_shape: expected an image of at least {smallest} x {smallest} for "
            f"{num_levels} levels of channels, each of which halves it, got {size[0]} x {size[1]}; "
            "give fewer channels, or use a fully connected network"
        )
    sizes = [size]
    for _ in range(num_levels):
        sizes.append(strided_size(sizes[-1], STRIDE))
    return sizes


def image_shape(shape: Sequence[int], name: str = "event_shape") -> tuple[int, int, int]:
    """Return height, width and number of channels: the product of all axes after the second, 1 for [H, W].

    Raises:
        InputError: there are fewer than two axes.
    """
    if len(shape) < 2:
        raise InputError(
            f"{name}: expected an image, (H, W) or (H, W, C), for a convolutional network, "
            f"got {tuple(shape)}"
        )
    return shape[0], shape[1], math.prod(shape[2:])


class Convolution(ProductLayer):
    """`y[i, j] = bias + sum_ab x[s i + a - lo, s j + b - lo] @ kernel[a, b]`, zero-padded.

    [H, W, C] becomes [ceil(H / s), ceil(W / s), O], with `lo = (k - s) // 2`.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: k, a multiple of the stride.
        stride: s.
        initializer: see `linear`; the fan-in is k k C.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        fan_in = kernel_size**2 * in_channels
        kernel, bias = draws(initializer, fan_in)
        shape = kernel_size, kernel_size, in_channels, out_channels
        self.kernel = nnx.Param(
            kernel(rngs.params(), (fan_in, out_channels), jnp.float32).reshape(shape)
        )
        self.bias = nnx.Param(bias(rngs.params(), (out_channels,), jnp.float32))
        self.stride = stride

    def __call__(self, x: Float[Array, "H W C"]) -> Float[Array, "h w O"]:
        """Convolve one image."""
        options = {"stride": self.stride, "precision": self.precision}
        y = convolve(x[None], self.kernel[...], **options)[0]
        return y + jnp.broadcast_to(self.bias[...], y.shape)


class TransposedConvolution(ProductLayer):
    """The adjoint of `Convolution`, from [h, w, C] to the larger size [H, W, O] given by `size`.

    `y[s i + a - lo, s j + b - lo] += kernel[a, b] @ x[i, j]` over all i, j, a, b; plus the bias.

    Args:
        in_channels: C.
        out_channels: O.
        size: H and W; the input is [ceil(H / s), ceil(W / s), C].
        kernel_size: k, a multiple of the stride.
        stride: s.
        initializer: see `linear`; the fan-in is (k / s)^2 C, the number of inputs of one output.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: Size,
        kernel_size: int,
        stride: int,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        fan_in = (kernel_size // stride) ** 2 * in_channels
        kernel, bias = draws(initializer, fan_in)
        shape = kernel_size, kernel_size, out_channels, in_channels
        matrix = kernel(rngs.params(), (fan_in, stride**2 * out_channels), jnp.float32)
        self.kernel = nnx.Param(matrix.reshape(shape))
        self.bias = nnx.Param(bias(rngs.params(), (out_channels,), jnp.float32))
        self.stride, self.size = stride, size

    def __call__(self, x: Float[Array, "h w C"]) -> Float[Array, "H W O"]:
        """Map one image to the larger size."""
        options = {"stride": self.stride, "size": self.size, "precision": self.precision}
        y = transposed(x[None], self.kernel[...], **options)[0]
        return y + jnp.broadcast_to(self.bias[...], y.shape)


class ConvolutionalBlock(nnx.Module):
    """A residual block, `h + conv2(act(conv1(act(h))))`, with 3 x 3 kernels and the same number of channels.

    Source: He et al. (2016), "Identity mappings in deep residual networks". Departs from the source:
    no batch normalisation, which couples examples.
    """

    def __init__(
        self,
        channels: int,
        *,
        activation: Activation,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        self.first, self.second = (
            Convolution(channels, channels, kernel_size=3, initializer=initializer, rngs=rngs)
            for _ in range(2)
        )
        self.activation = activation_function(activation)

    def __call__(self, h: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Return h plus the block's residual."""
        return h + self.second(self.activation(self.first(self.activation(h))))


class ConvolutionalEncoder(nnx.Module):
    """A map from an image to a vector: per level a 4 x 4 convolution of stride 2 and an activation; linear output.

    Args:
        in_shape: shape of the input, (H, W) or (H, W, ..); axes after the second are channels.
        channels: number of channels of each level.
        out_features: size of the output.
        activation: the activation after each level.
        initializer: how the initial weights are drawn, see `linear`.
        network: "conv"; "residual_conv" has a residual block before each activation.
        rngs: source of the initial weights.

    Raises:
        InputError: an argument is out of its range, or the image too small for the levels.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        channels: Sequence[int],
        out_features: int,
        *,
        activation: Activation = "relu",
        initializer: Initializer = "lecun_normal",
        network: ConvolutionalName = "conv",
        rngs: nnx.Rngs,
    ):
        height, width, inputs = image_shape(in_shape)
        widths = _levels(channels)
        last = level_sizes((height, width), len(widths))[-1]
        self.levels = nnx.List(
            Convolution(a, b, kernel_size=KERNEL, stride=STRIDE, initializer=initializer, rngs=rngs)
            for a, b in zip((inputs, *widths[:-1]), widths, strict=True)
        )
        self.blocks = _blocks(network, widths, activation, initializer, rngs)
        flat = math.prod(last) * widths[-1]
        self.last = linear(flat, out_features, initializer=initializer, rngs=rngs)
        self.activation = activation_function(activation)
        self.in_shape, self.image = tuple(in_shape), (height, width, inputs)

    def __call__(self, x: Float[Array, "H W ..."]) -> Float[Array, "out_features"]:
        """Map one image to a vector."""
        if x.shape != self.in_shape:
            raise InputError(
                f"x: expected one image of shape {self.in_shape}, got shape {x.shape}; "
                "jax.vmap the call over a batch axis"
            )
        h = x.reshape(self.image)
        for level, block in zip(self.levels, _each(self.blocks, self.levels), strict=True):
            h = self.activation(block(level(h)))
        return self.last(h.reshape(-1))


class ConvolutionalDecoder(nnx.Module):
    """A map from a vector to P images: a linear layer, then per level an activation and a transposed convolution.

    The levels are those of a `ConvolutionalEncoder` in reverse, and each restores exactly the input size of
    the encoder's level, so that the output has the height and width of the encoder's image, whatever they are.

    Args:
        in_features: size of the input.
        channels: number of channels of each level of the encoder; they are taken in reverse.
        out_shape: (P, *event) with event (H, W) or (H, W, ..).
        activation: the activation before each transposed convolution.
        initializer: how the initial weights are drawn, see `linear`.
        network: "conv"; "residual_conv" has a residual block before each activation.
        rngs: source of the initial weights.

    Raises:
        InputError: an argument is out of its range, or the image too small for the levels.
    """

    def __init__(
        self,
        in_features: int,
        channels: Sequence[int],
        out_shape: Sequence[int],
        *,
        activation: Activation = "relu",
        initializer: Initializer = "lecun_normal",
        network: ConvolutionalName = "conv",
        rngs: nnx.Rngs,
    ):
        height, width, outputs = image_shape(out_shape[1:])
        widths = _levels(channels)[::-1]
        *larger, smallest = level_sizes((height, width), len(widths))
        self.small = (*smallest, widths[0])
        self.first = linear(in_features, math.prod(self.small), initializer=initializer, rngs=rngs)
        self.levels = nnx.List(
            TransposedConvolution(
                a,
                b,
                size=size,
                kernel_size=KERNEL,
                stride=STRIDE,
                initializer=initializer,
                rngs=rngs,
            )
            for a, b, size in zip(
                widths, (*widths[1:], out_shape[0] * outputs), reversed(larger), strict=True
            )
        )
        self.blocks = _blocks(network, widths, activation, initializer, rngs)
        self.activation = activation_function(activation)
        self.out_shape = tuple(out_shape)

    def __call__(self, z: Float[Array, "in_features"]) -> Float[Array, "P *event"]:
        """Map one vector to the P parameters of every value of an image."""
        h = self.first(z).reshape(self.small)
        for level, block in zip(self.levels, _each(self.blocks, self.levels), strict=True):
            h = level(self.activation(block(h)))
        h = h.reshape(*h.shape[:2], self.out_shape[0], -1)  # [H, W, P, C]
        return jnp.moveaxis(h, 2, 0).reshape(self.out_shape)


def _levels(channels: Sequence[int]) -> tuple[int, ...]:
    widths = require_widths("channels", channels)
    if not widths:
        raise InputError("channels: expected at least one level, such as (32, 64), got ()")
    return widths


def _blocks(
    network: ConvolutionalName,
    widths: tuple[int, ...],
    activation: Activation,
    initializer: Initializer,
    rngs: nnx.Rngs,
) -> nnx.List:
    """Return one residual block per level, or none for network="conv"."""
    require_choice("network", network, get_args(ConvolutionalName))
    residual = widths if network == "residual_conv" else ()
    return nnx.List(
        ConvolutionalBlock(width, activation=activation, initializer=initializer, rngs=rngs)
        for width in residual
    )


def _each(blocks: nnx.List, levels: nnx.List) -> Sequence[Callable[[Array], Array]]:
    return list(blocks) or [_identity] * len(levels)


def _identity(h: Array) -> Array:
    return h
