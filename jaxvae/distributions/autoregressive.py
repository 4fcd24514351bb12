"""A joint distribution by the chain rule: each value given those before it."""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from jaxvae.distributions.calls import log_prob, sample
from jaxvae.types import PRNGKey


@runtime_checkable
class Conditionals(Protocol):
    """The numbers of every conditional, of a whole x at once and value by value.

    Both must say the same: then what is drawn follows the density that is scored.
    """

    def __call__(
        self, features: Float[Array, "N F"], context: Float[Array, "C"], /
    ) -> Float[Array, "P N"]:
        """P numbers for each value k, from the features of the values before k and the context."""
        ...

    def start(self, context: Float[Array, "C"], /) -> Any:
        """What is known before the first value."""
        ...

    def params(
        self, state: Any, k: Int[Array, ""], context: Float[Array, "C"], /
    ) -> Float[Array, "P"]:
        """The numbers of value k."""
        ...

    def advance(
        self,
        state: Any,
        k: Int[Array, ""],
        features: Float[Array, "F"],
        context: Float[Array, "C"],
        /,
    ) -> Any:
        """What is known after value k."""
        ...


@runtime_checkable
class Values(Protocol):
    """What a value is made of, given its numbers: a likelihood of independent values."""

    def features(self, x: Float[Array, "*event"], /) -> Array:
        """What a network sees of values."""
        ...

    @property
    def support(self) -> constraints.Constraint:
        """Where one value lies."""
        ...

    def __call__(self, params: Float[Array, "P *event"], /) -> dist.Distribution:
        """The distribution of independent values."""
        ...


class Autoregressive(dist.Distribution):
    """`p(x) = prod_k p(x_k | x_<k, context)` over the values of x in raster order.

    Scoring is one pass of the network over x; drawing is a scan over values. The mean and the
    variance are sums over all x: there is no closed form, and asking for them raises
    `NotImplementedError`.

    Args:
        network: the conditionals' numbers; a pytree, such as an `nnx.Module`.
        values: from the numbers to the distribution of independent values; a pytree as well.
        context: what all conditionals see [C], such as a latent; may be empty.
        event_shape: shape of x.

    Source: Larochelle and Murray (2011), "The neural autoregressive distribution estimator".
    """

    pytree_data_fields = ("network", "values", "context")

    def __init__(
        self,
        network: Conditionals,
        values: Values,
        context: Float[Array, "C"],
        event_shape: tuple[int, ...],
        *,
        validate_args: bool | None = None,
    ):
        self.network, self.values, self.context = network, values, context
        super().__init__((), tuple(event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """That of each value."""
        return constraints.independent(self.values.support, len(self.event_shape))

    @property
    def has_rsample(self) -> bool:
        """No: each value is drawn before the numbers of the next are known."""
        return False

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Log-probability, nats: [...] of values [..., *event]."""
        del intermediates
        return _over_leading_axes(self._score, jnp.asarray(value), len(self.event_shape))

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Values [*sample_shape, *event], float32; no gradient flows through them."""
        assert key is not None
        if not sample_shape:
            return self._draw(key)
        keys = jax.random.split(key, sample_shape)
        return _over_leading_axes(self._draw, keys, 0)

    def conditionals(self, x: Float[Array, "*event"]) -> dist.Distribution:
        """p(x_k | x_<k, context) for all k at once, as a distribution of independent values."""
        features = jax.vmap(self._features)(x.reshape(-1))
        params = self.network(features, self.context)
        return self.values(params.reshape(-1, *self.event_shape))

    def _score(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        return log_prob(self.conditionals(x), x)

    def _features(self, value: Float[Array, ""]) -> Float[Array, "F"]:
        # Of one value alone, so that none can see another through its features.
        return self.values.features(value[None]).reshape(-1)

    def _draw(self, key: PRNGKey) -> Float[Array, "*event"]:
        def one(state: Any, k: Array) -> tuple[Any, Array]:
            params = self.network.params(state, k, self.context)
            values = self.values(params[:, None])
            value = sample(values, jax.random.fold_in(key, k))[0].astype(jnp.float32)
            return self.network.advance(state, k, self._features(value), self.context), value

        ks, start = jnp.arange(math.prod(self.event_shape)), self.network.start(self.context)
        _, x = jax.lax.scan(one, start, ks)
        return jax.lax.stop_gradient(x).reshape(self.event_shape)


def _over_leading_axes(one: Callable[[Array], Array], rows: Array, event_dim: int) -> Array:
    for _ in range(rows.ndim - event_dim):
        one = jax.vmap(one)
    return one(rows)
