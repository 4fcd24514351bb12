"""Distributions and divergences that `numpyro.distributions` lacks, and checks of every distribution."""

from jaxvae.distributions.autoregressive import Autoregressive
from jaxvae.distributions.beta import Beta
from jaxvae.distributions.calls import can_score, log_prob, rsample, sample, sample_with_log_prob
from jaxvae.distributions.categorical import FloatCategorical
from jaxvae.distributions.chains import Chain
from jaxvae.distributions.checks import describe, require_event, require_one_event
from jaxvae.distributions.class_conditional import ClassConditional
from jaxvae.distributions.continuous_bernoulli import ContinuousBernoulli
from jaxvae.distributions.counts import NegativeBinomial, PoissonLogRate, ZeroInflated
from jaxvae.distributions.discrete import FloatBernoulli, OneHotCategorical
from jaxvae.distributions.divergences import analytic_entropy, analytic_kl
from jaxvae.distributions.flows import (
    Flow,
    InverseAutoregressive,
    Planar,
    SplineCoupling,
    made_masks,
)
from jaxvae.distributions.levels import (
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Levels,
    require_levels,
)
from jaxvae.distributions.mixtures import DiagonalNormalMixture

__all__ = [
    "Autoregressive",
    "Beta",
    "Chain",
    "ClassConditional",
    "ContinuousBernoulli",
    "DiagonalNormalMixture",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FloatBernoulli",
    "FloatCategorical",
    "Flow",
    "InverseAutoregressive",
    "Levels",
    "NegativeBinomial",
    "OneHotCategorical",
    "Planar",
    "PoissonLogRate",
    "SplineCoupling",
    "ZeroInflated",
    "analytic_entropy",
    "analytic_kl",
    "can_score",
    "describe",
    "log_prob",
    "made_masks",
    "require_event",
    "require_levels",
    "require_one_event",
    "rsample",
    "sample",
    "sample_with_log_prob",
]
