"""FactorVAE and its discriminator, which couple the examples of a batch."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, UInt
from numpyro.distributions import Distribution

from jaxvae.batching import fill_rows
from jaxvae.checks import require_key, require_weight
from jaxvae.coupled.terms import (
    draw_each,
    elbo_of,
    latents,
    require_rows,
    weighted_mean,
)
from jaxvae.keys import OfExample, fold_each, stream_key
from jaxvae.networks import MLP, Activation
from jaxvae.objectives import KL
from jaxvae.types import InputError, Model, PRNGKey, Scalar, Terms

Discriminator = Callable[[Array], Array]
"""A discriminator: one latent [D] -> one logit, of shape [] or [1]."""


class FactorVAE(nnx.Module):
    """A model and a discriminator of its latents, trained as one pytree; p and q are those of the model.

    Args:
        vae: any trainable model.
        discriminator: [D] -> the logit that z comes from q(z) and not from the product of its
            marginals.

    >>> import jaxvae as jv
    >>> vae = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> model = FactorVAE.of(jax.random.key(1), vae, hidden=(16,))
    >>> model.discriminator(jnp.zeros(2)).shape
    (1,)
    """

    def __init__(self, vae: Model, discriminator: Discriminator):
        self.vae, self.discriminator = vae, discriminator

    @classmethod
    def of(
        cls,
        key: PRNGKey,
        vae: Model,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        activation: Activation = "relu",
    ) -> "FactorVAE":
        """Return a `FactorVAE` of the model with a fully connected discriminator of its latents.

        Args:
            key: one typed key, for the initial weights.
            vae: any trainable model.
            hidden: widths of the discriminator's hidden layers.
            activation: the activation after each hidden layer.

        Raises:
            InputError: the key or a size is invalid.

        Source: Kim and Mnih (2018), "Disentangling by factorising", appendix A.
        Departs from the source: one logit instead of two, and ReLU; the source has 6 layers of 1000.
        """
        require_key(key)
        size = math.prod(vae.prior().event_shape)
        return cls(vae, MLP(size, hidden, 1, activation=activation, rngs=nnx.Rngs(key)))

    def prior(self) -> Distribution:
        """p(z) of the model."""
        return self.vae.prior()

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """q(z|x) of the model."""
        return self.vae.posterior(x)

    def likelihood(self, z: Float[Array, "D"]) -> Distribution:
        """p(x|z) of the model."""
        return self.vae.likelihood(z)


def factor_vae(
    keys: Key[Array, "B"],
    model: FactorVAE,
    xs: Float[Array, "B *event"],
    *,
    weight: Float[Array, "B"] | None = None,
    gamma: Scalar,
    kl: KL = "analytic",
) -> Terms:
    """The FactorVAE objective, with the total correlation estimated by a discriminator trained in the same step.

    `objective[i] = bound[i] - gamma logit(z[i])` with `z[i] ~ q(z|x[i])`: for the optimal discriminator
    `logit(z) = log q(z) - sum_d log q(z_d)`, whose mean is the total correlation. The discriminator
    ascends `discriminator_log_likelihood`, which is added as a term of value 0. The gradient of this
    term reaches the discriminator only, that of the other terms everything except the discriminator.

    Args:
        keys: typed keys, one per example.
        model: a `FactorVAE`, or any model with a `discriminator`.
        xs: B >= 4 examples.
        weight: weights of the examples for the discriminator, see `discriminator_log_likelihood`; equal
            if None.
        gamma: weight of the total correlation.
        kl: how the rate is computed, "analytic" or "monte_carlo".

    Returns:
        `Terms` of [B], nats.

    Raises:
        InputError: a batch of fewer than 4, invalid weights of examples, a model without a discriminator,
            a gamma below 0, or keys of another shape.

    >>> import jaxvae as jv
    >>> vae = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> model = FactorVAE.of(jax.random.key(1), vae, hidden=(16,))
    >>> keys = jax.random.split(jax.random.key(2), 4)
    >>> terms = factor_vae(keys, model, jnp.ones((4, 4)), gamma=0.0)
    >>> bool(jnp.all(terms.objective == terms.bound))
    True

    Source: Kim and Mnih (2018), "Disentangling by factorising", algorithm 2.
    Departs from the source: one batch in two halves instead of two batches, with the bound and the
    total correlation averaged over both halves; one optimiser, unless `optax.partition` gives the
    discriminator its own.
    """
    require_weight(gamma=gamma)
    if not callable(getattr(model, "discriminator", None)):
        raise InputError(
            f"model: expected one with a discriminator, got {type(model).__name__}; wrap it with "
            "jaxvae.coupled.FactorVAE.of(key, model)"
        )
    s = draw_each(keys, model, xs, weight, at_least=4)
    terms, z = elbo_of(s, kl), latents(s)
    log_ratio = _logits(jax.lax.stop_gradient(model.discriminator), z)
    first = 0 if weight is None else jnp.argmax(jnp.asarray(weight) > 0)
    of_each = jax.vmap(lambda key: stream_key(key, OfExample.PERMUTATIONS))(keys)
    key, z_held = of_each[first], jax.lax.stop_gradient(z)
    training = discriminator_log_likelihood(key, model.discriminator, z_held, weight=weight)
    training -= jax.lax.stop_gradient(training)
    return terms._replace(objective=terms.bound - gamma * log_ratio + training)


def discriminator_log_likelihood(
    key: PRNGKey,
    discriminator: Discriminator,
    z: Float[Array, "B D"],
    *,
    weight: Float[Array, "B"] | None = None,
) -> Float[Array, ""]:
    """The log-likelihood of a discriminator between samples of q(z) and of the product of its marginals.

    `mean_A log sigmoid(logit(z)) / 2 + mean_B log(1 - sigmoid(logit(z'))) / 2`, where A and B are the
    two halves of the batch and z' is B with each latent permuted independently over the examples.

    With weights the halves are those of the samples of positive weight, and the mean over A is
    weighted. A permutation does not preserve the marginals under unequal weights: in that case each
    latent of z' is drawn from the samples of B with replacement, in proportion to their weights. Equal
    weights have no effect. The r-th sample of positive weight draws from `fold_in(key, r)`, whatever
    samples of weight 0 lie in between. If fewer than four samples have positive weight and the weights
    are traced, so that they cannot be refused, an empty half counts 0.

    Args:
        key: one typed key, for the permutations.
        discriminator: [D] -> one logit.
        z: samples of q(z), B >= 4.
        weight: weights of the samples; equal if None.

    Returns:
        A scalar, nats: -log 2 at chance, 0 if the two are separated perfectly.

    Raises:
        InputError: the key is not typed, there are fewer than 4 samples, or the weights are invalid.

    >>> z = jax.random.normal(jax.random.key(0), (8, 2))
    >>> round(float(discriminator_log_likelihood(jax.random.key(1), lambda z: 0 * z[0], z)), 4)
    -0.6931

    Source: Kim and Mnih (2018), "Disentangling by factorising", algorithms 1 and 2.
    """
    require_key(key)
    if z.ndim != 2 or len(z) < 4:
        raise InputError(f"z: expected samples [B, D] with B of at least 4, got shape {z.shape}")
    require_rows(weight, len(z), at_least=4)
    if weight is not None:
        z, weight = _first_there(z, weight)
    halves = _halves(weight, len(z))
    product = _product_of_marginals(key, z, weight, halves)
    counts = jnp.ones(len(z), z.dtype) if weight is None else weight
    logits = _logits(discriminator, jnp.where((halves == JOINT)[:, None], z, product))
    true = weighted_mean(jax.nn.log_sigmoid(logits), jnp.where(halves == JOINT, counts, 0.0))
    # The second half was already drawn in proportion to its weights.
    false = weighted_mean(jax.nn.log_sigmoid(-logits), jnp.where(halves == PRODUCT, 1.0, 0.0))
    return (true + false) / 2


JOINT, PRODUCT, ABSENT = range(3)
"""The use of a sample: as a sample of q(z), for the product of marginals, or not at all."""


def _first_there(
    z: Float[Array, "B D"], weight: Float[Array, "B"]
) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
    """Return the samples and their weights, reordered so that those of positive weight come first."""
    weight = jnp.asarray(weight, z.dtype)
    order = jnp.argsort(weight <= 0, stable=True)
    return fill_rows(z, weight)[order], weight[order]


def _halves(weight: Float[Array, "B"] | None, size: int) -> Int[Array, "B"]:
    """Return the use of each sample; if the number of positive weights is odd, the second half has one more."""
    place, count = jnp.arange(size), size if weight is None else jnp.sum(weight > 0)
    return jnp.where(place < count // 2, JOINT, jnp.where(place < count, PRODUCT, ABSENT))


def _product_of_marginals(
    key: PRNGKey,
    z: Float[Array, "B D"],
    weight: Float[Array, "B"] | None,
    halves: Int[Array, "B"],
) -> Float[Array, "B D"]:
    """Samples of the product of the marginals of the second half, at its positions; ignore all other positions."""
    bits = jax.vmap(lambda key: jax.random.bits(key, z.shape[1:], jnp.uint32))(
        fold_each(key, jnp.arange(len(z)))
    )
    # The use is in the two highest bits, so that sorting permutes within each use.
    chosen = jnp.argsort((jnp.uint32(halves)[:, None] << 30) | (bits >> 2), axis=0)
    if weight is not None:
        second = halves == PRODUCT
        alike = jnp.all((weight == jnp.max(weight, where=second, initial=0.0)) | ~second)
        drawn = _drawn_by_weight(bits, jnp.where(second, weight, 0.0), halves)
        chosen = jnp.where(alike, chosen, drawn)
    return jnp.take_along_axis(z, chosen, axis=0)


def _drawn_by_weight(
    bits: UInt[Array, "B D"], weight: Float[Array, "B"], halves: Int[Array, "B"]
) -> Int[Array, "B D"]:
    """Draw indices with replacement, with probabilities in proportion to the weights."""
    reach, uniform = jnp.cumsum(weight), jnp.asarray(bits >> 8, weight.dtype) * 2.0**-24
    drawn = jnp.searchsorted(reach, uniform * reach[-1], side="right")
    last = jnp.sum(halves != ABSENT) - 1  # uniform * reach[-1] may be rounded up to reach[-1]
    return jnp.clip(drawn, 0, last)


def _logits(discriminator: Discriminator, z: Float[Array, "B D"]) -> Float[Array, "B"]:
    return jax.vmap(lambda z: discriminator(z).reshape(()))(z)
