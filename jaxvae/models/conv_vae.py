"""The convolutional VAE for images, whose decoder mirrors its encoder."""

from collections.abc import Sequence
from functools import partial

from flax import nnx

from jaxvae.checks import require_key, require_positive
from jaxvae.models.likelihoods import (
    Likelihood,
    LikelihoodName,
    feature_shape,
    make_likelihood,
    require_event_shape,
)
from jaxvae.models.posteriors import PosteriorName, make_posterior
from jaxvae.models.vae import VAE
from jaxvae.networks import (
    Activation,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    ConvolutionalName,
    Initializer,
)
from jaxvae.networks.convolutional import image_shape, level_sizes
from jaxvae.networks.dense import require_widths
from jaxvae.types import InputError, PRNGKey


def conv_vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    channels: Sequence[int] = (32, 64),
    network: ConvolutionalName = "conv",
    activation: Activation = "relu",
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
    posterior: PosteriorName = "diagonal",
    num_categories: int | None = None,
) -> VAE:
    """Return a VAE with convolutional encoder and decoder, for images of any height and width.

    Each level of the encoder is a 4 x 4 convolution of stride 2, which maps a size n to ceil(n / 2),
    and an activation; a linear layer follows the last level. The decoder has the transposed
    convolutions in reverse, each of which restores exactly the input size of the encoder's level.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, (H, W, C), or (H, W) for grey levels.
        latent_dim: D, the size of z.
        channels: number of channels of each level of the encoder; the decoder has them in reverse.
            With L levels the image must be at least 2^(L - 1) + 1 high and wide.
        network: "conv"; "residual_conv" has a residual block of two 3 x 3 convolutions before each
            activation.
        activation: the nonlinearity.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|z), a name or a module, see `jaxvae.models.likelihoods`.
        posterior: the family of q(z|x), which also sets the prior, see `jaxvae.models.vae`.
        num_categories: C, the number of classes of each categorical latent, for posterior="categorical" only.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range, or the image is too small for the levels.

    >>> import jax, jax.numpy as jnp
    >>> import jaxvae as jv
    >>> model = jv.models.conv_vae(jax.random.key(0), (7, 5, 3), latent_dim=2, channels=(4, 8))
    >>> model.likelihood(jnp.zeros(2)).event_shape
    (7, 5, 3)
    >>> terms = jv.elbo(jax.random.key(1), model, jnp.ones((7, 5, 3)))
    >>> bool(terms.bound < 0)
    True

    Source: Radford et al. (2016), "Unsupervised representation learning with deep convolutional
    generative adversarial networks", for encoders and decoders of strided convolutions. Departs from
    the source: no batch normalisation, which couples examples.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    level_sizes(image_shape(shape)[:2], len(require_widths("channels", channels)))
    output = make_likelihood(likelihood)
    features = feature_shape(output, shape)
    if features[:2] != shape[:2]:
        raise InputError(
            "likelihood: expected one whose features keep height and width, for a convolutional "
            f"encoder, got {features} of {shape}; use jv.models.vae"
        )
    rngs = nnx.Rngs(key)
    options = {"activation": activation, "initializer": initializer, "network": network}
    encoder = partial(ConvolutionalEncoder, **options, rngs=rngs)
    decoder = partial(ConvolutionalDecoder, **options, rngs=rngs)
    family = make_posterior(posterior, latent_dim, num_categories=num_categories, rngs=rngs)
    return VAE(
        encoder(features, channels, family.num_outputs),
        decoder(family.size, channels, (output.num_params, *shape)),
        output,
        latent_dim=latent_dim,
        event_shape=shape,
        family=family,
    )
