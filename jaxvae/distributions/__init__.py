"""Densities and divergences beyond `numpyro.distributions`, and the checks that every density gets."""

from jaxvae.distributions.calls import can_score, log_prob, rsample, sample, sample_with_log_prob
from jaxvae.distributions.checks import describe, require_event, require_one_event
from jaxvae.distributions.discrete import FloatBernoulli, OneHotCategorical
from jaxvae.distributions.divergences import analytic_entropy, analytic_kl
from jaxvae.distributions.flows import (
    Flow,
    InverseAutoregressive,
    Planar,
    SplineCoupling,
    made_masks,
)

__all__ = [
    "FloatBernoulli",
    "Flow",
    "InverseAutoregressive",
    "OneHotCategorical",
    "Planar",
    "SplineCoupling",
    "analytic_entropy",
    "analytic_kl",
    "can_score",
    "describe",
    "log_prob",
    "made_masks",
    "require_event",
    "require_one_event",
    "rsample",
    "sample",
    "sample_with_log_prob",
]
