"""The ladder VAE: a hierarchy with a top-down posterior, the generative conditionals corrected by the data."""

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
    """q(h_l|h_(l+1), x), the generative conditional times a Gaussian likelihood of the layer.

    `N(mean, variance)` with `1 / variance = 1 / variance_p + 1 / variance_x` and
    `mean / variance = mean_p / variance_p + mean_x / variance_x`, where the subscript p refers to
    `generator(h_(l+1))` and x to the normal of the bottom-up pass.
    """

    generator: Callable[..., Any]
    from_x: Any

    def __call__(self, *above: Array) -> dist.Distribution:
        """Return the posterior of one layer given the layers above it."""
        return product(self.generator(*above), self.from_x)


def product(a: dist.Distribution, b: dist.Distribution) -> dist.Distribution:
    """Return the normalised product of two diagonal normals: precisions add, and weight the means."""
    total = a.variance + b.variance
    mean = (a.mean * b.variance + b.mean * a.variance) / total
    # The standard deviation as a product of square roots, so that tiny variances do not underflow in a product.
    scale = jnp.sqrt(a.variance / total) * jnp.sqrt(b.variance)
    return dist.Normal(mean, scale).to_event(1)


class Stage(nnx.Module):
    """A stage of the deterministic bottom-up pass: hidden layers, and a normal over one layer of latents.

    Args:
        in_features: size of the input.
        hidden: widths of the hidden layers, each followed by the activation.
        latent_dim: D, the size of the layer of latents.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn.
        rngs: source of the initial weights.
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
        """Return the features for the next stage, and a normal over this stage's layer.

        Raises:
            InputError: `h` does not have `in_features` values, as when x has a batch axis.
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

    Prior and posterior are both drawn top-down and share the generative conditionals, of which the
    model has one copy.

    Args:
        stages: stages of the deterministic pass, from x upwards: h -> (features, normal over the layer).
        generators: p(h1|h2), p(h2|h3), ..: h_(l+1) -> normal over h_l.
        decoder: h1 -> P parameters for each value of x, the input of `output`.
        output: the likelihood, [P, *event] -> p(x|h1).
        layer_dims: sizes of h1, h2, ..., in their order in the latent.
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
    """Return a model with two or more layers of Gaussian latents, inferred top-down with the generative weights.

    `q(h_L|x) = N(mean_L(x), variance_L(x))` and, for the layers below it, `q(h_l|h_(l+1), x)` is the
    normalised product of p(h_l|h_(l+1)) and N(mean_l(x), variance_l(x)): the prediction of the
    generative model combined with the evidence of x, weighted by their precisions. The means and
    variances come from one deterministic bottom-up pass.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        layer_dims: sizes of h1 (next to x), h2, ..; the latent has their sum.
        hidden: widths of the hidden layers from x to h1, mirrored from h1 to x.
        upper_hidden: widths of the hidden layers between neighbouring layers of latents, likewise; upwards
            they start from the features of the layer below.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|h1), a name or a module, see `jaxvae.models.likelihoods`.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> model = ladder(jax.random.key(0), (8, 8), layer_dims=(3, 2), hidden=(5,))
    >>> model.posterior(jnp.ones((8, 8))).event_shape
    (5,)

    Source: Soenderby et al. (2016), "Ladder variational autoencoders".
    Departs from the source: no batch normalisation, which couples examples. The source's warm-up of the
    KL is available as `make_step(schedules={"beta": linear_warmup(...)})`.
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
