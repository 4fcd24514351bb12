"""VAEs with autoregressive decoders, p(x|z) by the chain rule, or p(x) alone without latents."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_choice, require_integer, require_key, require_positive
from jaxvae.distributions import Autoregressive, describe
from jaxvae.distributions.autoregressive import Conditionals
from jaxvae.models.likelihoods import (
    Likelihood,
    LikelihoodName,
    feature_shape,
    make_likelihood,
    require_event_shape,
)
from jaxvae.models.posteriors import Diagonal
from jaxvae.models.vae import VAE
from jaxvae.networks import GRU, MLP, Activation, Initializer, MarkovMLP, MaskedMLP
from jaxvae.types import InputError, PRNGKey

DecoderName: TypeAlias = Literal["made", "recurrent", "markov"]


class AutoregressiveVAE(VAE):
    """A VAE whose decoder is an autoregressive network: p(x|z) = prod_k p(x_k|x_<k, z).

    Its arguments are those of `VAE`, except that the decoder is a network of
    `jaxvae.networks.autoregressive`.
    """

    decoder: Conditionals  # pyright: ignore[reportIncompatibleVariableOverride]

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|z), which does not factorise over values."""
        return Autoregressive(self.decoder, self.output, z, self.event_shape)


class NoEncoder(nnx.Module):
    """The encoder of a model without latents, which returns an empty vector for every x."""

    def __call__(self, features: Array) -> Float[Array, "0"]:
        """Return an empty vector."""
        del features
        return jnp.zeros(0)


def autoregressive(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    hidden: Sequence[int] = (256, 256),
    decoder: DecoderName = "made",
    order: int | None = None,
    activation: Activation = "tanh",
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
    num_categories: int | None = None,
) -> AutoregressiveVAE:
    """A VAE with an autoregressive decoder, `p(x|z) = prod_k p(x_k | x_<k, z)` in raster order.

    q(z|x) is a diagonal normal from a fully connected encoder, p(z) = N(0, I). Such a decoder can model
    x without z, and plain training often ends in this posterior collapse: a rate of zero, and a z without
    information on x. See `jaxvae.evaluation.reliance_on_latents`, which measures it and lists remedies.

    With `latent_dim=0` there is no z and no encoder: every objective and evaluation gives a rate of 0
    and log p(x) itself, the baseline that a VAE has to exceed.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the size of z; 0 for p(x) alone.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        decoder: "made", a masked MLP: one pass to score, N passes to sample; "recurrent", a layer of
            gated recurrent units for each width: N small steps for both; "markov", an MLP of the previous
            `order` values and the position: the weakest, which depends on earlier values through z alone.
        order: m, for decoder="markov" only; 1 if not given.
        activation: the activation after each hidden layer of an MLP; recurrent units have their own.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x_k|x_<k, z) given the network's parameters for it, a name or a module, see
            `jaxvae.models.likelihoods`. The decoder's input is the likelihood's features of each value.
        num_categories: C, the number of classes, for likelihood="categorical" only.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range or has no effect; the message names it.

    >>> model = autoregressive(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> bits = (jnp.arange(16)[:, None] // 2 ** jnp.arange(4)[None] % 2).astype(jnp.float32)
    >>> log_p = jax.vmap(model.likelihood(jnp.ones(2)).log_prob)(bits)
    >>> round(float(jnp.exp(log_p).sum()), 5)
    1.0

    Source: Chen et al. (2017), "Variational lossy autoencoder", for the combination; Germain et al.
    (2015), "MADE: masked autoencoder for distribution estimation"; Bowman et al. (2016),
    "Generating sentences from a continuous space", for the recurrent decoder.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    _require_options(latent_dim, decoder, order, activation, math.prod(shape))
    output = make_likelihood(likelihood, num_categories)
    num_features = _features_of_one_value(output, shape)
    rngs = nnx.Rngs(key)
    encoder: NoEncoder | MLP = NoEncoder()
    if latent_dim:
        size = math.prod(feature_shape(output, shape))
        encoder = MLP(
            size, hidden, 2 * latent_dim, activation=activation, initializer=initializer, rngs=rngs
        )
    network = _network(
        decoder,
        math.prod(shape),
        latent_dim,
        _reversed(hidden),
        num_features=num_features,
        num_outputs=output.num_params,
        order=order,
        activation=activation,
        initializer=initializer,
        rngs=rngs,
    )
    return AutoregressiveVAE(
        encoder,
        network,  # pyright: ignore[reportArgumentType]
        output,
        latent_dim=latent_dim,
        event_shape=shape,
        family=Diagonal(latent_dim),
    )


def _network(
    name: DecoderName,
    size: int,
    latent_dim: int,
    hidden: Sequence[int],
    *,
    num_features: int,
    num_outputs: int,
    order: int | None,
    activation: Activation,
    initializer: Initializer,
    rngs: nnx.Rngs,
) -> Conditionals:
    shared = {
        "num_features": num_features,
        "num_outputs": num_outputs,
        "initializer": initializer,
        "rngs": rngs,
    }
    if name == "recurrent":
        return GRU(size, latent_dim, hidden, **shared)
    if name == "markov":
        m = 1 if order is None else order
        return MarkovMLP(size, latent_dim, hidden, order=m, activation=activation, **shared)
    return MaskedMLP(size, latent_dim, hidden, direct=True, activation=activation, **shared)


def _reversed(hidden: Sequence[int]) -> Sequence[int]:
    return tuple(reversed(hidden)) if isinstance(hidden, Sequence) else hidden


def _require_options(
    latent_dim: int, decoder: DecoderName, order: int | None, activation: Activation, size: int
) -> None:
    without = ", which is p(x) without latents"
    require_integer("latent_dim", latent_dim, at_least=0, or_else=without)
    require_choice("decoder", decoder, get_args(DecoderName))
    if decoder == "recurrent" and latent_dim == 0 and activation != "tanh":
        raise InputError(
            f'activation: has no effect with decoder="recurrent" and latent_dim=0, got '
            f"{activation!r}; leave it out"
        )
    if order is None:
        return
    if decoder != "markov":
        raise InputError(
            f'order: has an effect with decoder="markov" alone, got {order!r} with '
            f"decoder={decoder!r}; leave it out"
        )
    require_positive(order=order)
    if order >= max(size, 2):
        raise InputError(
            f"order: expected at most {max(size - 1, 1)}, since there are {size} values in an "
            f'example, got {order}; decoder="made" sees all that come before'
        )


def _features_of_one_value(output: Likelihood, shape: tuple[int, ...]) -> int:
    """Return F, the number of features of one value, and refuse a likelihood of dependent values."""
    whole, one = math.prod(shape), jax.ShapeDtypeStruct((output.num_params, 1), jnp.float32)
    features = math.prod(feature_shape(output, (1,)))
    single = jax.eval_shape(output, one)
    apart = isinstance(single, dist.Independent) and single.base_dist.event_shape == ()
    if not apart or single.event_shape != (1,) or single.batch_shape != ():
        raise InputError(
            "likelihood: expected one of independent values, which can be given one at a time, got "
            f"{type(output).__name__} of {describe(single)} and event shape {single.event_shape}"
        )
    if math.prod(feature_shape(output, shape)) != whole * features:
        raise InputError(
            f"likelihood: expected {features} features for each of {whole} values, got "
            f"{type(output).__name__} with features of shape {feature_shape(output, shape)}"
        )
    return features
