"""An autoregressive joint distribution: each value is conditioned on the values before it."""

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
    """A network that returns the parameters of every conditional, for a whole x at once or value by value.

    Both ways must give the same parameters, so that samples follow the density that is scored.
    """

    def __call__(
        self, features: Float[Array, "N F"], context: Float[Array, "C"], /
    ) -> Float[Array, "P N"]:
        """Return P parameters for each value k, from the features of the values before k and the context."""
        ...

    def start(self, context: Float[Array, "C"], /) -> Any:
        """Return the state before the first value."""
        ...

    def params(
        self, state: Any, k: Int[Array, ""], context: Float[Array, "C"], /
    ) -> Float[Array, "P"]:
        """Return the parameters of value k."""
        ...

    def advance(
        self,
        state: Any,
        k: Int[Array, ""],
        features: Float[Array, "F"],
        context: Float[Array, "C"],
        /,
    ) -> Any:
        """Return the state after value k."""
        ...


@runtime_checkable
class Values(Protocol):
    """A likelihood of independent values, given the parameters of each value."""

    def features(self, x: Float[Array, "*event"], /) -> Array:
        """Return the network's input for these values."""
        ...

    @property
    def support(self) -> constraints.Constraint:
        """The support of one value."""
        ...

    def __call__(self, params: Float[Array, "P *event"], /) -> dist.Distribution:
        """Return the distribution of independent values with these parameters."""
        ...


class Autoregressive(dist.Distribution):
    """`p(x) = prod_k p(x_k | x_<k, context)` over the values of x in raster order.

    Scoring is one pass of the network over x; sampling is a scan over values. The mean and the
    variance are sums over all x and have no closed form; reading them raises `NotImplementedError`.

    Args:
        network: returns the parameters of the conditionals; a pytree, such as an `nnx.Module`.
        values: maps parameters to the distribution of independent values; a pytree as well.
        context: an input of all conditionals [C], such as a latent; may be empty.
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
        """The support of one value, for every value of the event."""
        return constraints.independent(self.values.support, len(self.event_shape))

    @property
    def has_rsample(self) -> bool:
        """False: each value is drawn before the parameters of the next are computed."""
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
        # The features of one value alone, so that no value influences another through its features.
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
