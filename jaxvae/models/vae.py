"""The variational autoencoder with a standard normal prior and a diagonal Gaussian posterior."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.models.likelihoods import (
    Likelihood,
    make_likelihood,
    require_event_shape,
    variance_of,
)
from jaxvae.networks import MLP, Activation, Initializer
from jaxvae.types import PRNGKey, require_key, require_positive


class VAE(nnx.Module):
    """p(z) = N(0, I); q(z|x) = N(mean(x), diag variance(x)); p(x|z) from the decoder's output.

    Args:
        encoder: one example -> [2 D], the means and then the raw variances.
        decoder: [D] -> what `output` takes, flattened.
        output: the decoder's output, in event shape -> p(x|z).
        latent_dim: D.
        event_shape: shape of one example.
    """

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        decoder: Callable[[Array], Array],
        output: Callable[[Array], dist.Distribution],
        *,
        latent_dim: int,
        event_shape: tuple[int, ...],
    ):
        self.encoder, self.decoder, self.output = encoder, decoder, output
        self.latent_dim, self.event_shape = latent_dim, event_shape

    def prior(self) -> dist.Distribution:
        """p(z) = N(0, I)."""
        return dist.Normal(jnp.zeros(self.latent_dim), jnp.ones(self.latent_dim)).to_event(1)

    def posterior(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """q(z|x) = N(mean, diag(softplus(raw) + 1e-8)), with `[mean, raw] = encoder(x)`."""
        mean, raw = jnp.split(self.encoder(x), 2)
        return dist.Normal(mean, jnp.sqrt(variance_of(raw))).to_event(1)

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|z) = output(decoder(z))."""
        return self.output(self.decoder(z).reshape(self.event_shape))


def vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    hidden: Sequence[int] = (256, 256),
    activation: Activation = "tanh",
    initializer: Initializer = "lecun_normal",
    likelihood: Likelihood = "bernoulli",
) -> VAE:
    """A VAE with fully connected encoder and decoder, the decoder's layers mirrored.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: what follows each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: what x is made of: "bernoulli" (bits) or "gaussian" (reals, one learned variance).

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> model = vae(jax.random.key(0), (8, 8), latent_dim=2)
    >>> model.likelihood(jnp.zeros(2)).event_shape
    (8, 8)

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", appendix C.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    size = math.prod(shape)
    mlp = partial(MLP, activation=activation, initializer=initializer, rngs=nnx.Rngs(key))
    return VAE(
        mlp(size, hidden, 2 * latent_dim),
        mlp(latent_dim, tuple(reversed(hidden)), size),
        make_likelihood(likelihood),
        latent_dim=latent_dim,
        event_shape=shape,
    )
