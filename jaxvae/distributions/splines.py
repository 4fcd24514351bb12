"""Monotone rational-quadratic splines of scalars, with identity tails, and their inverses."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MIN_BIN = 1e-3
"""The least width and height of a bin, as a fraction of the whole interval."""

MIN_SLOPE = 1e-3
"""The least slope at a knot."""


class Spline(NamedTuple):
    """D splines of K bins on [-bound, bound]; outside this interval they are the identity."""

    x_knots: Float[Array, "D knots"]
    y_knots: Float[Array, "D knots"]
    slopes: Float[Array, "D knots"]


class Bin(NamedTuple):
    """The bin that contains each value: corner, size, and the slopes at its two ends."""

    left: Float[Array, "D"]
    bottom: Float[Array, "D"]
    width: Float[Array, "D"]
    height: Float[Array, "D"]
    slope_left: Float[Array, "D"]
    slope_right: Float[Array, "D"]


def make_spline(raw: Float[Array, "D num_raw"], bound: float) -> Spline:
    """Return splines from unconstrained numbers: K widths, K heights and K - 1 inner slopes for each.

    Zeros give the identity. The slope at both ends is 1, as in the tails.
    """
    size = (raw.shape[-1] + 1) // 3
    widths, heights, inner = raw[:, :size], raw[:, size : 2 * size], raw[:, 2 * size :]
    at_zero = math.log(math.expm1(1 - MIN_SLOPE))
    slopes = MIN_SLOPE + jax.nn.softplus(inner + at_zero)
    slopes = jnp.pad(slopes, ((0, 0), (1, 1)), constant_values=1)
    return Spline(_knots(widths, bound), _knots(heights, bound), slopes)


def forward(spline: Spline, x: Float[Array, "D"]) -> tuple[Array, Array]:
    """`y` [D] and `log dy/dx` [D] of the splines at x [D].

    Source: Durkan et al. (2019), "Neural spline flows".
    """
    inside, x_in = _clamp(spline.x_knots, x)
    b = _find(spline, spline.x_knots, x_in)
    y, log_slope = _within(b, (x_in - b.left) / b.width)
    return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)


def inverse(spline: Spline, y: Float[Array, "D"]) -> Float[Array, "D"]:
    """`x` [D] at which the splines take the values y [D].

    Source: Durkan et al. (2019), "Neural spline flows".
    """
    inside, y_in = _clamp(spline.y_knots, y)
    b = _find(spline, spline.y_knots, y_in)
    slope, rise = b.height / b.width, y_in - b.bottom
    bend = rise * (b.slope_left + b.slope_right - 2 * slope)
    a = b.height * (slope - b.slope_left) + bend
    minus_b = bend - b.height * b.slope_left
    c = -slope * rise
    # Rounding can make the discriminant negative, and the square root has no finite slope at zero.
    root = jnp.sqrt(jnp.maximum(minus_b**2 - 4 * a * c, jnp.finfo(y.dtype).tiny))
    fraction = jnp.clip(2 * c / (minus_b - root), 0, 1)
    return jnp.where(inside, b.left + fraction * b.width, y)


def _knots(raw: Float[Array, "D K"], bound: float) -> Float[Array, "D knots"]:
    fractions = MIN_BIN + (1 - MIN_BIN * raw.shape[-1]) * jax.nn.softmax(raw)
    inner = bound * (2 * jnp.cumsum(fractions, axis=-1)[:, :-1] - 1)
    ends = jnp.full((len(raw), 1), bound, raw.dtype)
    return jnp.concatenate([-ends, inner, ends], axis=-1)


def _clamp(knots: Array, value: Array) -> tuple[Array, Array]:
    inside = (value >= knots[:, 0]) & (value <= knots[:, -1])
    return inside, jnp.where(inside, value, 0)


def _find(spline: Spline, knots: Array, value: Array) -> Bin:
    index = jnp.sum(value[:, None] >= knots[:, 1:-1], axis=-1, keepdims=True)

    def at(values: Array, offset: int = 0) -> Array:
        return jnp.take_along_axis(values, index + offset, axis=-1)[:, 0]

    left, bottom = at(spline.x_knots), at(spline.y_knots)
    width, height = at(spline.x_knots, 1) - left, at(spline.y_knots, 1) - bottom
    return Bin(left, bottom, width, height, at(spline.slopes), at(spline.slopes, 1))


def _within(b: Bin, fraction: Array) -> tuple[Array, Array]:
    """The rational quadratic and the logarithm of its slope, computed as sums of positive terms."""
    slope, rest = b.height / b.width, 1 - fraction
    both = fraction * rest
    down = slope * (1 - 2 * both) + (b.slope_left + b.slope_right) * both
    up = slope * fraction**2 + b.slope_left * both
    steep = b.slope_right * fraction**2 + 2 * slope * both + b.slope_left * rest**2
    return b.bottom + b.height * up / down, 2 * jnp.log(slope / down) + jnp.log(steep)
