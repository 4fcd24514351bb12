"""Inference of q(z|x) by methods other than one pass of an encoder."""

from jaxvae.inference.em import EMRecord, em
from jaxvae.inference.fit_posterior import FittedPosterior, fit_posterior, fit_posteriors
from jaxvae.inference.free_energy import expectation, free_energy
from jaxvae.inference.iterative import Iterative, iterative, iterative_elbo
from jaxvae.inference.optimal_variance import optimal_variance
from jaxvae.inference.refinement import WithPosterior, refine, semi_amortised
from jaxvae.inference.steps import HalfSteps, MStep, make_update

__all__ = [
    "EMRecord",
    "FittedPosterior",
    "HalfSteps",
    "Iterative",
    "MStep",
    "WithPosterior",
    "em",
    "expectation",
    "fit_posterior",
    "fit_posteriors",
    "free_energy",
    "iterative",
    "iterative_elbo",
    "make_update",
    "optimal_variance",
    "refine",
    "semi_amortised",
]
