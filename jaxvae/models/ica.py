"""Independent component analysis: Laplace latents with a linear decoder."""

from collections.abc import Sequence
from typing import Literal, Self, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_choice, require_key
from jaxvae.models.linear import LinearModel, flat_rows, noise_floor, weighted_moments
from jaxvae.types import AnyArray, InputError, PRNGKey

ICAPosterior: TypeAlias = Literal["laplace", "normal", "full_covariance"]


class ICA(LinearModel):
    """`p(z) = Laplace(0, 1)^D`, `p(x|z) = N(W z + mu, variance I)`, q(z|x) with the mean V (x - c)."""

    def __init__(
        self,
        key: PRNGKey,
        event_shape: Sequence[int],
        *,
        latent_dim: int,
        variance: float | None,
        posterior: ICAPosterior,
    ):
        require_choice("posterior", posterior, get_args(ICAPosterior))
        super().__init__(key, event_shape, latent_dim=latent_dim, variance=variance)
        self.family = posterior
        if posterior == "full_covariance":
            self.lower = nnx.Param(jnp.zeros(latent_dim * (latent_dim - 1) // 2))

    def prior(self) -> dist.Distribution:
        """p(z), independent Laplace(0, 1) entries."""
        return dist.Laplace(jnp.zeros(self.latent_dim), jnp.ones(self.latent_dim)).to_event(1)

    def posterior(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """q(z|x), whose scale is the same for every x."""
        mean, scale = self.encoder(x)
        if self.family == "full_covariance":
            rows, columns = jnp.tril_indices(self.latent_dim, -1)
            tril = jnp.diag(scale).at[rows, columns].set(self.lower[...])
            return dist.MultivariateNormal(mean, scale_tril=tril)
        family = dist.Laplace if self.family == "laplace" else dist.Normal
        return family(mean, scale).to_event(1)

    def initialized(
        self,
        key: PRNGKey,
        xs: Float[AnyArray, "N *event"],
        weights: Float[AnyArray, "N"] | None = None,
    ) -> Self:
        """Return the model initialised at the principal axes of the data, randomly rotated, which whitens the latents.

        With the largest D eigenvalues l and eigenvectors U of the covariance and a random rotation R,
        `W = U diag(l / 2)^(1/2) R`, since Laplace(0, 1) has variance 2, and V = pinv(W); a learned
        noise variance starts at a tenth of the least of these eigenvalues, below the variance of every source.

        Args:
            key: one typed key.
            xs: examples.
            weights: weights of the examples; equal if None.

        Raises:
            InputError: the key or the examples are invalid, or D is above E.
        """
        require_key(key)
        rows = flat_rows(xs, self.event_shape)
        if self.latent_dim > rows.shape[1]:
            raise InputError(
                f"latent_dim: expected at most {rows.shape[1]}, the size of x, to start from its "
                f"principal axes, got {self.latent_dim}"
            )
        mean, variance = weighted_moments(rows, weights)
        w = jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32)
        centred = (rows - mean[None]) * jnp.sqrt(w / jnp.sum(w))[:, None]
        eigenvalues, vectors = jnp.linalg.eigh(centred.T @ centred)
        rotation = jax.random.orthogonal(key, self.latent_dim)
        eigenvalues = jnp.maximum(eigenvalues, noise_floor(variance))
        lengths = jnp.sqrt(eigenvalues / 2)
        axes = (vectors * lengths[None])[:, -self.latent_dim :] @ rotation
        noise = jnp.full_like(mean, 0.1 * eigenvalues[-self.latent_dim])
        new = self.with_decoder(axes, mean, noise)
        new.encoder.offset[...] = mean
        new.encoder.weight[...] = jnp.linalg.pinv(axes)
        return new


def ica(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    variance: float | None = None,
    posterior: ICAPosterior = "laplace",
) -> ICA:
    """Return noisy independent component analysis, to be fitted by gradient.

    The prior is not invariant to rotation, so W is identified up to the order and the signs of its
    columns. The exact posterior is not available.

    A q of independent entries biases W towards orthogonal columns, also for small noise, since the gap
    of the bound contains `(sum_d log |w_d|^2 - log det W'W) / 2`. So it recovers the mixing matrix of
    whitened data, whose columns are orthogonal; for other data use "full_covariance". Start from
    `model.initialized(key, xs)`.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the number of sources.
        variance: variance of the noise; learned if None.
        posterior: the family of q(z|x): "laplace", whose KL to the prior has a closed form; or "normal"
            or "full_covariance", a normal with one covariance for every x, both with `kl="entropy"` or
            "monte_carlo".

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> ica(jax.random.key(0), (3,), latent_dim=2).posterior(jnp.zeros(3)).event_shape
    (2,)

    Source: Bell and Sejnowski (1995), "An information-maximization approach to blind separation and
    blind deconvolution". Departs from the source: the decoder has noise, and q is variational. Rolinek,
    Zietlow and Martius (2019), "Variational autoencoders pursue PCA directions (by accident)", for
    the bias.
    """
    return ICA(key, event_shape, latent_dim=latent_dim, variance=variance, posterior=posterior)


def amari_index(
    estimate: Float[AnyArray, "E D"], truth: Float[AnyArray, "E D"]
) -> Float[Array, ""]:
    """Return the Amari distance between two mixing matrices, invariant to order, signs and scales of the columns.

    With `P = |pinv(estimate) truth|` [D, D],
    `index = (sum_i (sum_j P_ij / max_j P_ij - 1) + sum_j (sum_i P_ij / max_i P_ij - 1)) / (2 D (D - 1))`:
    0 where P is a scaled permutation, 1 where all its entries are equal.

    Args:
        estimate: the estimated mixing matrix.
        truth: the true mixing matrix, with at least two columns.

    Raises:
        InputError: the matrices differ in shape, or have fewer than two columns.

    >>> mixing = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> round(float(amari_index(mixing[:, ::-1] * jnp.array([[3.0, -1.0]]), mixing)), 6)
    0.0

    Source: Amari, Cichocki and Yang (1996), "A new learning algorithm for blind signal separation".
    Departs from the source: divided by its largest value, 2 D (D - 1).
    """
    estimate, truth = jnp.asarray(estimate, jnp.float32), jnp.asarray(truth, jnp.float32)
    if estimate.shape != truth.shape or truth.ndim != 2 or truth.shape[1] < 2:
        raise InputError(
            "estimate: expected two matrices of one shape [E, D] with D >= 2, "
            f"got {estimate.shape} and {truth.shape}"
        )
    p = jnp.abs(jnp.linalg.pinv(estimate) @ truth)
    rows = jnp.sum(p / jnp.max(p, axis=1, keepdims=True), axis=1) - 1
    columns = jnp.sum(p / jnp.max(p, axis=0, keepdims=True), axis=0) - 1
    return (jnp.sum(rows) + jnp.sum(columns)) / (2 * len(p) * (len(p) - 1))
