"""Evaluation of models on examples: likelihoods, use of the latents, representations."""

from jaxvae.evaluation.aggregate import AggregateMMD, aggregate_mmd
from jaxvae.evaluation.annealing import AIS, ais
from jaxvae.evaluation.clustering import Clustering, clustering, kmeans_assignments
from jaxvae.evaluation.contour import Contour, contour
from jaxvae.evaluation.decoding import how_shown, likelihood_means
from jaxvae.evaluation.diagnosis import Diagnosis, dead_latents, diagnose, unused_latents
from jaxvae.evaluation.disentanglement import (
    DCI,
    Disentanglement,
    dci,
    disentanglement,
    mig,
    modularity,
    sap,
)
from jaxvae.evaluation.factors import factor_information
from jaxvae.evaluation.gaps import FamilyGap, Gaps, gaps
from jaxvae.evaluation.imputation import Imputation, impute
from jaxvae.evaluation.information import (
    MutualInformation,
    PerLatent,
    Surgery,
    elbo_surgery,
    mutual_information,
)
from jaxvae.evaluation.labels import Classification, classification
from jaxvae.evaluation.latents import (
    ActiveUnits,
    LayerKL,
    Moments,
    active_units,
    kl_per_latent,
    kl_per_layer,
    posterior_moments,
)
from jaxvae.evaluation.likelihood import LogLikelihood, log_likelihood, terms
from jaxvae.evaluation.pareto import pareto_k
from jaxvae.evaluation.probes import Probe, Probes, knn_probe, linear_probe, probes
from jaxvae.evaluation.rate_distortion import RateDistortion, rate_distortion_curve
from jaxvae.evaluation.reliance import Reliance, reliance_on_latents
from jaxvae.evaluation.sandwich import BDMC, bdmc
from jaxvae.evaluation.streams import mean_and_error
from jaxvae.evaluation.walks import analogy, interpolate

__all__ = [
    "AIS",
    "BDMC",
    "DCI",
    "ActiveUnits",
    "AggregateMMD",
    "Classification",
    "Clustering",
    "Contour",
    "Diagnosis",
    "Disentanglement",
    "FamilyGap",
    "Gaps",
    "Imputation",
    "LayerKL",
    "LogLikelihood",
    "Moments",
    "MutualInformation",
    "PerLatent",
    "Probe",
    "Probes",
    "RateDistortion",
    "Reliance",
    "Surgery",
    "active_units",
    "aggregate_mmd",
    "ais",
    "analogy",
    "bdmc",
    "classification",
    "clustering",
    "contour",
    "dci",
    "dead_latents",
    "diagnose",
    "disentanglement",
    "elbo_surgery",
    "factor_information",
    "gaps",
    "how_shown",
    "impute",
    "interpolate",
    "kl_per_latent",
    "kl_per_layer",
    "kmeans_assignments",
    "knn_probe",
    "likelihood_means",
    "linear_probe",
    "log_likelihood",
    "mean_and_error",
    "mig",
    "modularity",
    "mutual_information",
    "pareto_k",
    "posterior_moments",
    "probes",
    "rate_distortion_curve",
    "reliance_on_latents",
    "sap",
    "terms",
    "unused_latents",
]
