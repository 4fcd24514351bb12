"""jaxvae: variational autoencoders as pure functions. One example, one key, one bound."""

from jaxvae import bounds, data, evaluation, models, networks, training
from jaxvae.objectives import elbo, iwae
from jaxvae.types import InputError, Model, Terms

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Model",
    "Terms",
    "bounds",
    "data",
    "elbo",
    "evaluation",
    "iwae",
    "models",
    "networks",
    "training",
]
