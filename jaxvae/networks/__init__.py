"""Encoders and decoders as `flax.nnx` modules, each a function of one example."""

from jaxvae.networks.autoregressive import GRU, MarkovMLP, MaskedMLP
from jaxvae.networks.convolutional import (
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    ConvolutionalName,
)
from jaxvae.networks.dense import (
    MLP,
    Activation,
    GatedMLP,
    Initializer,
    activation_function,
    linear,
)
from jaxvae.networks.named import DenseName, dense_network
from jaxvae.networks.precision import Precision, ProductLayer, with_precision
from jaxvae.networks.residual import ResidualMLP

__all__ = [
    "GRU",
    "MLP",
    "Activation",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "ConvolutionalName",
    "DenseName",
    "GatedMLP",
    "Initializer",
    "MarkovMLP",
    "MaskedMLP",
    "Precision",
    "ProductLayer",
    "ResidualMLP",
    "activation_function",
    "dense_network",
    "linear",
    "with_precision",
]
