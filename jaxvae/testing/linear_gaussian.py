"""The linear-Gaussian model: probabilistic PCA with a free linear encoder."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_positive
from jaxvae.distributions import log_prob
from jaxvae.testing.exact import ExactModel
from jaxvae.types import InputError, Terms

_POINTS = {1: np.linspace(-8.0, 8.0, 161), 2: np.linspace(-8.0, 8.0, 51)}
"""The nodes, by D, of the trapezoid rule for N(0, 1), which converges faster than any power of the step."""


def parameters(**values: np.ndarray | float) -> nnx.Dict:
    """Return trainable parameters with these values, float32."""
    return nnx.Dict({k: nnx.Param(jnp.asarray(v, jnp.float32)) for k, v in values.items()})


class Affine(ExactModel):
    """A model with `p(x|z) = N(W z + b, s^2 I)` and `q(z|x) = N(A x + c, L L')`, and any prior.

    `decoder` holds weight W [E, D], bias b [E] and log_scale log s; `encoder` holds weight A [D, E],
    bias c [D], log_scale log diag L [D] and, if q has a full covariance, lower, the entries of L
    below its diagonal [D, D].
    """

    def __init__(self, encoder: nnx.Dict, decoder: nnx.Dict):
        self.encoder, self.decoder = encoder, decoder

    @property
    def latent_dim(self) -> int:
        """D, the dimension of the latent."""
        return self.encoder.bias[...].shape[0]

    @property
    def full(self) -> bool:
        """True if q has a full covariance."""
        return "lower" in self.encoder

    def posterior(self, x: Float[Array, "E"]) -> dist.Distribution:
        """q(z|x) = N(A x + c, L L')."""
        mean = self._posterior_mean(x)
        if self.full:
            return dist.MultivariateNormal(mean, scale_tril=self._tril())
        return dist.Normal(mean, jnp.exp(self.encoder.log_scale[...])).to_event(1)

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|z) = N(W z + b, s^2 I)."""
        mean = self.decoder.weight[...] @ z + self.decoder.bias[...]
        scale = jnp.broadcast_to(jnp.exp(self.decoder.log_scale[...]), mean.shape)
        return dist.Normal(mean, scale).to_event(1)

    def quadrature(self, x: Float[Array, "E"]) -> tuple[Array, Float[Array, "N"]]:
        """Return a grid of 161 (D = 1) or 51 x 51 (D = 2) latents over +-8 standard deviations of q, with weights.

        Raises:
            InputError: D is larger.
        """
        if self.latent_dim not in _POINTS:
            raise InputError(
                "model: expected a latent_dim of 1 or 2, for which the expectation is a grid sum, "
                f"got {self.latent_dim}"
            )
        grid = np.array(list(itertools.product(_POINTS[self.latent_dim], repeat=self.latent_dim)))
        probs = np.exp(-0.5 * np.sum(grid**2, axis=1))
        mean = self._posterior_mean(x)
        z = mean[None] + jnp.asarray(grid, mean.dtype) @ self._tril().T
        return z, jnp.asarray(probs / probs.sum(), mean.dtype)

    def _posterior_mean(self, x: Array) -> Array:
        return self.encoder.weight[...] @ x + self.encoder.bias[...]

    def _tril(self) -> Array:
        diagonal = jnp.diag(jnp.exp(self.encoder.log_scale[...]))
        return diagonal + jnp.tril(self.encoder.lower[...], -1) if self.full else diagonal

    def _noise(self) -> Array:
        """Return s^2 I, [E, E]."""
        size = self.decoder.bias[...].shape[0]
        return jnp.exp(2 * self.decoder.log_scale[...]) * jnp.eye(size)


class LinearGaussian(Affine):
    """A model with `p(z) = N(0, I)`, and p(x|z) and q(z|x) of `Affine`: everything in closed form.

    log p(x) = log N(x; b, W W' + s^2 I)
    p(z|x)   = N(S W'(x - b) / s^2, S),   S = (I + W'W / s^2)^-1
    ELBO     = -E/2 log(2 pi s^2) - (|x - W m - b|^2 + |W L|^2) / (2 s^2)
               - (|L|^2 + |m|^2 - D - log det L L') / 2,     m = A x + c
    """

    def prior(self) -> dist.Distribution:
        """p(z) = N(0, I), in the same family as q, so that their KL divergence has a closed form."""
        zeros = jnp.zeros_like(self.encoder.bias[...])
        if self.full:
            return dist.MultivariateNormal(zeros, scale_tril=jnp.eye(self.latent_dim))
        return dist.Normal(zeros, jnp.ones_like(zeros)).to_event(1)

    def log_evidence(self, x: Float[Array, "E"]) -> Float[Array, ""]:
        """`log N(x; b, W W' + s^2 I)`, nats."""
        weight = self.decoder.weight[...]
        covariance = weight @ weight.T + self._noise()
        return log_prob(dist.MultivariateNormal(self.decoder.bias[...], covariance), x)

    def exact_posterior(self, x: Float[Array, "E"]) -> dist.Distribution:
        """p(z|x) = N(S W'(x - b) / s^2, S)."""
        gain, covariance = self._gain()
        return dist.MultivariateNormal(gain @ (x - self.decoder.bias[...]), covariance)

    def exact_elbo(self, x: Float[Array, "E"]) -> Terms:
        """Return the expectations of the terms of the ELBO in closed form, for any D, scalars in nats."""
        mean, tril, weight = self._posterior_mean(x), self._tril(), self.decoder.weight[...]
        residual = x - weight @ mean - self.decoder.bias[...]
        squares = jnp.sum(residual**2) + jnp.sum((weight @ tril) ** 2)
        variance = jnp.exp(2 * self.decoder.log_scale[...])
        distortion = 0.5 * x.size * jnp.log(2 * np.pi * variance) + squares / (2 * variance)
        log_det = 2 * jnp.sum(self.encoder.log_scale[...])
        rate = 0.5 * (jnp.sum(tril**2) + jnp.sum(mean**2) - self.latent_dim - log_det)
        bound = -(distortion + rate)
        return Terms(bound, bound, distortion, rate)

    def with_exact_posterior(self, *, widen: float = 1.0) -> "LinearGaussian":
        """Return the model with the same p(x, z), and q(z|x) = p(z|x) with standard deviations times `widen`."""
        gain, covariance = self._gain()
        tril = widen * jnp.linalg.cholesky(covariance)
        encoder = {
            "weight": gain,
            "bias": -gain @ self.decoder.bias[...],
            "log_scale": jnp.log(jnp.diag(tril)),
            "lower": jnp.tril(tril, -1),
        }
        decoder = {name: jnp.copy(param[...]) for name, param in self.decoder.items()}
        return LinearGaussian(*(nnx.Dict(jax.tree.map(nnx.Param, d)) for d in (encoder, decoder)))

    def _gain(self) -> tuple[Array, Array]:
        """Return S W' / s^2 and S."""
        weight = self.decoder.weight[...]
        scaled = weight.T / jnp.exp(2 * self.decoder.log_scale[...])
        covariance = jnp.linalg.inv(jnp.eye(self.latent_dim) + scaled @ weight)
        return covariance @ scaled, covariance


def linear_gaussian(
    seed: int = 0, *, event_size: int = 3, latent_dim: int = 2, full: bool = False
) -> LinearGaussian:
    """Return a linear-Gaussian model whose q has about the scale of the exact posterior but differs from it.

    Args:
        seed: the seed of the parameters, drawn by NumPy.
        event_size: E.
        latent_dim: D; `exact_iwae` needs 1 or 2.
        full: whether q has a full covariance instead of a diagonal one.

    Returns:
        A model with `log_evidence`, `exact_posterior`, `exact_elbo`, `exact_iwae` and
        `with_exact_posterior`.

    Raises:
        InputError: a size is below 1.

    >>> model, x = linear_gaussian(), jnp.ones(3)
    >>> bool(model.exact_elbo(x).bound < model.exact_iwae(x, 5) < model.log_evidence(x))
    True

    Source: Tipping and Bishop (1999), "Probabilistic principal component analysis".
    """
    require_positive(event_size=event_size, latent_dim=latent_dim)
    rng = np.random.default_rng(seed)
    lower = 0.3 * np.tril(rng.normal(size=(latent_dim, latent_dim)), -1)
    decoder = parameters(
        weight=rng.normal(size=(event_size, latent_dim)),
        bias=rng.normal(size=event_size),
        log_scale=-0.2,
    )
    return LinearGaussian(affine_encoder(rng, event_size, lower, full=full), decoder)


def affine_encoder(
    rng: np.random.Generator, event_size: int, lower: np.ndarray, *, full: bool
) -> nnx.Dict:
    """Draw the parameters of a q(z|x) with D = len(lower)."""
    latent_dim = len(lower)
    return parameters(
        weight=0.3 * rng.normal(size=(latent_dim, event_size)),
        bias=0.3 * rng.normal(size=latent_dim),
        log_scale=-0.5 + 0.2 * rng.normal(size=latent_dim),
        **({"lower": lower} if full else {}),
    )
