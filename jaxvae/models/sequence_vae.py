"""A VAE of aligned sequences, in which every column is one of C residues."""

import math
from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_integer, require_key, require_positive
from jaxvae.models.likelihoods import Categorical, require_event_shape
from jaxvae.models.vae import VAE
from jaxvae.networks import MLP, Activation, Initializer, linear
from jaxvae.types import PRNGKey


class SequenceDecoder(nnx.Module):
    """A decoder to the logits of C residues in each of L columns, with a dictionary shared by all columns.

    `logits[c, l] = sum_k profile(z)[l, k] * dictionary[k, c] + bias[c, l]`, with `profile` an MLP. The
    dictionary learns properties that residues share, such as charge or size, once for all columns.

    Args:
        latent_dim: D.
        hidden: widths of the hidden layers, in the order from z to x.
        num_columns: L.
        num_symbols: C.
        dictionary_size: K, the size of the dictionary.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        num_columns: int,
        num_symbols: int,
        *,
        dictionary_size: int,
        activation: Activation,
        initializer: Initializer,
        rngs: nnx.Rngs,
    ):
        require_positive(dictionary_size=dictionary_size)
        self.dictionary_size = dictionary_size
        self.profile = MLP(
            latent_dim,
            hidden,
            num_columns * dictionary_size,
            activation=activation,
            initializer=initializer,
            rngs=rngs,
        )
        self.dictionary = linear(dictionary_size, num_symbols, initializer=initializer, rngs=rngs)
        self.bias = nnx.Param(
            nnx.initializers.zeros_init()(rngs.params(), (num_symbols, num_columns))
        )

    def __call__(self, z: Float[Array, "D"]) -> Float[Array, "C L"]:
        """Return the logits of one sequence."""
        profile = self.profile(z).reshape(-1, self.dictionary_size)
        return self.dictionary(profile).T + self.bias[...]


def sequence_vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    num_symbols: int = 21,
    latent_dim: int = 30,
    hidden: Sequence[int] = (256, 128),
    dictionary_size: int = 40,
    activation: Activation = "relu",
    initializer: Initializer = "glorot_uniform",
) -> VAE:
    """Return a VAE of aligned sequences, with categorical columns that are independent given z.

    `p(z) = N(0, I)`, `q(z|x) = N(mean(x), diag variance(x))` from the one-hot columns, and
    `log p(x|z) = sum_l log softmax(logits(z)[:, l])[x[l]]`.

    A batch may have weights of sequences as `weight`, and unknown residues as zeros of `mask`. To the
    encoder an unknown residue is of class 0, which is the gap in the data of `jaxvae.data.load`.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, (L,) for L columns.
        num_symbols: C, 20 amino acids and the gap by default.
        latent_dim: D, the size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        dictionary_size: K, the size of the shared dictionary, see `SequenceDecoder`.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax, jax.numpy as jnp
    >>> model = sequence_vae(jax.random.key(0), (5,), latent_dim=2, hidden=(8,))
    >>> model.likelihood(jnp.zeros(2)).event_shape
    (5,)

    Source: Riesselman, Ingraham and Marks (2018), "Deep generative models of genetic variation
    capture the effects of mutations".
    Departs from the source: the decoder's weights are point estimates, without a posterior or a
    sparsity prior; there is no temperature; hidden layers are smaller, mirrored, and have the same
    activation.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    require_integer("num_symbols", num_symbols, at_least=2)
    output = Categorical(num_symbols)
    columns = math.prod(shape)
    rngs = nnx.Rngs(key)
    encoder = MLP(
        columns * num_symbols,
        hidden,
        2 * latent_dim,
        activation=activation,
        initializer=initializer,
        rngs=rngs,
    )
    decoder = SequenceDecoder(
        latent_dim,
        tuple(reversed(hidden)),
        columns,
        num_symbols,
        dictionary_size=dictionary_size,
        activation=activation,
        initializer=initializer,
        rngs=rngs,
    )
    return VAE(encoder, decoder, output, latent_dim=latent_dim, event_shape=shape)
