"""Hierarchies of latents: p(h_L) .. p(h1|h2) p(x|h1), with the bottom-up posterior q(h1|x) q(h2|h1) .."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import Chain
from jaxvae.models.likelihoods import (
    Likelihood,
    LikelihoodName,
    feature_shape,
    make_likelihood,
    require_event_shape,
)
from jaxvae.models.posteriors import Diagonal
from jaxvae.networks import MLP, Activation, Initializer
from jaxvae.types import InputError, PRNGKey


class GaussianLayer(nnx.Module):
    """A conditional of a chain: `N(mean, diag(softplus(raw) + 1e-8))`, `[mean, raw] = net(h)`.

    Args:
        net: h -> [2 D].
        latent_dim: D.
    """

    def __init__(self, net: Callable[[Array], Array], latent_dim: int):
        self.net, self.family = net, Diagonal(latent_dim)

    def __call__(self, h: Float[Array, "..."], *_: Array) -> dist.Distribution:
        """Return the distribution of one layer given its neighbour h; all other layers are ignored."""
        return self.family(self.net(h))


class TopDown(nnx.Module):
    """The generative half of a hierarchy: p(h_L) = N(0, I), p(h_l|h_(l+1)) and p(x|h1).

    Args:
        generators: p(h1|h2), p(h2|h3), ..: h_(l+1) -> distribution over h_l.
        decoder: h1 -> P parameters for each value of x, the input of `output`.
        output: the likelihood, [P, *event] -> p(x|h1).
        layer_dims: sizes of h1, h2, .., in their order in the latent.
        event_shape: shape of one example.
    """

    def __init__(
        self,
        generators: Sequence[Callable[..., dist.Distribution]],
        decoder: Callable[[Array], Array],
        output: Likelihood,
        *,
        layer_dims: tuple[int, ...],
        event_shape: tuple[int, ...],
    ):
        self.generators, self.decoder, self.output = nnx.List(generators), decoder, output
        self.layer_dims, self.event_shape = layer_dims, event_shape

    def prior(self) -> Chain:
        """p(h1, .., h_L), drawn from the top down."""
        top = Diagonal(self.layer_dims[-1]).prior()
        return self.downwards(top, tuple(self.generators))

    def downwards(
        self, top: dist.Distribution, layers: tuple[Callable[..., dist.Distribution], ...]
    ) -> Chain:
        """Return the chain that draws h_L, h_(L-1), .., h1; the first of `layers` is the conditional of h1."""
        order = tuple(reversed(range(len(self.layer_dims))))
        return Chain(top, layers[::-1], sizes=self.layer_dims, order=order)

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|h1), which depends on no layer above h1."""
        params = self.decoder(z[: self.layer_dims[0]])
        return self.output(params.reshape(self.output.num_params, *self.event_shape))


class Hierarchical(TopDown):
    """A hierarchy with a bottom-up posterior: q(h1|x) q(h2|h1) .. q(h_L|h_(L-1)).

    The latent is one vector z = [h1, .., h_L]; prior and posterior are both chains over it.

    Args:
        encoders: q(h1|features(x)), q(h2|h1), ..: each returns a distribution over its layer.
        generators: p(h1|h2), p(h2|h3), ..: h_(l+1) -> distribution over h_l.
        decoder: h1 -> P parameters for each value of x, the input of `output`.
        output: the likelihood, [P, *event] -> p(x|h1).
        layer_dims: sizes of h1, h2, ...
        event_shape: shape of one example.
    """

    def __init__(
        self,
        encoders: Sequence[Callable[..., dist.Distribution]],
        generators: Sequence[Callable[..., dist.Distribution]],
        decoder: Callable[[Array], Array],
        output: Likelihood,
        *,
        layer_dims: tuple[int, ...],
        event_shape: tuple[int, ...],
    ):
        super().__init__(
            generators, decoder, output, layer_dims=layer_dims, event_shape=event_shape
        )
        self.encoders = nnx.List(encoders)

    def posterior(self, x: Float[Array, "*event"]) -> Chain:
        """q(h1, .., h_L|x), drawn from the bottom up."""
        first, *above = self.encoders
        return Chain(first(self.output.features(x)), above, sizes=self.layer_dims)


def hierarchical(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    layer_dims: Sequence[int] = (100, 50),
    hidden: Sequence[int] = (200, 200),
    upper_hidden: Sequence[int] = (100, 100),
    activation: Activation = "tanh",
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
) -> Hierarchical:
    """Return a model with two or more layers of Gaussian latents, inferred bottom-up, without shared weights.

    `log p(x, z) = log p(x|h1) + log p(h1|h2) + .. + log p(h_L)` and
    `log q(z|x) = log q(h1|x) + log q(h2|h1) + ..`, with `z = [h1, .., h_L]`, every conditional a
    diagonal normal. KL(q || p) has no closed form: train with `kl="monte_carlo"` or `jv.iwae`.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        layer_dims: sizes of h1 (next to x), h2, ..; the latent has their sum.
        hidden: widths of the hidden layers from x to h1, mirrored from h1 to x.
        upper_hidden: widths of the hidden layers between neighbouring layers of latents, likewise.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|h1), a name or a module, see `jaxvae.models.likelihoods`.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax, jax.numpy as jnp
    >>> model = hierarchical(jax.random.key(0), (8, 8), layer_dims=(3, 2), hidden=(5,))
    >>> model.prior().event_shape, model.posterior(jnp.ones((8, 8))).event_shape
    ((5,), (5,))

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", section 3.
    Departs from the source: variances are softplus(raw) + 1e-8; the source has standard deviations exp(raw).
    """
    parts = Parts(key, event_shape, layer_dims, hidden, upper_hidden, likelihood)
    mlp = partial(MLP, activation=activation, initializer=initializer, rngs=parts.rngs)
    encoders = [GaussianLayer(mlp(parts.num_features, hidden, 2 * parts.dims[0]), parts.dims[0])]
    for below, above in itertools.pairwise(parts.dims):
        encoders.append(GaussianLayer(mlp(below, upper_hidden, 2 * above), above))
    return Hierarchical(encoders, *parts.top_down(mlp), **parts.shapes)


class Parts:
    """The checked options and shared parts of hierarchies with Gaussian layers.

    Raises:
        InputError: an argument is out of its range; the message names it.
    """

    def __init__(
        self,
        key: PRNGKey,
        event_shape: Sequence[int],
        layer_dims: Sequence[int],
        hidden: Sequence[int],
        upper_hidden: Sequence[int],
        likelihood: LikelihoodName | Likelihood,
    ):
        require_key(key)
        self.event_shape = require_event_shape(event_shape)
        self.dims = _sizes("layer_dims", layer_dims)
        if len(self.dims) < 2:
            raise InputError(
                f"layer_dims: expected the sizes of two layers or more, got {layer_dims!r}; for one "
                "layer use jaxvae.models.vae"
            )
        self.hidden = _sizes("hidden", hidden)
        self.upper_hidden = _sizes("upper_hidden", upper_hidden)
        self.output = make_likelihood(likelihood)
        self.rngs = nnx.Rngs(key)

    @property
    def num_features(self) -> int:
        """The number of features of x, the input of the encoder."""
        return math.prod(feature_shape(self.output, self.event_shape))

    @property
    def shapes(self) -> dict[str, Any]:
        """The size arguments of every hierarchy."""
        return {"layer_dims": self.dims, "event_shape": self.event_shape}

    def top_down(
        self, mlp: Callable[..., MLP]
    ) -> tuple[list[GaussianLayer], Callable[[Array], Array], Likelihood]:
        """Return p(h1|h2), p(h2|h3), .., the network from h1 to x, and the likelihood."""
        mirrored = self.upper_hidden[::-1]
        generators = [
            GaussianLayer(mlp(above, mirrored, 2 * below), below)
            for below, above in itertools.pairwise(self.dims)
        ]
        numbers = self.output.num_params * math.prod(self.event_shape)
        return generators, mlp(self.dims[0], self.hidden[::-1], numbers), self.output


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(sizes, Sequence):
        raise InputError(f"{name}: expected a sequence of sizes such as (100, 50), got {sizes!r}")
    for size in sizes:
        require_positive(**{name: size})
    return tuple(sizes)
