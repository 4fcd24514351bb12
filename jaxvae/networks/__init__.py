"""Encoders and decoders: functions of one example, as `flax.nnx` modules."""

from jaxvae.networks.dense import MLP, Activation, Initializer, activation_function, linear

__all__ = ["MLP", "Activation", "Initializer", "activation_function", "linear"]
