"""Tests against exact answers: solvable models, statistical tests, and checks of estimators and models."""

from jaxvae.testing.check import Check, Verdict, check_estimator
from jaxvae.testing.check_model import Finding, ModelVerdict, check_model
from jaxvae.testing.discrete import Discrete, discrete
from jaxvae.testing.exact import (
    ExactModel,
    draw_examples,
    exact_bound,
    exact_gradient,
    expected_iwae,
    in_float64,
)
from jaxvae.testing.gaussian_mixture import GaussianMixture, gaussian_mixture
from jaxvae.testing.linear_gaussian import LinearGaussian, linear_gaussian
from jaxvae.testing.noise import Slope, slope, snr
from jaxvae.testing.statistics import (
    FALSE_ALARM,
    Order,
    ZTest,
    assert_mean,
    assert_mean_exceeds,
    check_order,
    z_scores,
    z_test,
)

__all__ = [
    "FALSE_ALARM",
    "Check",
    "Discrete",
    "ExactModel",
    "Finding",
    "GaussianMixture",
    "LinearGaussian",
    "ModelVerdict",
    "Order",
    "Slope",
    "Verdict",
    "ZTest",
    "assert_mean",
    "assert_mean_exceeds",
    "check_estimator",
    "check_model",
    "check_order",
    "discrete",
    "draw_examples",
    "exact_bound",
    "exact_gradient",
    "expected_iwae",
    "gaussian_mixture",
    "in_float64",
    "linear_gaussian",
    "slope",
    "snr",
    "z_scores",
    "z_test",
]
