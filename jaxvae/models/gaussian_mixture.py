"""The mixture of Gaussians as a latent-variable model; z is the one-hot vector of the component."""

import math
from collections.abc import Sequence
from typing import Literal, Self, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.checks import require_choice, require_key, require_positive
from jaxvae.distributions import OneHotCategorical
from jaxvae.models.kmeans import kmeans
from jaxvae.models.likelihoods import require_event_shape
from jaxvae.models.linear import NOISE_FLOOR, flat, flat_rows, full_precision, weighted_moments
from jaxvae.types import AnyArray, PRNGKey

Covariance: TypeAlias = Literal["full", "diagonal", "spherical"]

EMPTY = 1e-7
"""The weight, as a fraction of the data's, below which a component keeps its mean and covariance."""


class ReshapedNormal(dist.TransformedDistribution):
    """A multivariate normal reshaped to events of any shape."""

    def __init__(self, normal: dist.MultivariateNormal, event_shape: tuple[int, ...]):
        reshape = dist.transforms.ReshapeTransform(event_shape, normal.event_shape)
        super().__init__(normal, [reshape])

    @property
    def mean(self) -> Array:
        """The mean [*event]."""
        return self.base_dist.mean.reshape(self.shape())

    @property
    def variance(self) -> Array:
        """The variance of each value [*event]."""
        return self.base_dist.variance.reshape(self.shape())


class GaussianMixture(nnx.Module):
    """`p(z = e_c) = softmax(logits)_c`, `p(x|z = e_c) = N(means_c, L_c L_c')`, and `q(z|x) = p(z|x)`.

        log p(x) = log sum_c p(e_c) N(x; means_c, L_c L_c')

    z is a one-hot vector [C] of floats. The diagonal of L is `exp(log_scale)`, with `log_scale` [C, E] for full
    and diagonal covariances, [C] for spherical ones; a full L has `lower`, row by row, below its diagonal.
    """

    def __init__(
        self,
        key: PRNGKey,
        event_shape: Sequence[int],
        *,
        num_components: int,
        covariance: Covariance,
    ):
        require_key(key)
        require_positive(num_components=num_components)
        require_choice("covariance", covariance, get_args(Covariance))
        self.event_shape = require_event_shape(event_shape)
        self.num_components, self.covariance = num_components, covariance
        shape = (num_components, math.prod(self.event_shape))
        self.logits = nnx.Param(jnp.zeros(num_components))
        self.means = nnx.Param(jax.random.normal(key, shape))
        self.log_scale = nnx.Param(jnp.zeros(shape[:1] if covariance == "spherical" else shape))
        if covariance == "full":
            self.lower = nnx.Param(jnp.zeros((shape[0], shape[1] * (shape[1] - 1) // 2)))

    def prior(self) -> Distribution:
        """p(z), over one-hot vectors."""
        return OneHotCategorical(self.logits[...][None])

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """q(z|x) = p(z|x)."""
        return self.exact_posterior(x)

    def likelihood(self, z: Float[Array, "C"]) -> Distribution:
        """p(x|z), normal."""
        mean = z @ self.means[...]
        if self.covariance == "full":
            tril = jnp.tensordot(z, self._trils(), axes=1)
            return ReshapedNormal(dist.MultivariateNormal(mean, scale_tril=tril), self.event_shape)
        scale = jnp.exp(z @ self._log_scales())
        normal = dist.Normal(mean.reshape(self.event_shape), scale.reshape(self.event_shape))
        return normal.to_event(len(self.event_shape))

    def exact_posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """p(z|x), over one-hot vectors."""
        return OneHotCategorical(self._log_joint(x)[None])

    def log_evidence(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """`log sum_c p(e_c) p(x|e_c)`, nats."""
        return jax.nn.logsumexp(self._log_joint(x))

    def expected_log_likelihood(
        self, q: Distribution, x: Float[Array, "*event"]
    ) -> Float[Array, ""]:
        """`E_q[log p(x|z)]` for q over one-hot vectors, nats."""
        return jnp.asarray(q.mean) @ self._log_likelihoods(x)

    @full_precision
    def m_step(
        self,
        qs: Distribution,
        xs: Float[AnyArray, "N *event"],
        weights: Float[AnyArray, "N"] | None = None,
    ) -> Self:
        """Return the mixture that maximises `sum_i weights_i E_q_i[log p(x_i, z)]`.

        The weights, means and covariances of the components are those of the data under the posteriors.
        The variance of a component in any direction is at least 1e-6 of the mean variance of the data,
        which keeps the likelihood bounded; the maximum under this constraint raises smaller eigenvalues
        of the covariance to that value. A component with less than 1e-7 of the data keeps its mean and
        covariance.

        Args:
            qs: posteriors over one-hot vectors, one per example: a distribution returned by `jax.vmap`.
            xs: the examples.
            weights: weights of the examples; equal if None.
        """
        return self._fitted(jax.vmap(lambda q: q.mean)(qs), xs, weights)

    def initialized(
        self,
        key: PRNGKey,
        xs: Float[AnyArray, "N *event"],
        weights: Float[AnyArray, "N"] | None = None,
    ) -> Self:
        """Return the mixture of the clusters that k-means finds in the examples, see `kmeans`.

        Args:
            key: one typed key.
            xs: examples, at least as many as components.
            weights: weights of the examples; equal if None.

        Raises:
            InputError: the key or the examples are invalid.
        """
        rows = flat_rows(xs, self.event_shape)
        centres, nearest = kmeans(key, rows, self.num_components, weights=weights)
        new = jax.tree.map(lambda leaf: leaf, self)
        new.means[...] = centres
        return new._fitted(jax.nn.one_hot(nearest, self.num_components), xs, weights)

    def _fitted(self, members: Float[Array, "N C"], xs: AnyArray, weights: AnyArray | None) -> Self:
        rows = flat_rows(xs, self.event_shape)
        w = jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32)
        members = members * (w / jnp.sum(w))[:, None]
        shares = jnp.sum(members, axis=0)
        kept = shares > EMPTY
        members = members / jnp.where(kept, shares, 1.0)[None]
        means = jnp.where(kept[:, None], members.T @ rows, self.means[...])
        least = jnp.maximum(NOISE_FLOOR * jnp.mean(weighted_moments(rows, weights)[1]), 1e-30)
        new = jax.tree.map(lambda leaf: leaf, self)
        new.logits[...] = jnp.log(jnp.maximum(shares, 1e-30))
        new.means[...] = means
        if self.covariance == "full":
            trils = jax.vmap(_floored_tril, (None, 1, 0, None))(rows, members, means, least)
            rows_below, columns = jnp.tril_indices(rows.shape[1], -1)
            lower = trils[:, rows_below, columns]
            new.lower[...] = jnp.where(kept[:, None], lower, self.lower[...])
            log_scale = jnp.log(jnp.diagonal(trils, axis1=1, axis2=2))
        else:
            each = jax.vmap(lambda m, c: m @ (rows - c[None]) ** 2, (1, 0))(members, means)
            each = jnp.mean(each, axis=1) if self.covariance == "spherical" else each
            log_scale = 0.5 * jnp.log(jnp.maximum(each, least))
        stays = kept if log_scale.ndim == 1 else kept[:, None]
        new.log_scale[...] = jnp.where(stays, log_scale, self.log_scale[...])
        return new

    def _log_joint(self, x: Array) -> Float[Array, "C"]:
        return jax.nn.log_softmax(self.logits[...]) + self._log_likelihoods(x)

    @full_precision
    def _log_likelihoods(self, x: Array) -> Float[Array, "C"]:
        residuals = flat(x, self.event_shape)[None] - self.means[...]
        log_scales = self._log_scales()
        if self.covariance == "full":
            # The factors are inverted once for all examples: a triangular solve for each example would
            # gather examples that lie on several devices.
            identity = jnp.eye(residuals.shape[1])
            inverses = jax.vmap(lambda tril: solve_triangular(tril, identity, lower=True))(
                self._trils()
            )
            standard = jax.vmap(jnp.dot)(inverses, residuals)
        else:
            standard = residuals * jnp.exp(-log_scales)
        squares = jnp.sum(standard**2, axis=1) + residuals.shape[1] * jnp.log(2 * jnp.pi)
        return -0.5 * squares - jnp.sum(log_scales, axis=1)

    def _log_scales(self) -> Float[Array, "C E"]:
        """The logarithms of the diagonals of L."""
        log_scale = self.log_scale[...]
        log_scale = log_scale[:, None] if log_scale.ndim == 1 else log_scale
        return jnp.broadcast_to(log_scale, self.means[...].shape)

    def _trils(self) -> Float[Array, "C E E"]:
        rows, columns = jnp.tril_indices(self.means[...].shape[1], -1)
        diagonals = jax.vmap(jnp.diag)(jnp.exp(self._log_scales()))
        return diagonals.at[:, rows, columns].set(self.lower[...])


def _floored_tril(rows: Array, members: Array, mean: Array, least: Array) -> Float[Array, "E E"]:
    """The Cholesky factor of the covariance of one component, with eigenvalues of at least `least`."""
    residuals = rows - mean[None]
    covariance = (members[:, None] * residuals).T @ residuals
    eigenvalues, vectors = jnp.linalg.eigh(covariance)
    scaled = vectors * jnp.sqrt(jnp.maximum(eigenvalues, least))[None]
    # R of the QR factorisation of the transposed root is the Cholesky factor, without squaring errors.
    r = jnp.linalg.qr(scaled.T, mode="r")
    return (r * jnp.where(jnp.diag(r) < 0, -1.0, 1.0)[:, None]).T


def gaussian_mixture(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    num_components: int = 10,
    covariance: Covariance = "full",
) -> GaussianMixture:
    """Return a mixture of Gaussians; z is the one-hot vector of the component.

    Its posterior is exact, so that `jv.elbo(..., gradient="enumerate")` equals log p(x) in value and
    gradient; `jaxvae.inference.em` fits it with closed-form steps. Start from `model.initialized(key, xs)`.

    Args:
        key: one typed key, for the initial means, drawn from N(0, I).
        event_shape: shape of one example, without a batch axis.
        num_components: C.
        covariance: the covariance of each component: "full", "diagonal" or "spherical".

    Returns:
        A model with `exact_posterior`, `log_evidence` and `m_step`.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> model = gaussian_mixture(jax.random.key(0), (2,), num_components=3)
    >>> model.prior().event_shape, model.likelihood(jnp.array([0.0, 1.0, 0.0])).event_shape
    ((3,), (2,))

    Source: Dempster, Laird and Rubin (1977), "Maximum likelihood from incomplete data via the EM
    algorithm".
    """
    return GaussianMixture(key, event_shape, num_components=num_components, covariance=covariance)
