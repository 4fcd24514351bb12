"""Autoregressive networks, whose output k depends on the values before k and a context: masked, recurrent, Markov.

Each computes the same parameters in two ways. For a whole x at once, which scoring uses:

    network(features [N, F], context [C]) -> [P, N]         P parameters for each of N values

and value by value, which sampling uses, since the parameters of a value depend on the values drawn before it:

    state = network.start(context)
    network.params(state, k, context) -> [P]                the same parameters, column k
    state = network.advance(state, k, features of value k, context)
"""

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvae.checks import require_positive
from jaxvae.distributions import made_masks
from jaxvae.networks.dense import MLP, Activation, Initializer, activation_function, linear
from jaxvae.rows import rows
from jaxvae.types import InputError

Index: TypeAlias = Int[Array, ""] | int


class MaskedMLP(nnx.Module):
    """A masked MLP: all outputs in one pass, with weights masked so that output k depends on values before k.

    Args:
        size: N, the number of values.
        context_size: C; all outputs depend on the context.
        hidden: widths of the hidden layers.
        num_features: F, inputs for each value.
        num_outputs: P, outputs for each value.
        reverse: whether the last value comes first.
        direct: whether masked weights also connect the inputs directly to the outputs. Without them all
            information passes through the hidden units, which lose detail if they are fewer than the values.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: source of the initial weights.

    Source: Germain et al. (2015), "MADE: masked autoencoder for distribution estimation".
    """

    def __init__(
        self,
        size: int,
        context_size: int,
        hidden: Sequence[int],
        *,
        num_features: int = 1,
        num_outputs: int = 2,
        reverse: bool = False,
        direct: bool = False,
        activation: Activation = "tanh",
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        self.size, self.context_size, self.reverse = size, context_size, reverse
        self.num_features, self.num_outputs = num_features, num_outputs
        self.hidden = _widths(hidden)
        self.activation = activation_function(activation)
        sizes = (size * num_features + context_size, *self.hidden, num_outputs * size)
        pairs = [*itertools.pairwise(sizes), *([(sizes[0], sizes[-1])] if direct else [])]
        self.layers = nnx.List(linear(*pair, initializer=initializer, rngs=rngs) for pair in pairs)
        self.direct = direct

    def __call__(
        self, x: Float[Array, "N F"] | Float[Array, "N"], context: Float[Array, "C"]
    ) -> Float[Array, "P N"]:
        """Return P parameters for every value."""
        layers = list(self.layers)
        direct = layers.pop() if self.direct else None
        h = inputs = jnp.concatenate([x.reshape(-1), context])
        *masks, last = self._masks(self.hidden)
        for layer, mask in zip(layers[:-1], masks, strict=True):
            h = self.activation(_masked(layer, mask, h))
        output = _masked(layers[-1], last, h)
        if direct is not None:
            output += _masked(direct, self._masks(())[0], inputs)
        return output.reshape(self.num_outputs, self.size)

    def _masks(self, hidden: tuple[int, ...]) -> list[np.ndarray]:
        """The masks of `made_masks`, with F rows and P columns for each value."""
        masks = made_masks(self.size, self.context_size, hidden, reverse=self.reverse)
        repeats = np.repeat([self.num_features, 1], [self.size, self.context_size])
        masks[0] = np.repeat(masks[0], repeats, axis=0)
        masks[-1] = np.tile(masks[-1], (1, self.num_outputs))
        return masks

    def start(self, context: Float[Array, "C"]) -> Float[Array, "N F"]:
        """Return the state before the first value: zeros in place of all features."""
        del context
        return jnp.zeros((self.size, self.num_features))

    def params(self, state: Float[Array, "N F"], k: Index, context: Float[Array, "C"]) -> Array:
        """Return the parameters [P] of value k, by a pass of the whole network."""
        return self(state, context)[:, k]

    def advance(
        self, state: Array, k: Index, features: Float[Array, "F"], context: Float[Array, "C"]
    ) -> Array:
        """Return the state with the features of value k filled in."""
        del context
        return state.at[k].set(features)


def _masked(layer: nnx.Linear, mask: np.ndarray, h: Array) -> Array:
    assert layer.bias is not None
    weights = jnp.where(mask, layer.kernel[...], 0)
    return rows(h[None], weights, precision=layer.precision)[0] + layer.bias[...]


class GRU(nnx.Module):
    """A network of gated recurrent units that reads the values in order; output k is linear in the state before k.

    In each layer, with a the projected input and b the projected state:
    `h = update * h + (1 - update) * tanh(a_new + reset * b_new)`, `reset, update = sigmoid(a + b)`. The
    first layer's input is the features of a value and the context; the states start from
    `tanh(linear(context))`.

    Args:
        size: N, the number of values.
        context_size: C; if 0, the states start from zeros.
        hidden: the width of each layer; at least one layer.
        num_features: F, inputs for each value.
        num_outputs: P, outputs for each value.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: source of the initial weights.

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder".
    Departs from the source: the reset gate acts after the product with the state, not before, so that
    a step takes one product.
    """

    def __init__(
        self,
        size: int,
        context_size: int,
        hidden: Sequence[int],
        *,
        num_features: int = 1,
        num_outputs: int = 1,
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        self.size, self.hidden = size, _widths(hidden)
        if not self.hidden:
            raise InputError("hidden: expected at least one width for a recurrent network, got ()")

        def layer(fan_in: int, fan_out: int) -> nnx.Linear:
            return linear(fan_in, fan_out, initializer=initializer, rngs=rngs)

        below = (num_features + context_size, *self.hidden[:-1])
        pairs = list(zip(below, self.hidden, strict=True))
        self.inputs = nnx.List(layer(fan_in, 3 * width) for fan_in, width in pairs)
        self.states = nnx.List(layer(width, 3 * width) for width in self.hidden)
        self.initial = layer(context_size, sum(self.hidden)) if context_size else None
        self.head = layer(self.hidden[-1], num_outputs)

    def __call__(
        self, features: Float[Array, "N F"], context: Float[Array, "C"]
    ) -> Float[Array, "P N"]:
        """Return P parameters for every value: one scan over values per layer; the projections are batched."""
        h = jax.vmap(lambda value: jnp.concatenate([value, context]))(features[:-1])
        first = self.start(context)
        for layer, begin in enumerate(first):

            def read(h: Array, projected: Array, layer: int = layer) -> tuple[Array, Array]:
                h = self._cell(layer, projected, h)
                return h, h

            _, h = jax.lax.scan(read, begin, jax.vmap(self.inputs[layer])(h))
        return jax.vmap(self.head)(jnp.concatenate([first[-1][None], h])).T

    def _cell(self, layer: int, projected: Float[Array, "gates"], h: Float[Array, "H"]) -> Array:
        reset, update, new = jnp.split(projected, 3)
        of_reset, of_update, of_new = jnp.split(self.states[layer](h), 3)
        update = jax.nn.sigmoid(update + of_update)
        candidate = jnp.tanh(new + jax.nn.sigmoid(reset + of_reset) * of_new)
        return update * h + (1 - update) * candidate

    def start(self, context: Float[Array, "C"]) -> tuple[Array, ...]:
        """Return the state of each layer before the first value."""
        if self.initial is None:
            return tuple(jnp.zeros(width) for width in self.hidden)
        ends = np.cumsum(self.hidden)[:-1].tolist()
        return tuple(jnp.split(jnp.tanh(self.initial(context)), ends))

    def params(self, state: tuple[Array, ...], k: Index, context: Float[Array, "C"]) -> Array:
        """Return the parameters [P] of the next value."""
        del k, context
        return self.head(state[-1])

    def advance(
        self,
        state: tuple[Array, ...],
        k: Index,
        features: Float[Array, "F"],
        context: Float[Array, "C"],
    ) -> tuple[Array, ...]:
        """Return the states after one more value."""
        del k
        h, after = jnp.concatenate([features, context]), []
        for layer, before in enumerate(state):
            h = self._cell(layer, self.inputs[layer](h), before)
            after.append(h)
        return tuple(after)


class MarkovMLP(nnx.Module):
    """One small MLP shared by all values; its input is the m values before, the position and the context.

    Zeros stand in for values before the first; the position lets the MLP distinguish them from values. Each
    position has a learned vector.

    Args:
        size: N, the number of values.
        context_size: C.
        hidden: widths of the hidden layers.
        order: m, at least 1.
        num_features: F, inputs for each value.
        num_outputs: P, outputs for each value.
        position_size: length of the learned vector of a position.
        activation: the activation after each hidden layer.
        initializer: how the initial weights are drawn, see `linear`.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        size: int,
        context_size: int,
        hidden: Sequence[int],
        *,
        order: int = 1,
        num_features: int = 1,
        num_outputs: int = 1,
        position_size: int = 16,
        activation: Activation = "tanh",
        initializer: Initializer = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        require_positive(order=order, position_size=position_size)
        self.order, self.num_features = order, num_features
        fan_in = order * num_features + position_size + context_size
        self.mlp = MLP(
            fan_in, hidden, num_outputs, activation=activation, initializer=initializer, rngs=rngs
        )
        draw = nnx.initializers.normal(1.0)
        self.positions = nnx.Param(draw(rngs.params(), (size, position_size)))

    def __call__(
        self, features: Float[Array, "N F"], context: Float[Array, "C"]
    ) -> Float[Array, "P N"]:
        """Return P parameters for every value: the MLP at all positions at once."""
        size = features.shape[0]
        padded = jnp.concatenate([self.start(context), features])
        windows = padded[np.arange(size)[:, None] + np.arange(self.order)]
        each = jax.vmap(lambda state, k: self.params(state, k, context))
        return each(windows, jnp.arange(size)).T

    def start(self, context: Float[Array, "C"]) -> Float[Array, "m F"]:
        """Return zeros in place of the m values before the first."""
        del context
        return jnp.zeros((self.order, self.num_features))

    def params(self, state: Float[Array, "m F"], k: Index, context: Float[Array, "C"]) -> Array:
        """Return the parameters [P] of value k."""
        return self.mlp(jnp.concatenate([state.reshape(-1), self.positions[...][k], context]))

    def advance(
        self, state: Array, k: Index, features: Float[Array, "F"], context: Float[Array, "C"]
    ) -> Array:
        """Return the features of the last m values."""
        del k, context
        return jnp.concatenate([state[1:], features[None]])


def _widths(hidden: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(hidden, Sequence):
        raise InputError(
            f"hidden: expected a sequence of widths such as (256, 256), got {hidden!r}"
        )
    for width in hidden:
        require_positive(hidden=width)
    return tuple(hidden)
