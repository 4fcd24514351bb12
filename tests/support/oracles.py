"""Models that can be solved exactly, and their closed forms in float64.

`LinearGaussian`: z ~ N(0, I), x|z ~ N(W z + b, s^2 I), q(z|x) = N(A x + c, L L'). Then

    log p(x) = log N(x; b, W W' + s^2 I)
    ELBO     = -E/2 log(2 pi s^2) - (|x - W m - b|^2 + tr(W S W')) / (2 s^2)
               - (tr S + |m|^2 - D - log det S) / 2,      m = A x + c, S = L L'

`Discrete`: z in 0..C-1, x in {0, 1}^n, all of it by enumeration.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from scipy import special, stats


class Parameters(NamedTuple):
    """Of a linear-Gaussian model; `lower` is zero where q is diagonal."""

    weight: Any  # W [E, D]
    bias: Any  # b [E]
    log_scale: Any  # log s
    encoder: Any  # A [D, E]
    offset: Any  # c [D]
    log_diagonal: Any  # log diag L [D]
    lower: Any  # the entries of L below its diagonal [D, D]


class LinearGaussian(nnx.Module):
    """The model of these parameters, q of full covariance or, with `full=False`, diagonal."""

    def __init__(self, parameters: Parameters, *, full: bool):
        for name, value in parameters._asdict().items():
            setattr(self, name, nnx.Param(jnp.asarray(value, jnp.float32)))
        self.full = full

    def prior(self):
        size = self.offset[...].shape[0]
        if self.full:
            return dist.MultivariateNormal(jnp.zeros(size), scale_tril=jnp.eye(size))
        return dist.Normal(jnp.zeros(size), jnp.ones(size)).to_event(1)

    def posterior(self, x):
        mean, scale = self.encoder[...] @ x + self.offset[...], jnp.exp(self.log_diagonal[...])
        if self.full:
            tril = jnp.diag(scale) + jnp.tril(self.lower[...], -1)
            return dist.MultivariateNormal(mean, scale_tril=tril)
        return dist.Normal(mean, scale).to_event(1)

    def likelihood(self, z):
        mean = self.weight[...] @ z + self.bias[...]
        return dist.Normal(
            mean, jnp.broadcast_to(jnp.exp(self.log_scale[...]), mean.shape)
        ).to_event(1)


def linear_gaussian(
    seed: int = 0, *, event_size: int = 3, latent_dim: int = 2, full: bool = False
) -> LinearGaussian:
    """A model with a free encoder: near the exact posterior's size, not at it."""
    rng = np.random.default_rng(seed)
    lower = 0.3 * np.tril(rng.normal(size=(latent_dim, latent_dim)), -1)
    parameters = Parameters(
        weight=rng.normal(size=(event_size, latent_dim)),
        bias=rng.normal(size=event_size),
        log_scale=np.float64(-0.2),
        encoder=0.3 * rng.normal(size=(latent_dim, event_size)),
        offset=0.3 * rng.normal(size=latent_dim),
        log_diagonal=-0.5 + 0.2 * rng.normal(size=latent_dim),
        lower=lower if full else np.zeros_like(lower),
    )
    return LinearGaussian(parameters, full=full)


def with_exact_posterior(model: LinearGaussian, *, widen: float = 1.0) -> LinearGaussian:
    """The same p(x, z), q(z|x) = p(z|x), its standard deviations times `widen`."""
    p = parameters(model)
    precision = np.eye(p.offset.size) + p.weight.T @ p.weight / np.exp(2 * p.log_scale)
    covariance = np.linalg.inv(precision)
    encoder = covariance @ p.weight.T / np.exp(2 * p.log_scale)
    tril = widen * np.linalg.cholesky(covariance)
    exact = p._replace(
        encoder=encoder,
        offset=-encoder @ p.bias,
        log_diagonal=np.log(np.diag(tril)),
        lower=np.tril(tril, -1),
    )
    return LinearGaussian(exact, full=True)


def parameters(model: LinearGaussian) -> Parameters:
    """The parameters of a model, or the entries of its gradient, in float64."""
    values = {name: getattr(model, name)[...] for name in Parameters._fields}
    return Parameters(**{name: np.asarray(value, np.float64) for name, value in values.items()})


def draw_x(model: LinearGaussian, seed: int, size: int) -> np.ndarray:
    """Examples [size, E] from the model itself, float32."""
    p, rng = parameters(model), np.random.default_rng(seed)
    z = rng.normal(size=(size, p.offset.size))
    noise = np.exp(p.log_scale) * rng.normal(size=(size, p.bias.size))
    return np.asarray(z @ p.weight.T + p.bias + noise, np.float32)


def log_evidence(model: LinearGaussian, xs: np.ndarray) -> np.ndarray:
    """log p(x) of examples [N, E], nats."""
    p = parameters(model)
    covariance = p.weight @ p.weight.T + np.exp(2 * p.log_scale) * np.eye(p.bias.size)
    return np.atleast_1d(stats.multivariate_normal(p.bias, covariance).logpdf(np.float64(xs)))


class ExactTerms(NamedTuple):
    """Expectations of the terms of the ELBO, nats."""

    bound: Any
    distortion: Any
    rate: Any


def elbo(p: Parameters, x: Any, xp: Any = np) -> ExactTerms:
    """The closed form for one example, in NumPy, or with `xp=jax.numpy` differentiable."""
    mean = p.encoder @ x + p.offset
    tril = xp.diag(xp.exp(p.log_diagonal)) + xp.tril(p.lower, -1)
    residual, spread = x - p.weight @ mean - p.bias, p.weight @ tril
    squares = xp.sum(residual**2) + xp.sum(spread**2)
    variance = xp.exp(2 * p.log_scale)
    distortion = 0.5 * len(x) * xp.log(2 * np.pi * variance) + squares / (2 * variance)
    log_det = 2 * xp.sum(p.log_diagonal)
    rate = 0.5 * (xp.sum(tril**2) + xp.sum(mean**2) - len(mean) - log_det)
    return ExactTerms(-(distortion + rate), distortion, rate)


def elbo_gradient(model: LinearGaussian, x: np.ndarray) -> Parameters:
    """The gradient of the exact ELBO of one example; float32, error about 1e-6."""
    p = Parameters(*(jnp.asarray(value, jnp.float32) for value in parameters(model)))
    gradient = jax.grad(lambda p: elbo(p, jnp.asarray(x), jnp).bound)(p)
    return Parameters(*(np.asarray(value, np.float64) for value in gradient))


def iwae_of_two(model: LinearGaussian, x: np.ndarray, *, nodes: int = 80) -> float:
    """E log((w_1 + w_2) / 2) for one latent, by Gauss-Hermite quadrature over both samples."""
    p = parameters(model)
    (m,), s = p.encoder @ np.float64(x) + p.offset, np.exp(p.log_diagonal[0])
    points, weights = special.roots_hermitenorm(nodes)
    z = m + s * points
    log_p_x_z = stats.norm.logpdf(
        np.float64(x), np.outer(z, p.weight[:, 0]) + p.bias, np.exp(p.log_scale)
    ).sum(axis=1)
    log_w = log_p_x_z + stats.norm.logpdf(z) - stats.norm.logpdf(z, m, s)
    pair = np.logaddexp(log_w[:, None], log_w[None, :]) - np.log(2)
    weights = weights / weights.sum()
    return float(weights @ pair @ weights)


class Discrete(nnx.Module):
    """z ~ Categorical, x|z independent bits, q(z|x) a softmax of a linear map of x."""

    def __init__(self, seed: int = 0, *, num_components: int = 3, event_size: int = 4):
        rng = np.random.default_rng(seed)
        self.prior_logits = nnx.Param(jnp.asarray(rng.normal(size=num_components), jnp.float32))
        self.logits = nnx.Param(
            jnp.asarray(1.5 * rng.normal(size=(num_components, event_size)), jnp.float32)
        )
        self.encoder = nnx.Param(
            jnp.asarray(0.5 * rng.normal(size=(num_components, event_size)), jnp.float32)
        )

    def prior(self):
        return dist.CategoricalLogits(self.prior_logits[...])

    def posterior(self, x):
        return dist.CategoricalLogits(self.encoder[...] @ x)

    def likelihood(self, z):
        return dist.BernoulliLogits(self.logits[...][z]).to_event(1)


def discrete_log_evidence(model: Discrete, xs: np.ndarray) -> np.ndarray:
    """log p(x) of examples [N, n] by the sum over z, nats."""
    log_prior = special.log_softmax(np.asarray(model.prior_logits[...], np.float64))
    logits = np.asarray(model.logits[...], np.float64)
    signs = 2 * np.float64(xs)[:, None, :] - 1
    log_p_x_z = -np.logaddexp(0, -signs * logits[None]).sum(axis=-1)
    return special.logsumexp(log_prior + log_p_x_z, axis=1)
