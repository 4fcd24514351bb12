"""M2, the semi-supervised VAE: latents are a class y, often unobserved, and a continuous z."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvae.binding import one_hot, require_class
from jaxvae.checks import require_integer, require_key, require_positive
from jaxvae.distributions import ClassConditional
from jaxvae.models.likelihoods import (
    Likelihood,
    LikelihoodName,
    feature_shape,
    make_likelihood,
    require_event_shape,
    variance_of,
)
from jaxvae.networks import (
    MLP,
    Activation,
    Initializer,
    ProductLayer,
    activation_function,
    linear,
)
from jaxvae.rows import rows
from jaxvae.types import Label, PRNGKey


class ClassMLP(ProductLayer):
    """An MLP of [x, one-hot y], evaluated for all C classes of one x at once.

    The first layer of [x, y] is `x @ x_kernel + y_kernel[y] + bias`: the product with x, the largest
    of the network, is the same for every class and is computed once.

    Args:
        in_features: size of the flattened x.
        num_classes: C.
        hidden: width of each hidden layer; `()` makes the network linear.
        out_features: size of the output for each class.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, as for an MLP of [x, y].
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: Activation,
        initializer: Initializer,
        rngs: nnx.Rngs,
    ):
        width = hidden[0] if hidden else out_features
        first = linear(in_features + num_classes, width, initializer=initializer, rngs=rngs)
        x_kernel, y_kernel = jnp.split(first.kernel[...], [in_features])
        self.x_kernel, self.y_kernel = nnx.Param(x_kernel), nnx.Param(y_kernel)
        self.bias = nnx.Param(jnp.zeros(width) if first.bias is None else first.bias[...])
        after = partial(MLP, activation=activation, initializer=initializer, rngs=rngs)
        self.rest = after(width, hidden[1:], out_features) if hidden else None
        self.activation = activation_function(activation)

    def __call__(self, x: Float[Array, "*event"]) -> Float[Array, "C out_features"]:
        """Return the output for every class."""
        return jax.vmap(self._from_first)(self._of_x(x)[None] + self.y_kernel[...])

    def of_class(
        self, x: Float[Array, "*event"], y: Float[Array, "C"]
    ) -> Float[Array, "out_features"]:
        """Return the output for one class, given as a one-hot vector."""
        return self._from_first(self._of_x(x) + y @ self.y_kernel[...])

    def _of_x(self, x: Array) -> Array:
        return rows(x.reshape(1, -1), self.x_kernel[...], self.precision)[0] + self.bias[...]

    def _from_first(self, h: Array) -> Array:
        return h if self.rest is None else self.rest(self.activation(h))


class SSVAE(nnx.Module):
    """The model M2, `p(y) p(z) p(x|y, z)` with `q(y|x) q(z|x, y)`; the latent is [y, z] with y one-hot.

    `p(y) = 1 / C`, `p(z) = N(0, I)`, `q(y|x) = softmax(classifier(x))`, `q(z|x, y) = N(mean, diag variance)`
    from the encoder of [x, y], `p(x|y, z)` from the decoder of [y, z].

    Its bound for an unlabelled x sums over the classes: `jv.elbo(..., gradient="enumerate")` is

        sum_y q(y|x) (bound of given(y) + log p(y)) + H(q(y|x)).

    Args:
        classifier: `output.features(x)` of one example -> logits [C].
        encoder: features -> [mean, raw] of z for every class [C, 2 D], see `ClassMLP`.
        decoder: [y, z] -> P parameters for each value of x, the input of `output`.
        output: the likelihood, [P, *event] -> p(x|y, z).
        num_classes: C.
        latent_dim: D, the size of z; the latent as a whole has C + D entries.
        event_shape: shape of one example.

    Source: Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep
    generative models", the model M2.
    """

    def __init__(
        self,
        classifier: Callable[[Array], Array],
        encoder: ClassMLP,
        decoder: Callable[[Array], Array],
        output: Likelihood,
        *,
        num_classes: int,
        latent_dim: int,
        event_shape: tuple[int, ...],
    ):
        self.classifier, self.encoder, self.decoder = classifier, encoder, decoder
        self.output, self.event_shape = output, event_shape
        self.num_classes, self.latent_dim = num_classes, latent_dim

    def prior(self) -> dist.Distribution:
        """p(y) p(z): uniform over classes, and N(0, I) for every class."""
        shape = self.num_classes, self.latent_dim
        return ClassConditional(jnp.zeros(self.num_classes), jnp.zeros(shape), jnp.ones(shape))

    def posterior(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """q(y|x) q(z|x, y)."""
        features = self.output.features(x)
        mean, raw = jnp.split(self.encoder(features), 2, axis=-1)
        return ClassConditional(self.classifier(features), mean, jnp.sqrt(variance_of(raw)))

    def likelihood(self, latent: Float[Array, "latent"]) -> dist.Distribution:
        """p(x|y, z) of the latent [y, z], y one-hot."""
        params = self.decoder(latent).reshape(self.output.num_params, *self.event_shape)
        return self.output(params)

    def label_prior(self) -> dist.CategoricalLogits:
        """p(y) = 1 / C."""
        return dist.CategoricalLogits(jnp.zeros(self.num_classes))

    def label_posterior(self, x: Float[Array, "*event"]) -> dist.CategoricalLogits:
        """q(y|x), the classifier."""
        return dist.CategoricalLogits(self.classifier(self.output.features(x)))

    def given(self, y: Label) -> "GivenLabel":
        """Return the plain model p(z) p(x|y, z), q(z|x, y) with the class y bound; its bounds are on log p(x|y).

        Args:
            y: the class, an integer from 0 to C - 1. A traced y outside this range gives NaN.

        Raises:
            InputError: y is not an integer, or not a class.
        """
        return GivenLabel(self, require_class(y, self.num_classes))


class GivenLabel(NamedTuple):
    """M2 with its class bound: a VAE with the latent z alone."""

    model: SSVAE
    y: Int[Array, ""]

    def prior(self) -> dist.Distribution:
        """p(z) = N(0, I)."""
        size = self.model.latent_dim
        return dist.Normal(jnp.zeros(size), jnp.ones(size)).to_event(1)

    def posterior(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """q(z|x, y)."""
        model = self.model
        mean, raw = jnp.split(model.encoder.of_class(model.output.features(x), self._one_hot()), 2)
        return dist.Normal(mean, jnp.sqrt(variance_of(raw))).to_event(1)

    def likelihood(self, z: Float[Array, "D"]) -> dist.Distribution:
        """p(x|y, z)."""
        return self.model.likelihood(jnp.concatenate([self._one_hot(), z]))

    def _one_hot(self) -> Array:
        return one_hot(self.y, self.model.num_classes)


def ssvae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    num_classes: int,
    latent_dim: int = 64,
    hidden: Sequence[int] = (300, 300),
    classifier_hidden: Sequence[int] | None = None,
    activation: Activation = "elu",
    classifier_activation: Activation = "relu",
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
) -> SSVAE:
    """Return M2 with fully connected classifier, encoder and decoder; the decoder mirrors the encoder's layers.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        num_classes: C, at least 2.
        latent_dim: D, the size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        classifier_hidden: widths of the classifier's hidden layers; those of the encoder if not given.
        activation: the activation after each hidden layer of encoder and decoder.
        classifier_activation: the activation after each hidden layer of the classifier.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|y, z), a name or a module, see `jaxvae.models.likelihoods`.

    Returns:
        A model over the latent [y, z], [C + D]; train it with `jaxvae.semi_supervised`.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> model = ssvae(jax.random.key(0), (8, 8), num_classes=10, latent_dim=2, hidden=(16,))
    >>> x = jnp.zeros((8, 8))
    >>> model.posterior(x).event_shape, model.given(3).posterior(x).event_shape
    ((12,), (2,))

    Source: Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep
    generative models", M2; the default sizes are those of Stanford's CS236 (2018), problem set 2.
    Departs from the source: the source has softplus networks of one hidden layer.
    """
    require_key(key)
    shape = require_event_shape(event_shape)
    require_positive(latent_dim=latent_dim)
    require_integer("num_classes", num_classes, at_least=2)
    output = make_likelihood(likelihood)
    features = math.prod(feature_shape(output, shape))
    rngs = nnx.Rngs(key)
    mlp = partial(MLP, initializer=initializer, rngs=rngs)
    class_mlp = partial(ClassMLP, activation=activation, initializer=initializer, rngs=rngs)
    return SSVAE(
        mlp(
            features,
            hidden if classifier_hidden is None else classifier_hidden,
            num_classes,
            activation=classifier_activation,
        ),
        class_mlp(features, num_classes, hidden, 2 * latent_dim),
        mlp(
            num_classes + latent_dim,
            tuple(reversed(hidden)),
            output.num_params * math.prod(shape),
            activation=activation,
        ),
        output,
        num_classes=num_classes,
        latent_dim=latent_dim,
        event_shape=shape,
    )
