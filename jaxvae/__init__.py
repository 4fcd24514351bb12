"""jaxvae: variational autoencoders as pure functions. One example, one key, one bound.

Where do I find ..

| what | where |
|---|---|
| the objective of one example, `(key, model, x) -> Terms` | `jv.elbo`, `jv.iwae`, `jv.importance_weighted` |
| functions of the log-weights: IWAE, Renyi, thermodynamic, .. | `jv.bounds` |
| where the gradient flows: STL, DReG, score function, .. | `jv.gradients` |
| losses on the encoder, labels, whole batches | `jv.autonomous`, `jv.semi_supervised`, `jv.coupled` |
| models, and likelihoods p(x|z) | `jv.models`, `jv.models.likelihoods` |
| encoders and decoders | `jv.networks` |
| EM, and q(z|x) fitted to each example | `jv.inference` |
| a training state, step and run | `jv.training` |
| several devices | `jv.parallel` |
| log p(x), active units, gaps, imputation, .. | `jv.evaluation` |
| checks of an estimator or a model of your own | `jv.testing` |
| data sets | `jv.data` |
| how K samples, densities and log-weights are made | `jaxvae.log_weights` |
| how one example becomes a batch, and which key draws what | `jaxvae.batching`, `jaxvae.keys` |
| the program: runs, reports, benchmark, command line | `jaxvae.runs`, `jaxvae.reports`, `jaxvae.bench`, `jaxvae.cli` |
"""

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
