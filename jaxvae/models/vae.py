"""The variational autoencoder: an encoder, a family of posteriors with its prior, and a decoder."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_key, require_positive
from jaxvae.models.likelihoods import (
    Likelihood,
    LikelihoodName,
    feature_shape,
    make_likelihood,
    require_event_shape,
)
from jaxvae.models.posteriors import Diagonal, Posterior, PosteriorName, make_posterior
from jaxvae.networks import Activation, DenseName, Initializer, dense_network
from jaxvae.types import PRNGKey


class VAE(nnx.Module):
    """A variational autoencoder: p(z), q(z|x) from the encoder's output, p(x|z) from the decoder's output.

    Args:
        encoder: `output.features(x)` of one example -> the input of `family`, [2 D] for the default.
        decoder: z -> P parameters for each value of x, the input of `output`: [P, *event], or any
            shape of that size and order.
        output: the likelihood, [P, *event] -> p(x|z).
        latent_dim: D.
        event_shape: shape of one example.
        family: the family of q(z|x) with its prior; if not given, q(z|x) = N(mean(x), diag variance(x))
            and p(z) = N(0, I).
        prior: `() -> p(z)`, a module if it is learned; the prior of the family if not given.
    """

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        decoder: Callable[[Array], Array],
        output: Likelihood,
        *,
        latent_dim: int,
        event_shape: tuple[int, ...],
        family: Posterior | None = None,
        prior: Callable[[], dist.Distribution] | None = None,
    ):
        self.encoder, self.decoder, self.output = encoder, decoder, output
        self.family = Diagonal(latent_dim) if family is None else family
        self.own_prior = prior
        self.latent_dim, self.event_shape = latent_dim, event_shape

    def prior(self) -> dist.Distribution:
        """p(z): the given prior, or else the prior of the family, N(0, I) for the default family."""
        return self.family.prior() if self.own_prior is None else self.own_prior()

    def posterior(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """q(z|x) = family(encoder(features(x)))."""
        return self.family(self.encoder(self.output.features(x)))

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|z) = output(decoder(z))."""
        params = self.decoder(z).reshape(self.output.num_params, *self.event_shape)
        return self.output(params)


def vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    hidden: Sequence[int] = (256, 256),
    network: DenseName = "mlp",
    activation: Activation | None = None,
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
    posterior: PosteriorName = "diagonal",
    num_categories: int | None = None,
    prior: Callable[[], dist.Distribution] | None = None,
) -> VAE:
    """Return a VAE with fully connected encoder and decoder; the decoder mirrors the encoder's layers.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        network: the type of the hidden layers: "mlp", linear layers each followed by the activation;
            "gated", `(A h + a) * sigmoid(B h + b)`; "residual", `h + W2 act(W1 act(h) + b1) + b2`.
        activation: the nonlinearity, tanh if not given; "gated" has its own and takes none.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|z), a name or a module, see `jaxvae.models.likelihoods`.
        posterior: the family of q(z|x), which also sets the prior. With the prior N(0, I): "diagonal" and
            "full_covariance" normals, and the flows "planar", "iaf" (inverse autoregressive) and
            "spline" over a diagonal normal; with Laplace(0, 1): "laplace"; with the uniform prior:
            "bernoulli" (D bits) and "categorical" (D one-hot vectors, z of D * num_categories).
        num_categories: C, the number of classes of each categorical latent, for posterior="categorical" only.
        prior: `() -> p(z)`, an `nnx.Module` if it is learned, which replaces the prior set by `posterior`;
            see `jaxvae.models.priors`.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax, jax.numpy as jnp
    >>> model = vae(jax.random.key(0), (8, 8), latent_dim=2)
    >>> model.likelihood(jnp.zeros(2)).event_shape
    (8, 8)

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", appendix C; Tomczak and
    Welling (2018), "VAE with a VampPrior", for gated layers; He et al. (2016), "Identity mappings in
    deep residual networks".
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    output = make_likelihood(likelihood)
    features = math.prod(feature_shape(output, shape))
    rngs = nnx.Rngs(key)
    dense = partial(
        dense_network(network), activation=activation, initializer=initializer, rngs=rngs
    )
    family = make_posterior(posterior, latent_dim, num_categories=num_categories, rngs=rngs)
    return VAE(
        dense(features, hidden, family.num_outputs),
        dense(family.size, tuple(reversed(hidden)), output.num_params * math.prod(shape)),
        output,
        latent_dim=latent_dim,
        event_shape=shape,
        family=family,
        prior=prior,
    )
