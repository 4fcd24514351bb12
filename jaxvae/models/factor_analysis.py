"""Probabilistic PCA and factor analysis: normal latents and a linear decoder, with closed-form inference."""

from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.checks import require_positive
from jaxvae.models.linear import (
    LinearModel,
    flat,
    flat_rows,
    full_precision,
    noise_floor,
    require_variance,
    weighted_moments,
)
from jaxvae.types import AnyArray, InputError, PRNGKey


class LinearGaussian(LinearModel):
    """`p(z) = N(0, I)`, `p(x|z) = N(W z + mu, Psi)`, `q(z|x) = N(V (x - c), diag(s^2))`.

        log p(x) = log N(x; mu, W W' + Psi)
        p(z|x)   = N(M^-1 W' Psi^-1 (x - mu), M^-1),   M = I + W' Psi^-1 W

    No E x E matrix is formed: `log det(W W' + Psi) = log det M + sum_e log Psi_e`, and with r = x - mu
    `r' (W W' + Psi)^-1 r = (r - W m)' Psi^-1 (r - W m) + m'm` at the posterior mean m, a sum of
    squares, which float32 computes without cancellation.
    """

    def prior(self) -> Distribution:
        """p(z) = N(0, I)."""
        return dist.Normal(jnp.zeros(self.latent_dim), jnp.ones(self.latent_dim)).to_event(1)

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """q(z|x) = N(V (x - c), diag(s^2)), learned."""
        mean, scale = self.encoder(x)
        return dist.Normal(mean, scale).to_event(1)

    @full_precision
    def exact_posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """p(z|x), normal with a full covariance that is the same for every x."""
        tril = self._precision_tril()
        # M = L L' gives M^-1, a small D x D matrix, whose Cholesky factor is then computed.
        covariance = cho_solve((tril, True), jnp.eye(self.latent_dim))
        mean, _ = self._solved(x, tril)
        return dist.MultivariateNormal(mean, scale_tril=jnp.linalg.cholesky(covariance))

    @full_precision
    def log_evidence(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """`log N(x; mu, W W' + Psi)`, nats."""
        tril = self._precision_tril()
        mean, residual = self._solved(x, tril)
        log_det = jnp.sum(jnp.log(self.noise)) + 2 * jnp.sum(jnp.log(jnp.diag(tril)))
        squares = jnp.sum(residual**2 / self.noise) + jnp.sum(mean**2)
        return -0.5 * (residual.size * jnp.log(2 * jnp.pi) + log_det + squares)

    @full_precision
    def expected_log_likelihood(
        self, q: Distribution, x: Float[Array, "*event"]
    ) -> Float[Array, ""]:
        """`E_q[log p(x|z)]` in closed form, for a normal q of one latent, nats."""
        mean, covariance = normal_moments(q)
        residual = flat(x, self.event_shape) - self.offset[...] - self.weight[...] @ mean
        squares = jnp.sum(residual**2 / self.noise)
        spread = jnp.sum((self._precision() - jnp.eye(self.latent_dim)) * covariance)
        return -0.5 * (jnp.sum(jnp.log(2 * jnp.pi * self.noise)) + squares + spread)

    @full_precision
    def m_step(
        self,
        qs: Distribution,
        xs: Float[AnyArray, "N *event"],
        weights: Float[AnyArray, "N"] | None = None,
    ) -> Self:
        """Return the model that maximises `sum_i weights_i E_q_i[log p(x_i, z)]`, with its optimal encoder.

        W and mu are the regression of x on z under q, and Psi is the mean of
        `E_q[(x - W z - mu)^2]`, kept at or above `noise_floor`, which it reaches in a Heywood case.

        Args:
            qs: normal posteriors, one per example: a distribution returned by `jax.vmap`.
            xs: the examples.
            weights: weights of the examples; equal if None.

        Source: Rubin and Thayer (1982), "EM algorithms for ML factor analysis"; Tipping and Bishop
        (1999), "Probabilistic principal component analysis".
        """
        rows = flat_rows(xs, self.event_shape)
        w = jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32)
        w = w / jnp.sum(w)
        means, covariances = jax.vmap(normal_moments)(qs)
        spread = jnp.einsum("n,nij->ij", w, covariances)
        x_mean, z_mean = w @ rows, w @ means
        x, z = rows - x_mean[None], means - z_mean[None]
        second = jnp.einsum("n,ni,nj->ij", w, z, z) + spread
        cross = jnp.einsum("n,ne,ni->ei", w, x, z)
        weight = jax.scipy.linalg.solve(second, cross.T, assume_a="pos").T
        noise = w @ (x - z @ weight.T) ** 2 + jnp.sum((weight @ spread) * weight, axis=1)
        _, variance = weighted_moments(rows, weights)
        if self.fixed_variance is None and self.log_variance[...].ndim == 0:
            noise, variance = (jnp.full_like(v, jnp.mean(v)) for v in (noise, variance))
        noise = jnp.maximum(noise, noise_floor(variance))
        new = self.with_decoder(weight, x_mean - weight @ z_mean, noise)
        return new.with_optimal_encoder()

    def initialized(
        self,
        key: PRNGKey,
        xs: Float[AnyArray, "N *event"],
        weights: Float[AnyArray, "N"] | None = None,
    ) -> Self:
        """Return the model at the scale of the data, see `LinearModel.initialized`, with its optimal encoder."""
        return super().initialized(key, xs, weights).with_optimal_encoder()

    @full_precision
    def with_optimal_encoder(self) -> Self:
        """Return the same p(x, z) with the q(z|x) of the highest ELBO: exact means, and variances 1 / M_dd."""
        precision, tril = self._precision(), self._precision_tril()
        new = jax.tree.map(lambda leaf: leaf, self)
        scaled = self.weight[...] / self.noise[:, None]
        new.encoder.weight[...] = cho_solve((tril, True), scaled.T)
        new.encoder.offset[...] = self.offset[...]
        new.encoder.log_scale[...] = -0.5 * jnp.log(jnp.diag(precision))
        return new

    @full_precision
    def principal(self) -> Self:
        """Return the same p(x) with latents rotated to principal axes, and the optimal encoder.

        The columns of `Psi^-1/2 W` become orthogonal, the longest first. Then p(z|x) has a diagonal
        covariance, so the encoder is exact: the ELBO is log p(x).
        """
        scaled = self.weight[...] / jnp.sqrt(self.noise)[:, None]
        _, _, rotation = jnp.linalg.svd(scaled, full_matrices=True)
        new = self.with_decoder(self.weight[...] @ rotation.T, self.offset[...], self.noise)
        return new.with_optimal_encoder()

    def _precision(self) -> Float[Array, "D D"]:
        """M = I + W' Psi^-1 W."""
        scaled = self.weight[...] / jnp.sqrt(self.noise)[:, None]
        return jnp.eye(self.latent_dim) + scaled.T @ scaled

    def _precision_tril(self) -> Float[Array, "D D"]:
        return jnp.linalg.cholesky(self._precision())

    def _solved(self, x: Array, tril: Array) -> tuple[Float[Array, "D"], Float[Array, "E"]]:
        """The mean m of p(z|x), and the residual x - W m - mu."""
        residual = flat(x, self.event_shape) - self.offset[...]
        mean = cho_solve((tril, True), (residual / self.noise) @ self.weight[...])
        return mean, residual - self.weight[...] @ mean


def normal_moments(q: Distribution) -> tuple[Float[Array, "D"], Float[Array, "D D"]]:
    """Return the mean and covariance of a normal distribution over one latent.

    Raises:
        InputError: q is not normal.
    """
    if isinstance(q, dist.MultivariateNormal):
        tril = jnp.asarray(q.scale_tril)
        return jnp.asarray(q.loc), tril @ tril.T
    if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
        return jnp.asarray(q.mean), jnp.diag(jnp.asarray(q.variance))
    raise InputError(f"q: expected a normal distribution, got {type(q).__name__}")


def ppca(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    variance: float | None = None,
) -> LinearGaussian:
    """Return probabilistic PCA, the linear VAE, with one noise variance for all values of x.

    `p(z) = N(0, I)`, `p(x|z) = N(W z + mu, variance I)`, `q(z|x) = N(V (x - c), diag(s^2))`; this q
    contains the exact posterior at the optimum. The model has `exact_posterior`, `log_evidence`, and a
    closed-form `m_step`.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D.
        variance: variance of the noise; learned if None.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> model = ppca(jax.random.key(0), (2, 2), latent_dim=1)
    >>> model.log_evidence(jnp.zeros((2, 2))).shape
    ()

    Source: Tipping and Bishop (1999), "Probabilistic principal component analysis"; Lucas et al.
    (2019), "Don't blame the ELBO! A linear VAE perspective on posterior collapse", for q.
    """
    return LinearGaussian(key, event_shape, latent_dim=latent_dim, variance=variance)


def factor_analysis(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    variance: float | None = None,
) -> LinearGaussian:
    """Return factor analysis, with a noise variance for each value of x.

    It is `ppca` with `p(x|z) = N(W z + mu, diag(noise))`.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D.
        variance: variance of the noise of every value; learned if None. If given, the model is `ppca`.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> factor_analysis(jax.random.key(0), (3,), latent_dim=1).noise.shape
    (3,)

    Source: Rubin and Thayer (1982), "EM algorithms for ML factor analysis".
    """
    return LinearGaussian(
        key, event_shape, latent_dim=latent_dim, noise_per_value=True, variance=variance
    )


def fit_ppca(
    xs: Float[AnyArray, "N *event"], latent_dim: int, *, variance: float | None = None
) -> LinearGaussian:
    """Return the `ppca` of maximum likelihood, computed in closed form, with the exact encoder.

    With the eigenvalues l and eigenvectors U of the covariance (1/N) of the data:
    `variance = mean of the E - D smallest l`, `W = U (L - variance I)^(1/2)`,
    `V = M^-1 W'`, `s^2 = variance diag(M^-1)`, `M = W'W + variance I`. Under a fixed variance, the
    column of a latent whose eigenvalue does not exceed it is zero: the latent has collapsed.

    Args:
        xs: examples.
        latent_dim: D, at most E; below E if the variance is fitted.
        variance: variance of the noise; fitted if None.

    Raises:
        InputError: D is out of its range, or the examples lie in a subspace of D dimensions.

    >>> xs = jax.random.normal(jax.random.key(0), (50, 3))
    >>> model = fit_ppca(xs, 1)
    >>> bool(jnp.allclose(model.exact_posterior(xs[0]).mean, model.posterior(xs[0]).mean, atol=1e-5))
    True

    Source: Tipping and Bishop (1999), "Probabilistic principal component analysis"; Lucas et al.
    (2019), "Don't blame the ELBO! A linear VAE perspective on posterior collapse".
    """
    require_positive(latent_dim=latent_dim)
    variance = require_variance(variance)
    stored = np.asarray(xs)
    if stored.ndim < 2 or len(stored) == 0:
        raise InputError(f"xs: expected [N, *event] with N >= 1, got shape {stored.shape}")
    rows = stored.reshape(len(stored), -1).astype(np.float64)
    size = rows.shape[1]
    if latent_dim > size - (variance is None):
        raise InputError(
            f"latent_dim: expected at most {size - (variance is None)} for examples of {size} "
            f"values, got {latent_dim}"
        )
    mean = rows.mean(0)
    eigenvalues, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    noise = eigenvalues[latent_dim:].mean() if variance is None else variance
    if noise <= 1e-12 * eigenvalues[0]:
        raise InputError(
            f"latent_dim: expected fewer than {latent_dim}, because the examples lie in a subspace "
            "of that many dimensions and leave no noise to fit; or fix the variance"
        )
    lengths = np.sqrt(np.maximum(eigenvalues[:latent_dim] - noise, 0))
    model = ppca(jax.random.key(0), stored.shape[1:], latent_dim=latent_dim, variance=variance)
    parts = (vectors[:, :latent_dim] * lengths, mean, np.full(size, noise))
    return model.with_decoder(*(jnp.asarray(p, jnp.float32) for p in parts)).with_optimal_encoder()
