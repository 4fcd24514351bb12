"""The solvable models of `jaxvae.testing` in a form for tests: all parameters in one tuple, results in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvae import testing
from jaxvae.testing import in_float64
from jaxvae.types import Terms


class Parameters(NamedTuple):
    """The parameters of a linear-Gaussian model; `lower` is zero if q is diagonal."""

    weight: Any  # W [E, D]
    bias: Any  # b [E]
    log_scale: Any  # log s
    encoder: Any  # A [D, E]
    offset: Any  # c [D]
    log_diagonal: Any  # log diag L [D]
    lower: Any  # the entries of L below its diagonal [D, D]


class LinearGaussian(nnx.Module):
    """`testing.LinearGaussian` with these parameters as attributes."""

    def __init__(self, parameters: Parameters, *, full: bool):
        for name, value in parameters._asdict().items():
            setattr(self, name, nnx.Param(jnp.asarray(value, jnp.float32)))
        self.full = full

    def exact(self) -> testing.LinearGaussian:
        encoder = {"weight": self.encoder, "bias": self.offset, "log_scale": self.log_diagonal}
        if self.full:
            encoder["lower"] = self.lower
        decoder = {"weight": self.weight, "bias": self.bias, "log_scale": self.log_scale}
        return testing.LinearGaussian(nnx.Dict(encoder), nnx.Dict(decoder))

    def prior(self):
        return self.exact().prior()

    def posterior(self, x):
        return self.exact().posterior(x)

    def likelihood(self, z):
        return self.exact().likelihood(z)


def _flat(model: testing.LinearGaussian) -> LinearGaussian:
    p, q = model.decoder, model.encoder
    size = model.latent_dim
    lower = q.lower[...] if model.full else jnp.zeros((size, size))
    generative = p.weight[...], p.bias[...], p.log_scale[...]
    inference = q.weight[...], q.bias[...], q.log_scale[...], lower
    return LinearGaussian(Parameters(*generative, *inference), full=model.full)


def linear_gaussian(seed: int = 0, **options: Any) -> LinearGaussian:
    """Return `testing.linear_gaussian` as a `LinearGaussian` of this module."""
    return _flat(testing.linear_gaussian(seed, **options))


def with_exact_posterior(model: LinearGaussian, *, widen: float = 1.0) -> LinearGaussian:
    """Return the model with the same p(x, z), and q(z|x) = p(z|x) with standard deviations times `widen`."""
    return _flat(in_float64(lambda model: model.exact().with_exact_posterior(widen=widen), model))


def parameters(model: LinearGaussian) -> Parameters:
    """Return the parameters of a model, or the entries of its gradient, in float64."""
    values = {name: getattr(model, name)[...] for name in Parameters._fields}
    return Parameters(**{name: np.asarray(value, np.float64) for name, value in values.items()})


def draw_x(model: LinearGaussian, seed: int, size: int) -> np.ndarray:
    """Draw examples [size, E] from the model, float32."""
    return np.asarray(testing.draw_examples(jax.random.key(seed), model, size))


def log_evidence(model: LinearGaussian, xs: np.ndarray) -> np.ndarray:
    """Compute log p(x) of examples [N, E], nats."""
    return _evidence(model.exact(), np.atleast_2d(xs))


def _evidence(model: testing.ExactModel, xs: np.ndarray) -> np.ndarray:
    return in_float64(lambda model, xs: jax.vmap(model.log_evidence)(xs), model, xs)


def elbo(p: Parameters, x: np.ndarray) -> Terms:
    """Compute the expectations of the terms of the ELBO of one example, nats."""
    model = LinearGaussian(p, full=True).exact()
    return in_float64(lambda model, x: model.exact_elbo(x), model, x)


def elbo_gradient(model: LinearGaussian, x: np.ndarray) -> Parameters:
    """Compute the gradient of the exact ELBO of one example."""
    full = LinearGaussian(parameters(model), full=True)
    return parameters(in_float64(jax.grad(lambda m, x: m.exact().exact_elbo(x).bound), full, x))


def iwae_of_two(model: LinearGaussian, x: np.ndarray) -> float:
    """Compute E log((w_1 + w_2) / 2), nats."""
    return float(in_float64(lambda model, x: model.exact_iwae(x, 2), model.exact(), x))


Discrete = testing.discrete


def discrete_log_evidence(model: testing.Discrete, xs: np.ndarray) -> np.ndarray:
    """Compute log p(x) of examples [N, n] by the sum over z, nats."""
    return _evidence(model, xs)
