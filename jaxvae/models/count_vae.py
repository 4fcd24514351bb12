"""A VAE of counts, such as gene counts of single cells, with the log library size as a latent."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.binding import one_hot, require_class
from jaxvae.checks import require_choice, require_key, require_positive
from jaxvae.distributions import NegativeBinomial, PoissonLogRate, ZeroInflated
from jaxvae.models.likelihoods import require_event_shape, variance_of
from jaxvae.networks import MLP, Activation, Initializer
from jaxvae.types import InputError, Label, PRNGKey

CountLikelihood: TypeAlias = Literal[
    "negative_binomial", "poisson", "zero_inflated_negative_binomial"
]
_PARAMS = {"negative_binomial": 1, "poisson": 1, "zero_inflated_negative_binomial": 2}


class CountVAE(nnx.Module):
    """A VAE of counts x [G] with latents `[z, l]` [D + 1]: the state z of a cell and its log library size l.

    `p(z) = N(0, I)`, `p(l) = N(library_mean, library_variance)`, both learned;
    `mean = exp(l) * softmax(decoder(z))`, x ~ NegativeBinomial(mean, dispersion of each gene).
    `q(z, l|x)` is normal with independent entries; the mean of l is `log(1 + sum x)` plus a correction
    by the encoder, whose input is `log(1 + x)`.
    """

    def __init__(
        self,
        encoder: MLP,
        decoder: MLP,
        *,
        likelihood: CountLikelihood,
        latent_dim: int,
        num_genes: int,
    ):
        self.encoder, self.decoder = encoder, decoder
        self.likelihood_name, self.latent_dim = likelihood, latent_dim
        self.library_mean = nnx.Param(jnp.asarray(math.log(num_genes), jnp.float32))
        self.raw_library_variance = nnx.Param(jnp.asarray(math.log(math.expm1(1.0)), jnp.float32))
        if likelihood != "poisson":
            # Initially near a Poisson, so that overdispersion is explained by the latents rather than the noise.
            self.log_inverse_dispersion = nnx.Param(jnp.full(num_genes, 2.0))

    def prior(self) -> dist.Distribution:
        """p(z, l)."""
        return self.prior_given(None)

    def posterior(self, x: Float[Array, "G"]) -> dist.Distribution:
        """q(z, l|x)."""
        return self.posterior_given(None, x)

    def likelihood(self, z: Float[Array, "latent"]) -> dist.Distribution:
        """p(x|z, l)."""
        return self.likelihood_given(None, z)

    def prior_given(self, batch: Array | None) -> dist.Distribution:
        """p(z, l), the same for every batch of the experiment."""
        del batch
        scale = jnp.sqrt(variance_of(self.raw_library_variance[...]))
        mean = jnp.append(jnp.zeros(self.latent_dim), self.library_mean[...])
        return dist.Normal(mean, jnp.append(jnp.ones(self.latent_dim), scale)).to_event(1)

    def posterior_given(self, batch: Array | None, x: Float[Array, "G"]) -> dist.Distribution:
        """q(z, l|x, batch)."""
        mean, raw = jnp.split(self.encoder(_join(jnp.log1p(x), batch)), 2)
        mean = mean.at[-1].add(jnp.log1p(jnp.sum(x)))
        return dist.Normal(mean, jnp.sqrt(variance_of(raw))).to_event(1)

    def likelihood_given(self, batch: Array | None, z: Float[Array, "latent"]) -> dist.Distribution:
        """p(x|z, l, batch)."""
        params = self.decoder(_join(z[:-1], batch)).reshape(_PARAMS[self.likelihood_name], -1)
        log_mean = z[-1] + jax.nn.log_softmax(params[0])
        if self.likelihood_name == "poisson":
            return PoissonLogRate(log_mean).to_event(1)
        counts = NegativeBinomial(log_mean, self.log_inverse_dispersion[...])
        if self.likelihood_name == "negative_binomial":
            return counts.to_event(1)
        return ZeroInflated(counts, params[1]).to_event(1)


class BatchCountVAE(nnx.Module):
    """A `CountVAE` whose encoder and decoder also take the batch of the experiment that x is from."""

    def __init__(self, model: CountVAE, num_classes: int):
        self.model, self.num_classes = model, num_classes

    def given(self, y: Label) -> "GivenBatch":
        """Return the plain model for batch y of the experiment.

        Raises:
            InputError: y is not an integer from 0 to num_classes - 1.
        """
        y = require_class(y, self.num_classes)
        return GivenBatch(self.model, one_hot(y, self.num_classes))


class GivenBatch(NamedTuple):
    """A `CountVAE` with its batch of the experiment bound."""

    model: CountVAE
    batch: Float[Array, "C"]

    def prior(self) -> dist.Distribution:
        """p(z, l)."""
        return self.model.prior_given(self.batch)

    def posterior(self, x: Float[Array, "G"]) -> dist.Distribution:
        """q(z, l|x, batch)."""
        return self.model.posterior_given(self.batch, x)

    def likelihood(self, z: Float[Array, "latent"]) -> dist.Distribution:
        """p(x|z, l, batch)."""
        return self.model.likelihood_given(self.batch, z)


def _join(h: Array, batch: Array | None) -> Array:
    return h if batch is None else jnp.concatenate([h, batch])


def count_vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    initializer: Initializer = "lecun_normal",
    likelihood: CountLikelihood = "negative_binomial",
    num_batches: int | None = None,
) -> CountVAE | BatchCountVAE:
    """Return a VAE of a vector of counts, with the logarithm of their expected total as an additional latent.

    Args:
        key: one typed key, for the initial weights.
        event_shape: (G,), the number of genes.
        latent_dim: D; the latent has D + 1 entries, the last of them the log library size.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: "negative_binomial", with one learned dispersion per gene, "poisson", or
            "zero_inflated_negative_binomial", whose dropout probability is an output of the decoder.
        num_batches: the number of batches of the experiment. If given, the result is a model of counts
            given a batch, see `BatchCountVAE`, so that z need not represent the effects of batches.

    Returns:
        A model, or a model with `given`.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> import jaxvae as jv
    >>> model = count_vae(jax.random.key(0), (5,), latent_dim=2, hidden=(8,))
    >>> x = jnp.array([0.0, 3.0, 1.0, 0.0, 12.0])
    >>> bool(jv.elbo(jax.random.key(1), model, x).bound < 0)
    True

    Source: Lopez et al. (2018), "Deep generative modeling for single-cell transcriptomics" (scVI).
    Departs from the source: prior mean and variance of the log library size are learned, not computed
    from the data; the encoder corrects the observed total instead of having a separate network for it;
    no batch normalisation.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    if len(shape) != 1:
        raise InputError(
            f"event_shape: expected (genes,), one axis, got {shape}; flatten the counts"
        )
    require_choice("likelihood", likelihood, get_args(CountLikelihood))
    if num_batches is not None:
        require_positive(num_batches=num_batches)
    (genes,), extra = shape, num_batches or 0
    rngs = nnx.Rngs(key)
    mlp = partial(MLP, activation=activation, initializer=initializer, rngs=rngs)
    model = CountVAE(
        mlp(genes + extra, hidden, 2 * (latent_dim + 1)),
        mlp(latent_dim + extra, tuple(reversed(hidden)), _PARAMS[likelihood] * genes),
        likelihood=likelihood,
        latent_dim=latent_dim,
        num_genes=genes,
    )
    return model if num_batches is None else BatchCountVAE(model, num_batches)
