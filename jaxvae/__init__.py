"""jaxvae: variational autoencoders as pure functions. One example, one key, one bound."""

from jaxvae import (
    autonomous,
    bounds,
    coupled,
    data,
    evaluation,
    gradients,
    inference,
    models,
    networks,
    parallel,
    semi_supervised,
    testing,
    training,
)
from jaxvae.objectives import elbo, importance_weighted, iwae, multiply_iwae, partially_iwae
from jaxvae.types import InputError, Model, Terms

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Model",
    "Terms",
    "autonomous",
    "bounds",
    "coupled",
    "data",
    "elbo",
    "evaluation",
    "gradients",
    "importance_weighted",
    "inference",
    "iwae",
    "models",
    "multiply_iwae",
    "networks",
    "parallel",
    "partially_iwae",
    "semi_supervised",
    "testing",
    "training",
]
