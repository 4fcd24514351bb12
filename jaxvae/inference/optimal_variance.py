"""The optimal shared variance of a Gaussian likelihood, in closed form."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.batching import map_examples
from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import require_event, sample
from jaxvae.models.likelihoods import Gaussian
from jaxvae.models.likelihoods.base import VARIANCE_FLOOR
from jaxvae.types import InputError, Model, PRNGKey

M = TypeVar("M", bound=Model)

_SMALLEST = 1e-12


def optimal_variance(
    key: PRNGKey,
    model: M,
    xs: Float[Array, "N *event"],
    *,
    num_samples: int = 1,
    batch_size: int = 500,
) -> M:
    """Return the model with the variance of its `Gaussian` output that maximises the ELBO of a data set.

    `variance = mean over examples, samples and values of (x - mean(z))^2`, z ~ q(z|x): the only terms
    of the ELBO that depend on the variance are `-n / 2 log(variance) - sum (x - mean)^2 / (2 variance)`,
    and this is where their derivative is 0. All other parameters are unchanged. Alternated with training
    steps, it replaces learning the variance.

    A separate optimum for each example is not offered: inserting `variance(x) = mean over values of
    (x - mean)^2` makes the exponent constant and p(x|z) proportional to `|x - mean|^-n`, whose integral
    over n-dimensional space is infinite. It is not a density, and its bounds cannot be compared with any
    other. `GaussianPerValue` has variances that depend on z alone.

    Args:
        key: one typed key; sample k of example i draws from `fold_in(fold_in(key, i), k)`.
        model: a VAE whose `output` is a `Gaussian`.
        xs: the examples over which the ELBO is averaged.
        num_samples: number of samples of q(z|x) for each example.
        batch_size: examples at a time.

    Returns:
        A copy of the model with the new variance; the given model is not changed.

    Raises:
        InputError: the output is not a `Gaussian`, or a shape or option is invalid.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, likelihood="gaussian")
    >>> model = optimal_variance(jax.random.key(1), model, jnp.full((8, 4), 3.0))
    >>> bool(model.likelihood(jnp.zeros(2)).variance[0] > 4)
    True

    Source: Rybkin, Daniilidis and Levine (2021), "Simple and effective VAE training with calibrated
    decoders".
    Departs from the source: the optimum is for a data set, not for each batch or example.
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    output = getattr(model, "output", None)
    if not isinstance(output, Gaussian):
        raise InputError(
            "model: expected a model whose output is a Gaussian, with one variance for all values, "
            f"got {type(model).__name__} with output {type(output).__name__}"
        )

    def mean_square(key: PRNGKey, x: Array) -> Array:
        q = model.posterior(x)

        def one(k: Array) -> Array:
            p = model.likelihood(sample(q, jax.random.fold_in(key, k)))
            require_event(p, x, "model.likelihood(z)", "x")
            return jnp.mean((x - p.mean) ** 2)

        return jnp.mean(jax.vmap(one)(jnp.arange(num_samples)))

    variance = jnp.mean(map_examples(mean_square, key, xs, batch_size=batch_size))
    return _with_variance(model, variance)


def _with_variance(model: M, variance: Float[Array, ""]) -> M:
    excess = jnp.maximum(variance - VARIANCE_FLOOR, _SMALLEST)
    # The inverse of softplus.
    raw = excess + jnp.log(-jnp.expm1(-excess))
    # A copy: unflattening a pytree makes new modules.
    copy = jax.tree.map(lambda leaf: leaf, model)
    copy.output.raw_variance = nnx.Param(raw)  # pyright: ignore[reportAttributeAccessIssue]
    return copy
