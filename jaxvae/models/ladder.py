"""The ladder: a hierarchy whose posterior comes down the generative model, corrected by the data."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.distributions import Chain
from jaxvae.models.hierarchical import GaussianLayer, Parts, TopDown
from jaxvae.models.likelihoods import Likelihood, LikelihoodName
from jaxvae.networks import MLP, Activation, Initializer, activation_function, linear
from jaxvae.types import InputError, PRNGKey


class Corrected(NamedTuple):
    """The generative conditional times a Gaussian likelihood of the layer: q(h_l|h_(l+1), x).

    `N(mean, variance)` with `1 / variance = 1 / variance_p + 1 / variance_x` and
    `mean / variance = mean_p / variance_p + mean_x / variance_x`, where p is `generator(h_(l+1))` and x
    what the bottom-up pass says.
    """

    generator: Callable[..., Any]
    from_x: Any

    def __call__(self, *above: Array) -> dist.Distribution:
        """The posterior of one layer given those above it."""
        return product(self.generator(*above), self.from_x)


def product(a: dist.Distribution, b: dist.Distribution) -> dist.Distribution:
    """The normalised product of two diagonal normals: precisions add, means are weighted by them."""
    total = a.variance + b.variance
    mean = (a.mean * b.variance + b.mean * a.variance) / total
    # Standard deviations as a product of square roots: no square of a tiny variance.
    scale = jnp.sqrt(a.variance / total) * jnp.sqrt(b.variance)
    return dist.Normal(mean, scale).to_event(1)


class Stage(nnx.Module):
    """Part of the deterministic pass upwards: hidden layers, and what they say of one layer of latents.

    Args:
        in_features: size of the input.
        hidden: widths of the hidden layers, each followed by the activation.
        latent_dim: D, of the layer that `head` speaks of.
        activation: what follows each hidden layer.
        initializer: how the initial weights are drawn.
        rngs: where they come from.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        latent_dim: int,
        *,
        activation: Activation,
        initializer: Initializer,
        rngs: nnx.Rngs,
    ):
        layer = partial(linear, initializer=initializer, rngs=rngs)
        sizes = (in_features, *hidden)
        self.layers = nnx.List(layer(*pair) for pair in itertools.pairwise(sizes))
        self.head = GaussianLayer(layer(sizes[-1], 2 * latent_dim), latent_dim)
        self.activation, self.in_features = activation_function(activation), in_features

    def __call__(self, h: Float[Array, "..."]) -> tuple[Array, dist.Distribution]:
        """The features for the next stage, and a normal over this stage's layer.

        Raises:
            InputError: `h` is not of `in_features` values, as when x has a batch axis.
        """
        if h.size != self.in_features:
            raise InputError(
                f"x: expected one example of {self.in_features} values, got shape {h.shape}; "
                "jax.vmap the call over a batch axis"
            )
        h = h.reshape(-1)
        for layer in self.layers:
            h = self.activation(layer(h))
        return h, self.head(h)


class Ladder(TopDown):
    """A hierarchy with `q(h_l|h_(l+1), x)` proportional to `p(h_l|h_(l+1)) N(h_l; mean(x), variance(x))`.

    Prior and posterior are both drawn from the top down and share the generative conditionals, which
    the model holds once.

    Args:
        stages: of the deterministic pass, from x upwards: h -> (features, normal over the layer).
        generators: p(h1|h2), p(h2|h3), ..: h_(l+1) -> normal over h_l.
        decoder: h1 -> the P numbers for each value of x that `output` takes.
        output: the likelihood, [P, *event] -> p(x|h1).
        layer_dims: sizes of h1, h2, ..., as they stand side by side in the latent.
        event_shape: shape of one example.
    """

    def __init__(
        self,
        stages: Sequence[Callable[[Array], tuple[Array, dist.Distribution]]],
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
        self.stages = nnx.List(stages)

    def posterior(self, x: Float[Array, "*event"]) -> Chain:
        """q(h1, .., h_L|x), drawn from the top down."""
        h, from_x = self.output.features(x), []
        for stage in self.stages:
            h, says = stage(h)
            from_x.append(says)
        *lower, top = from_x
        return self.downwards(top, tuple(map(Corrected, self.generators, lower)))


def ladder(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    layer_dims: Sequence[int] = (100, 50),
    hidden: Sequence[int] = (200, 200),
    upper_hidden: Sequence[int] = (100, 100),
    activation: Activation = "tanh",
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
) -> Ladder:
    """Two or more layers of Gaussian latents, inferred from the top down with the generative weights.

    `q(h_L|x) = N(mean_L(x), variance_L(x))` and, for the layers below it, `q(h_l|h_(l+1), x)` is the
    normalised product of p(h_l|h_(l+1)) and N(mean_l(x), variance_l(x)): what the generative model
    expects, corrected by what x says, in proportion to their precisions. The means and variances
    come from one deterministic pass upwards.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        layer_dims: sizes of h1 (next to x), h2, ..; the latent has their sum.
        hidden: widths of the hidden layers between x and h1, mirrored from h1 to x.
        upper_hidden: the same between each two layers, upwards from the features of the one below.
        activation: what follows each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: what x is made of, see `jaxvae.models.likelihoods`: a name or a module.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> model = ladder(jax.random.key(0), (8, 8), layer_dims=(3, 2), hidden=(5,))
    >>> model.posterior(jnp.ones((8, 8))).event_shape
    (5,)

    Source: Soenderby et al. (2016), "Ladder variational autoencoders".
    Departs from the source: no batch normalisation, which couples examples; its warm-up of the KL is
    `make_step(schedules={"beta": linear_warmup(...)})`.
    """
    parts = Parts(key, event_shape, layer_dims, hidden, upper_hidden, likelihood)
    options: dict[str, Any] = {
        "activation": activation,
        "initializer": initializer,
        "rngs": parts.rngs,
    }
    stages, width = [], parts.num_features
    for widths, size in zip(
        (parts.hidden, *(parts.upper_hidden for _ in parts.dims[1:])), parts.dims, strict=True
    ):
        stages.append(Stage(width, widths, size, **options))
        width = (width, *widths)[-1]
    return Ladder(stages, *parts.top_down(partial(MLP, **options)), **parts.shapes)
