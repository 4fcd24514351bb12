"""Everything here couples the examples of a batch: FactorVAE and its discriminator."""

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
"""One latent [D] -> one logit, of shape [] or [1]."""


class FactorVAE(nnx.Module):
    """A model and a discriminator of its latents, trained as one pytree; the model's own p and q.

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
        """Give a model a fully connected discriminator of its latents.

        Args:
            key: one typed key, for the initial weights.
            vae: any trainable model.
            hidden: widths of the discriminator's hidden layers.
            activation: what follows each of them.

        Raises:
            InputError: the key or a size is not usable.

        Source: Kim and Mnih (2018), "Disentangling by factorising", appendix A.
        Departs from the source: one logit for two, and ReLU; 6 layers of 1000 there.
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
    """FactorVAE: a total correlation that a discriminator estimates, trained in the same step.

    `objective[i] = bound[i] - gamma logit(z[i])` with `z[i] ~ q(z|x[i])`: for the best discriminator
    `logit(z) = log q(z) - sum_d log q(z_d)`, whose mean is the total correlation. The discriminator
    ascends `discriminator_log_likelihood`, which is added as a term of value 0: its gradient reaches
    the discriminator alone, that of the objective all but the discriminator.

    Args:
        keys: one typed key an example.
        model: a `FactorVAE`, or any model with a `discriminator`.
        xs: B >= 4 examples.
        weight: how much each counts for the discriminator, see `discriminator_log_likelihood`; alike
            if None.
        gamma: weight of the total correlation.
        kl: how the rate is computed, "analytic" or "monte_carlo".

    Returns:
        `Terms` of [B], nats.

    Raises:
        InputError: a batch of fewer than 4, weights of examples that are not usable, a model without
            a discriminator, a weight below 0, or keys of another shape.

    >>> import jaxvae as jv
    >>> vae = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> model = FactorVAE.of(jax.random.key(1), vae, hidden=(16,))
    >>> keys = jax.random.split(jax.random.key(2), 4)
    >>> terms = factor_vae(keys, model, jnp.ones((4, 4)), gamma=0.0)
    >>> bool(jnp.all(terms.objective == terms.bound))
    True

    Source: Kim and Mnih (2018), "Disentangling by factorising", algorithm 2.
    Departs from the source: one batch in two halves instead of two batches, and the bound and the
    total correlation are averaged over both; one optimiser, unless `optax.partition` gives the
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
    key, z_held = stream_key(keys[first], OfExample.PERMUTATIONS), jax.lax.stop_gradient(z)
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
    """How well a discriminator tells samples of q(z) from those of the product of its marginals.

    `mean_A log sigmoid(logit(z)) / 2 + mean_B log(1 - sigmoid(logit(z'))) / 2`, where A and B are the
    two halves of the batch and z' has each latent of B permuted by itself over its examples.

    With weights the halves are those of the samples whose weight is above 0, and the mean over A is
    weighted. A permutation has not the marginals of unlike weights: where there are such, each latent
    of z' is drawn from those of B with replacement, by their weights. Weights that are alike are none. The
    sample in place r of those that are there draws from `fold_in(key, r)`, whatever lies between. Of
    fewer than four, where the weights are traced and cannot be refused, a half with none counts 0.

    Args:
        key: one typed key, for the permutations.
        discriminator: [D] -> one logit.
        z: samples of q(z), B >= 4.
        weight: how much each counts; alike if None.

    Returns:
        A scalar, nats: -log 2 at chance, 0 when the two are told apart.

    Raises:
        InputError: the key is not typed, there are fewer than 4 samples, or the weights are not usable.

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
    # The weights of the second half are in what was drawn.
    false = weighted_mean(jax.nn.log_sigmoid(-logits), jnp.where(halves == PRODUCT, 1.0, 0.0))
    return (true + false) / 2


JOINT, PRODUCT, ABSENT = range(3)
"""What a sample is used for: as it is, for its latents one by one, not at all."""


def _first_there(
    z: Float[Array, "B D"], weight: Float[Array, "B"]
) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
    """The samples and their weights, those that are there before those that are not."""
    weight = jnp.asarray(weight, z.dtype)
    order = jnp.argsort(weight <= 0, stable=True)
    return fill_rows(z, weight)[order], weight[order]


def _halves(weight: Float[Array, "B"] | None, size: int) -> Int[Array, "B"]:
    """The use of each sample; of an odd number that are there, the second half has one more."""
    place, count = jnp.arange(size), size if weight is None else jnp.sum(weight > 0)
    return jnp.where(place < count // 2, JOINT, jnp.where(place < count, PRODUCT, ABSENT))


def _product_of_marginals(
    key: PRNGKey,
    z: Float[Array, "B D"],
    weight: Float[Array, "B"] | None,
    halves: Int[Array, "B"],
) -> Float[Array, "B D"]:
    """Samples of the product of the marginals of the second half, in its places."""
    bits = jax.vmap(lambda key: jax.random.bits(key, z.shape[1:], jnp.uint32))(
        fold_each(key, jnp.arange(len(z)))
    )
    # The use in the two highest bits: a permutation within each.
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
    """Places, with replacement, each with a chance in proportion to its weight."""
    reach, uniform = jnp.cumsum(weight), jnp.asarray(bits >> 8, weight.dtype) * 2.0**-24
    drawn = jnp.searchsorted(reach, uniform * reach[-1], side="right")
    last = jnp.sum(halves != ABSENT) - 1  # the product may be rounded up to the whole reach
    return jnp.clip(drawn, 0, last)


def _logits(discriminator: Discriminator, z: Float[Array, "B D"]) -> Float[Array, "B"]:
    return jax.vmap(lambda z: discriminator(z).reshape(()))(z)
