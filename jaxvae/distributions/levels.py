"""Distributions over grey levels: the discretised logistic and mixtures of it."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Real
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.util import validate_sample

from jaxvae.checks import require_integer
from jaxvae.distributions.checks import as_real
from jaxvae.types import InputError, PRNGKey


class Levels(Constraint):
    """The support of L evenly spaced levels, `{0, 1 / (L - 1), ..., 1}`, to within a hundredth of a step.

    Args:
        num_levels: L, such as 256 for 8-bit images.

    >>> Levels(256)(jnp.array([0.0, 3 / 255, 1.0, 0.3, 2.0])).tolist()
    [True, True, True, False, False]
    """

    is_discrete = True

    def __init__(self, num_levels: int):
        self.num_levels = num_levels

    def __call__(self, x: Real[Array, "..."]) -> Bool[Array, "..."]:
        """Return whether each value is a level."""
        number = jnp.asarray(x, jnp.result_type(float)) * (self.num_levels - 1)
        nearest = jnp.round(number)
        inside = (nearest >= 0) & (nearest < self.num_levels)
        return inside & (jnp.abs(number - nearest) < 0.01)

    def __repr__(self) -> str:
        return f"Levels({self.num_levels})"

    def feasible_like(self, prototype: Array) -> Array:
        """The lowest level, 0, in the shape and dtype of `prototype`."""
        return jnp.zeros_like(prototype)

    def tree_flatten(self) -> tuple:
        """Return no arrays, and the number of levels as static data."""
        return (), ((), {"num_levels": self.num_levels})

    def eq(self, other: object, static: bool = False) -> bool:
        """Return whether the other support has the same levels."""
        del static
        return isinstance(other, Levels) and other.num_levels == self.num_levels


class DiscretizedLogistic(dist.Distribution):
    """A logistic discretised to levels of [0, 1]: each level has the mass of the density around it.

    `P(x) = sigmoid((x + h - loc) / s) - sigmoid((x - h - loc) / s)` with `s = exp(log_scale)` and h
    half a step; the lowest level also has all the mass below it, and the highest all the mass above.

    Args:
        loc: location of the density, in the units of x, [*batch].
        log_scale: log s, of the same shape.
        num_levels: L.
        validate_args: see NumPyro.

    Raises:
        InputError: the shapes differ, or there are fewer than two levels.

    >>> p = DiscretizedLogistic(jnp.float32(0.4), jnp.float32(-3.0))
    >>> round(float(jnp.exp(p.log_prob(jnp.arange(256.0) / 255)).sum()), 5)
    1.0

    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive
    flow"; Salimans et al. (2017), "PixelCNN++", for the mass of the outermost levels.
    Departs from the source: the difference is computed as `sigmoid(a) sigmoid(-b) (1 - exp(b - a))`,
    which has no cancellation, so that no level needs a fallback.
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro reads it from the class)
        "loc": dist.constraints.real,
        "log_scale": dist.constraints.real,
    }
    pytree_aux_fields = ("num_levels",)

    def __init__(
        self,
        loc: Real[Array, "*batch"],
        log_scale: Real[Array, "*batch"],
        num_levels: int = 256,
        *,
        validate_args: bool | None = None,
    ):
        require_levels(num_levels)
        _require_one_shape(loc=loc, log_scale=log_scale)
        self.loc, self.log_scale, self.num_levels = as_real(loc), as_real(log_scale), num_levels
        super().__init__(jnp.shape(loc), (), validate_args=validate_args)

    @property
    def support(self) -> Levels:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The levels."""
        return Levels(self.num_levels)

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each level, nats."""
        del intermediates
        return _log_mass(value, self.loc, self.log_scale, self.num_levels)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Levels [*sample_shape, *batch]; no gradient flows through them."""
        assert key is not None
        return _draw(key, self.loc, self.log_scale, sample_shape, self.num_levels)

    @property
    def mean(self) -> Array:
        """The mean, `sum_k P(x > level k) / (L - 1)` over all levels except the highest."""
        return jnp.mean(_tails(self.loc, self.log_scale, self.num_levels), axis=-1)

    @property
    def variance(self) -> Array:
        """The variance of the discretised values, not of the logistic density."""
        return _second_moment(_tails(self.loc, self.log_scale, self.num_levels)) - self.mean**2


class DiscretizedLogisticMixture(dist.Distribution):
    """`P(x) = sum_m softmax(logits)[m] * DiscretizedLogistic(loc[m], log_scale[m])(x)`.

    Args:
        logits: unnormalised log-weights of the components, [*batch, M].
        loc: locations of the components, [*batch, M].
        log_scale: log-scales of the components, [*batch, M].
        num_levels: L.
        validate_args: see NumPyro.

    Raises:
        InputError: the shapes differ, have no axis M, or there are fewer than two levels.

    Source: Salimans et al. (2017), "PixelCNN++".
    Departs from the source: channels are independent of each other, so that any of them may be
    missing.
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro reads it from the class)
        "logits": dist.constraints.real_vector,
        "loc": dist.constraints.real_vector,
        "log_scale": dist.constraints.real_vector,
    }
    pytree_aux_fields = ("num_levels",)

    def __init__(
        self,
        logits: Real[Array, "*batch M"],
        loc: Real[Array, "*batch M"],
        log_scale: Real[Array, "*batch M"],
        num_levels: int = 256,
        *,
        validate_args: bool | None = None,
    ):
        require_levels(num_levels)
        _require_one_shape(logits=logits, loc=loc, log_scale=log_scale)
        if jnp.ndim(logits) < 1:
            raise InputError("logits: expected [*batch, M], got a scalar")
        self.logits, self.loc, self.log_scale = map(as_real, (logits, loc, log_scale))
        self.num_levels = num_levels
        super().__init__(jnp.shape(logits)[:-1], (), validate_args=validate_args)

    @property
    def support(self) -> Levels:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The levels."""
        return Levels(self.num_levels)

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each level, nats."""
        del intermediates
        each = _log_mass(jnp.asarray(value)[..., None], self.loc, self.log_scale, self.num_levels)
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + each, axis=-1)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Levels [*sample_shape, *batch]; no gradient flows through them."""
        assert key is not None
        key_component, key_level = jax.random.split(key)
        shape = sample_shape + self.batch_shape
        component = jax.random.categorical(key_component, self.logits, shape=shape)
        chosen = jax.nn.one_hot(component, jnp.shape(self.logits)[-1], dtype=self.loc.dtype)
        loc, log_scale = (
            jnp.sum(chosen * parameter, axis=-1) for parameter in (self.loc, self.log_scale)
        )
        return _draw(key_level, loc, log_scale, (), self.num_levels)

    @property
    def mean(self) -> Array:
        """The weighted mean of the components' means."""
        return jnp.mean(self._tails(), axis=-1)

    @property
    def variance(self) -> Array:
        """The variance of the mixture over levels."""
        return _second_moment(self._tails()) - self.mean**2

    def _tails(self) -> Array:
        weight = jax.nn.softmax(self.logits)[..., None]
        return jnp.sum(weight * _tails(self.loc, self.log_scale, self.num_levels), axis=-2)


def require_levels(num_levels: int) -> None:
    """Refuse a number of levels that is not an integer of at least 2.

    Raises:
        InputError: `num_levels` is not an integer of at least 2.
    """
    require_integer("num_levels", num_levels, at_least=2)


def _log_mass(value: Array, loc: Array, log_scale: Array, num_levels: int) -> Array:
    """Log-mass around the level nearest to each value, nats."""
    if jnp.issubdtype(jnp.result_type(value), jnp.integer) and num_levels > 2:
        raise InputError(
            f"x: expected levels k / {num_levels - 1} from 0 to 1, as real numbers, got {jnp.result_type(value)}; "
            f"divide whole numbers by {num_levels - 1}"
        )
    # Edges are computed from the index of the level, so that neighbours share an edge to the last bit.
    steps = num_levels - 1
    k = jax.lax.stop_gradient(jnp.round(value * steps))
    precision = jnp.exp(-log_scale)
    below, above = (((k + side) / steps - loc) * precision for side in (-0.5, 0.5))
    log_width = -log_scale - jnp.log(float(steps))
    log_below_top, log_above_bottom = jax.nn.log_sigmoid(above), jax.nn.log_sigmoid(-below)
    inside = log_below_top + log_above_bottom + _log_one_minus_exp(log_width)
    return jnp.where(k <= 0, log_below_top, jnp.where(k >= steps, log_above_bottom, inside))


def _log_one_minus_exp(log_width: Array) -> Array:
    """`log(1 - exp(-exp(log_width)))`, accurate also if the width underflows."""
    narrow = log_width < -5
    small = jnp.exp(jnp.where(narrow, log_width, -5.0))
    wide = jnp.exp(jnp.where(narrow, 0.0, jnp.minimum(log_width, 30.0)))
    return jnp.where(narrow, log_width - small / 2 + small**2 / 24, jnp.log(-jnp.expm1(-wide)))


def _draw(
    key: PRNGKey, loc: Array, log_scale: Array, sample_shape: tuple[int, ...], num_levels: int
) -> Array:
    """A logistic sample, rounded to the nearest level."""
    scale = jnp.exp(jnp.minimum(log_scale, 60.0))
    x = loc + scale * jax.random.logistic(key, sample_shape + jnp.shape(loc), jnp.result_type(loc))
    return jnp.clip(jnp.round(x * (num_levels - 1)), 0, num_levels - 1) / (num_levels - 1)


def _tails(loc: Array, log_scale: Array, num_levels: int) -> Array:
    """`P(x > level k)` for all levels except the highest, [..., L - 1]."""
    steps = num_levels - 1
    edges = (jnp.arange(steps, dtype=loc.dtype) + 0.5) / steps
    shape = (*loc.shape, steps)
    distance = jnp.expand_dims(loc, -1) - jnp.broadcast_to(edges, shape)
    return jax.nn.sigmoid(distance * jnp.exp(-log_scale)[..., None])


def _second_moment(tails: Array) -> Array:
    """`E[x^2] = sum_k (2 k + 1) P(x > level k) / (L - 1)^2`."""
    steps = tails.shape[-1]
    weight = jnp.broadcast_to(2 * jnp.arange(steps, dtype=tails.dtype) + 1, tails.shape)
    return jnp.mean(weight * tails, axis=-1) / steps


def _require_one_shape(**parameters: Array) -> None:
    shapes = {name: jnp.shape(value) for name, value in parameters.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"{'/'.join(shapes)}: expected one shape, got {shapes}")
