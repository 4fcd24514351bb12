"""Inference: ways to get q(z|x) other than one pass of an encoder."""

from jaxvae.inference.em import EMRecord, em
from jaxvae.inference.free_energy import expectation, free_energy
from jaxvae.inference.optimal_variance import optimal_variance
from jaxvae.inference.steps import HalfSteps, MStep, make_update

__all__ = [
    "EMRecord",
    "HalfSteps",
    "MStep",
    "em",
    "expectation",
    "free_energy",
    "make_update",
    "optimal_variance",
]
