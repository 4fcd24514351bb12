"""The conditional VAE: a model of x given a known class y and a continuous latent z."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvae.binding import one_hot, require_class, require_labels
from jaxvae.checks import require_integer, require_key, require_positive
from jaxvae.models.likelihoods import (
    Likelihood,
    LikelihoodName,
    feature_shape,
    make_likelihood,
    require_event_shape,
)
from jaxvae.models.posteriors import Diagonal, Posterior, PosteriorName, make_posterior
from jaxvae.networks import Activation, DenseName, Initializer, dense_network
from jaxvae.types import Label, PRNGKey

__all__ = ["ConditionalVAE", "GivenClass", "conditional_vae", "require_labels"]


class ConditionalVAE(nnx.Module):
    """p(z), q(z|x, y) and p(x|z, y) for a class y; `given(y)` is the plain model with y bound.

    It is a model only once the class is bound. In batches for `jaxvae.training` and `jaxvae.evaluation`
    the class is the entry `label`.

    Args:
        encoder: `[output.features(x), one-hot y]` as one vector -> the input of `family`.
        decoder: `[z, one-hot y]` -> P parameters for each value of x, [P, *event].
        output: the likelihood, [P, *event] -> p(x|z, y).
        num_classes: C.
        latent_dim: D.
        event_shape: shape of one example.
        family: the family of q(z|x, y) with its prior; a diagonal normal with N(0, I) if not given.

    Source: Sohn, Lee and Yan (2015), "Learning structured output representation using deep
    conditional generative models". Departs from the source: the prior p(z) does not depend on y.
    """

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        decoder: Callable[[Array], Array],
        output: Likelihood,
        *,
        num_classes: int,
        latent_dim: int,
        event_shape: tuple[int, ...],
        family: Posterior | None = None,
    ):
        self.encoder, self.decoder, self.output = encoder, decoder, output
        self.family = Diagonal(latent_dim) if family is None else family
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.event_shape = event_shape

    def given(self, y: Label) -> "GivenClass":
        """Return the plain model p(z), q(z|x, y), p(x|z, y) of one class, whose bounds are on log p(x|y).

        Args:
            y: the class, an integer from 0 to C - 1. A traced y outside this range gives NaN; check
                arrays of labels with `require_labels` beforehand.

        Raises:
            InputError: y is not an integer, or not a class.
        """
        return GivenClass(self, require_class(y, self.num_classes))


class GivenClass(NamedTuple):
    """A conditional VAE with its class bound: a plain model and a pytree."""

    model: ConditionalVAE
    y: Int[Array, ""]

    def prior(self) -> dist.Distribution:
        """p(z), the same for every class."""
        return self.model.family.prior()

    def posterior(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """q(z|x, y) = family(encoder([features(x), one-hot y]))."""
        model = self.model
        return model.family(model.encoder(self._with_class(model.output.features(x))))

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|z, y) = output(decoder([z, one-hot y]))."""
        model = self.model
        params = model.decoder(self._with_class(z))
        return model.output(params.reshape(model.output.num_params, *model.event_shape))

    def _with_class(self, values: Array) -> Float[Array, "inputs"]:
        y = one_hot(self.y, self.model.num_classes, values.dtype)
        return jnp.concatenate([values.reshape(-1), y])


def conditional_vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    num_classes: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (256, 256),
    network: DenseName = "mlp",
    activation: Activation | None = None,
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
    posterior: PosteriorName = "diagonal",
    num_categories: int | None = None,
) -> ConditionalVAE:
    """Return a conditional VAE with fully connected encoder and decoder; the decoder mirrors the encoder's layers.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        num_classes: C, at least 2.
        latent_dim: D, the size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        network: the type of the hidden layers, see `jaxvae.models.vae`.
        activation: the nonlinearity, tanh if not given; network="gated" takes none.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|z, y), a name or a module, see `jaxvae.models.likelihoods`.
        posterior: the family of q(z|x, y), which also sets the prior, see `jaxvae.models.vae`.
        num_categories: number of classes of each categorical latent, for posterior="categorical" only.

    Returns:
        A model of x given a class, a pytree; `model.given(y)` is the plain model for class y.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> import jaxvae as jv
    >>> model = jv.models.conditional_vae(
    ...     jax.random.key(0), (8, 8), num_classes=10, latent_dim=2, hidden=(16,)
    ... )
    >>> model.given(3).likelihood(jnp.zeros(2)).event_shape
    (8, 8)
    >>> batch = {"x": jnp.ones((2, 8, 8)), "label": jnp.array([0, 3])}
    >>> jv.evaluation.log_likelihood(jax.random.key(1), model, batch, num_samples=5).estimate.shape
    (2,)

    Source: Sohn, Lee and Yan (2015), "Learning structured output representation using deep
    conditional generative models". Departs from the source: the prior p(z) does not depend on y.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    require_integer("num_classes", num_classes, at_least=2)
    output = make_likelihood(likelihood)
    features = math.prod(feature_shape(output, shape))
    rngs = nnx.Rngs(key)
    dense = partial(
        dense_network(network), activation=activation, initializer=initializer, rngs=rngs
    )
    family = make_posterior(posterior, latent_dim, num_categories=num_categories, rngs=rngs)
    num_params = output.num_params * math.prod(shape)
    return ConditionalVAE(
        dense(features + num_classes, hidden, family.num_outputs),
        dense(family.size + num_classes, tuple(reversed(hidden)), num_params),
        output,
        num_classes=num_classes,
        latent_dim=latent_dim,
        event_shape=shape,
        family=family,
    )
