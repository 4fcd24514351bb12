"""The sum of a density over a support of few points."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxvae.compiling import jit_quickly
from jaxvae.distributions import OneHotCategorical
from jaxvae.distributions.support import of_one_value
from jaxvae.relaxations import states
from jaxvae.testing.normaliser.drawn import TOLERANCE, Drawn, Sum, UnknownError

LARGEST_TABLE = 2**16
"""The largest number of points that are summed jointly; above it each value of x is summed separately, if allowed."""
_LEVELS_AT_MOST = 4096


def all_points(d: Drawn) -> np.ndarray | None:
    """Return every value of a discrete distribution, [N, *event]; None if it has too many, or is not discrete."""
    distribution, shape = d.distribution, d.distribution.event_shape
    if not distribution.is_discrete:
        return None
    if isinstance(distribution, OneHotCategorical):  # its declared support, bits, is larger
        return np.asarray(states(distribution), d.values.dtype)
    values, whole = values_of_one(d)
    size = int(np.prod(shape, dtype=int))
    if not whole or size * np.log(len(values)) > np.log(LARGEST_TABLE):
        return None
    grid = np.meshgrid(*[values] * size, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=-1).reshape(-1, *shape)


def values_of_one(d: Drawn) -> tuple[np.ndarray, bool]:
    """Return the possible numbers of one value of a discrete x, and whether the list is complete."""
    each = of_one_value(d.distribution.support)
    levels = getattr(each, "num_levels", None)
    low, high = (_one_number(getattr(each, f"{side}_bound", None)) for side in ("lower", "upper"))
    dtype = d.values.dtype
    if isinstance(each, type(constraints.boolean)):
        return np.array([0, 1], dtype), True
    if levels is not None:
        return (np.arange(levels) / (levels - 1)).astype(dtype), True
    if low is None or np.ndim(low) or (high is not None and np.ndim(high)):
        raise UnknownError(f"the points of the support {each} are not known")
    if high is not None:
        if high - low >= _LEVELS_AT_MOST:
            raise UnknownError(f"the support {each} has too many points")
        return np.arange(int(low), int(high) + 1).astype(dtype), True
    return np.arange(int(low), int(3 * d.values.max()) + 200).astype(dtype), False


def _one_number(bound: Any) -> Any:
    """Reduce a bound that is the same for every value to one number; return any other as it is."""
    if bound is None or np.size(bound) == 0 or not np.all(bound == np.ravel(bound)[0]):
        return bound
    return np.ravel(bound)[0]


def over_points(d: Drawn, points: np.ndarray) -> Sum:
    """Compute `log sum_x p(x)` over the points [N, *event], with the moments."""
    flat = points.reshape(len(points), -1)
    log_p = np.asarray(jit_quickly(jax.vmap(d.score))(jnp.asarray(flat)), np.float64)
    log_value = float(np.logaddexp.reduce(log_p))
    probs = np.exp(log_p - log_value)
    flat = flat.astype(np.float64)

    def products(order: np.ndarray) -> np.ndarray:
        return probs @ (flat * flat[:, order])

    how = f"the sum over {len(points):,} points"
    return Sum(log_value, TOLERANCE, how, probs @ flat, probs @ flat**2, products)
