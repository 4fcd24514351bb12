"""Hierarchies of latents: several blocks in one vector, each conditioned on the blocks drawn before it."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

from jaxvae.distributions.calls import log_prob, sample, sample_with_log_prob
from jaxvae.distributions.checks import describe
from jaxvae.types import InputError, PRNGKey

T = TypeVar("T")

Conditional: TypeAlias = Callable[..., Distribution]
"""`(nearest, *earlier) -> p(v_l | earlier blocks)`; the most recently drawn block is the first argument. It
must be a pytree: an NNX module, or a named tuple of modules and arrays that has `__call__`."""


class Chain(Distribution):
    """L blocks in one vector: `log p(v) = log p(v_1) + sum_l log p(v_l | v_1, .., v_(l-1))`, nats.

    The order in which the blocks are drawn need not be their order in the vector: a hierarchy's
    posterior draws h1, h2, .. upwards and its prior draws .., h2, h1 downwards, and both are densities
    of the same vector [h1, h2, ..].

    Mean and variance have no closed form. `sample_with_log_prob` evaluates each conditional once for
    both the sample and its log-density.

    Args:
        first: p(v_1), the distribution of the block that is drawn first.
        conditionals: the conditionals of the other blocks, in the order in which they are drawn.
        sizes: sizes of the blocks, in the order of the vector.
        order: position in the vector of the block that is drawn first, second, ..; 0, 1, .. if not given.
        validate_args: see NumPyro.

    Raises:
        InputError: sizes, order and conditionals do not match; when a block is drawn or scored, if a
            conditional is not over one vector of its block's size.

    >>> import numpyro.distributions as dist
    >>> above = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    >>> below = jax.tree_util.Partial(lambda h, *_: dist.Normal(jnp.tile(h, 2), 1.0).to_event(1))
    >>> p = Chain(above, [below], sizes=(2, 1), order=(1, 0))
    >>> z = jnp.array([0.5, -0.5, 2.0])  # 0.5 and -0.5 given 2
    >>> [round(float(nats), 3) for nats in p.log_prob_each(z)]
    [-6.088, -2.919]
    """

    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("first", "conditionals")
    pytree_aux_fields = ("sizes", "order")

    def __init__(
        self,
        first: Distribution,
        conditionals: Sequence[Conditional] = (),
        *,
        sizes: Sequence[int],
        order: Sequence[int] | None = None,
        validate_args: bool | None = None,
    ):
        self.first, self.conditionals = first, tuple(conditionals)
        self.sizes = tuple(sizes)
        self.order = tuple(range(len(self.sizes))) if order is None else tuple(order)
        if len(self.sizes) != 1 + len(self.conditionals):
            raise InputError(
                f"sizes: expected {1 + len(self.conditionals)}, one for `first` and one for each "
                f"conditional, got {self.sizes}"
            )
        if sorted(self.order) != list(range(len(self.sizes))):
            raise InputError(
                f"order: expected each of 0 to {len(self.sizes) - 1} once, got {self.order}"
            )
        super().__init__((), (sum(self.sizes),), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """True if every block is reparameterised; the conditionals are traced, not run."""
        found = []

        def look(chain: Chain, key: PRNGKey) -> Array:
            keys = jax.random.split(key, len(chain.sizes))

            def one(place: int, block: Distribution) -> tuple[Array, None]:
                found.append(block.has_rsample)
                return sample(block, keys[place]), None

            return chain._walk(one)[0]

        jax.eval_shape(look, self, jax.eval_shape(jax.random.key, 0))
        return all(found)

    def split(self, value: Float[Array, "... D"]) -> list[Array]:
        """Return the blocks of a vector, in the order of the vector."""
        return jnp.split(value, np.cumsum(self.sizes)[:-1].tolist(), axis=-1)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Vectors [*sample_shape, D], reparameterised if the chain `has_rsample`."""

        def one(key: PRNGKey) -> Array:
            keys = jax.random.split(key, len(self.sizes))
            return self._walk(lambda place, block: (sample(block, keys[place]), None))[0]

        return _over_keys(one, key, sample_shape)

    def sample_with_log_prob_each(
        self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "*sample_shape D"], Float[Array, "*sample_shape L"]]:
        """The vectors of `sample` and the log-density of each block; each conditional is evaluated once."""

        def one(key: PRNGKey) -> tuple[Array, Array]:
            keys = jax.random.split(key, len(self.sizes))
            value, each = self._walk(lambda place, block: sample_with_log_prob(block, keys[place]))
            return value, jnp.stack(each)

        return _over_keys(one, key, sample_shape)

    def sample_with_intermediates(
        self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, list[Array]]:
        """The vectors of `sample`, and the log-densities of the blocks, which `log_prob` sums."""
        value, each = self.sample_with_log_prob_each(key, sample_shape)
        return value, [each]

    def log_prob(self, value: Array, intermediates: list[Array] | None = None) -> Array:
        """Log-density of each vector [..., D], nats."""
        each = intermediates[0] if intermediates else self.log_prob_each(value)
        return jnp.sum(each, axis=-1)

    def log_prob_each(self, value: Float[Array, "... D"]) -> Float[Array, "... L"]:
        """Log-density of each block given the blocks drawn before it, in the order of the vector, nats.

        Raises:
            InputError: the last axis is not of the chain's size.
        """
        value = jnp.asarray(value)
        if value.shape[-1:] != self.event_shape:
            raise InputError(
                f"value: expected [..., {self.event_shape[0]}], the sizes {self.sizes} side by "
                f"side, got shape {value.shape}"
            )
        if value.ndim > 1:
            return jax.vmap(self.log_prob_each)(value)
        blocks = self.split(value)
        _, each = self._walk(lambda place, block: (blocks[place], log_prob(block, blocks[place])))
        return jnp.stack(each)

    def _walk(
        self, visit: Callable[[int, Distribution], tuple[Array, T]]
    ) -> tuple[Float[Array, "D"], list[T]]:
        """Visit the blocks in drawing order; `visit(place, block)` returns the block's value and one more result.

        Returns:
            The values in one vector, and the other results, both in the order of the vector.
        """
        values: list[Array] = []
        said: dict[int, tuple[Array, T]] = {}
        for place, conditional in zip(self.order, (None, *self.conditionals), strict=True):
            block = self.first if conditional is None else conditional(*reversed(values))
            self._require_block(place, block)
            said[place] = visit(place, block)
            values.append(said[place][0])
        placed = [said[place] for place in range(len(self.sizes))]
        return jnp.concatenate([value for value, _ in placed]), [other for _, other in placed]

    def _require_block(self, place: int, block: Distribution) -> None:
        expected = ((), (self.sizes[place],))
        if (block.batch_shape, block.event_shape) != expected:
            raise InputError(
                f"sizes: expected a distribution over one vector of {self.sizes[place]} for block "
                f"{place} of {self.sizes}, got {describe(block)} of batch shape "
                f"{block.batch_shape} and event shape {block.event_shape}"
            )


def _over_keys(one: Callable[[PRNGKey], T], key: PRNGKey | None, shape: tuple[int, ...]) -> T:
    assert key is not None
    if not shape:
        return one(key)
    flat = jax.vmap(one)(jax.random.split(key, int(np.prod(shape))))
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), flat)
