"""Does a density integrate to one, and do its draws follow it: by sums, by quadrature, by draws.

Nothing is assumed of a distribution but `sample`, `log_prob` and `support`, so that those of users can be judged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution, biject_to, constraints

from jaxvae.compiling import jit_quickly
from jaxvae.distributions import (
    OneHotCategorical,
    can_score,
    log_prob,
    sample_with_log_prob,
)
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.distributions.support import of_one_value
from jaxvae.relaxations import states
from jaxvae.testing.statistics import normal_quantile, standard_error, z_test
from jaxvae.types import PRNGKey

LARGEST_TABLE = 2**16
"""So many points are summed one by one; of more, each value of x is summed alone, where that is allowed."""
TOLERANCE = 0.01
"""What a sum or a quadrature may differ by from log 1 = 0, nats."""

_LEVELS_AT_MOST = 4096
_NODES = np.arange(-12, 12.01, 1 / 16)
"""Of a trapezoid rule in v, x = centre + spread * sinh(v): tails of 1e5 spreads, a step of a sixteenth of one."""
_DIMENSIONS = 64
_DRAWS_A_LINE = 256
_ALL_PAIRS = 16
"""Of so many values all pairs are compared, of more only some."""
_FAR = 4.0
"""In units of v: nodes further out, 27 spreads, are nothing where float32 has no number for the density there."""
_RESOLVED = 1e-3
"""What the next number of float32 may move a coordinate by."""
_ROUGH = 0.3
"""A check by draws that cannot tell errors of so many nats is said to be none."""
_NARROW = 0.85
"""Of the variance of the draws: a proposal inside of the density has bounded weights."""


class UnknownError(Exception):
    """What was asked cannot be found out; the message says why."""


class Sum(NamedTuple):
    """The integral of a density over its support, and its moments where they were summed too."""

    log_value: float
    """Its logarithm, nats: 0 where the density is one."""
    limit: float
    """How far from 0 a right one can lie, nats."""
    how: str
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    products: Callable[[np.ndarray], np.ndarray] | None = None
    """The means of `x_i x_j`, of j = order[i] for every i, where the moments are known."""


class Drawn(NamedTuple):
    """A distribution with n draws [n, *event], their log-densities [n], and log_prob of flat values."""

    distribution: Distribution
    values: np.ndarray
    log_prob: np.ndarray
    score: Callable[[Array], Array]


def drawn(distribution: Distribution, key: PRNGKey, num_draws: int) -> Drawn:
    """Draws of a distribution over one event, each with a key of its own."""
    keys = jax.random.split(key, num_draws)
    values, log_probs = jit_quickly(jax.vmap(lambda k: sample_with_log_prob(distribution, k)))(keys)
    shape = distribution.event_shape
    return Drawn(
        distribution,
        np.asarray(values),
        np.asarray(log_probs, np.float64),
        lambda flat: log_prob(distribution, flat.reshape(shape)),
    )


def integrate(d: Drawn, false_alarm: float) -> Sum:
    """The integral of a density, in the first way of three that can be gone.

    - A support of few points is summed: `log sum_x p(x)`.
    - A density that is a product of factors f_d(x_d), times a constant, is `p(x0)` times the product of the D
      sums or integrals of `p(x0 with x_d = t) / p(x0)` over t. Whether it is one is found by exchanging values
      of two draws, for which `p(x) p(x') = p(y) p(y')`.
    - Else `E_p[r(x) / p(x)] = 1`, r a mixture of Gaussians fitted to other draws and narrower than they.

    Raises:
        UnknownError: none of them can.

    Source: Gelfand and Dey (1994), "Bayesian model choice: asymptotics and exact calculations", for the last.
    """
    if not can_score(d.distribution):
        return _by_draws(d, false_alarm)
    points = _all_points(d)
    if points is not None:
        return _over_points(d, points)
    if _is_product(d):
        try:
            return _by_lines(d)
        except UnknownError:
            if d.distribution.is_discrete:
                raise
    return _by_draws(d, false_alarm)


def draws_follow(d: Drawn, total: Sum | None, false_alarm: float) -> tuple[bool, str]:
    """Whether the draws are of the density: its moments where they are summed, else its scores.

    In coordinates u in which every value is allowed, `E[g'(u_i) + g(u_i) d log p / d u_i] = 0` for every smooth g
    whose product with p vanishes far out, and `E[g(u_j) d log p / d u_i] = 0` for j other than i, whatever the
    normaliser. Here g is 1, u - c, its sine and its cosine, and the sine for pairs. Of discrete values the means,
    squares and products of pairs are looked at.

    Raises:
        UnknownError: the density is not known at given values, or its derivative is not what is asked.

    Source: Stein (1981), "Estimation of the mean of a multivariate normal distribution".
    """
    if total is not None and total.mean is not None:
        flat = d.values.reshape(len(d.values), -1).astype(np.float64)
        assert total.square is not None
        assert total.products is not None
        columns, means = [flat, flat**2], [total.mean, total.square]
        for order in _pairings(flat.shape[1]):
            columns.append(flat * flat[:, order])
            means.append(total.products(order))
        found, exact = np.concatenate(columns, axis=1), np.concatenate(means)
        rounding = 1e-4 * np.maximum(1, np.abs(exact))
        test = z_test(found, exact, false_alarm=false_alarm, rounding=rounding)
        return test.passed, f"means, squares and products, worst z = {test.max_z:.1f}"
    if not can_score(d.distribution):
        raise UnknownError("the density is known at its own draws alone")
    found = _stein(d)
    test = z_test(found, 0.0, false_alarm=false_alarm, rounding=1e-3)
    return test.passed, f"Stein's identities, worst z = {test.max_z:.1f}"


def _stein(d: Drawn) -> np.ndarray:
    """Draws of `g'(u_i) + g(u_i) d log p / d u_i` and of `g(u_j) d log p / d u_i`, of mean 0 each, [n, columns]."""
    u, transform = _unconstrained(d)
    u = u.reshape(len(u), -1)
    if _repeated(u).any():
        raise UnknownError(
            "draws of real values repeat: some are masses, or float32 does not tell them apart at this scale"
        )
    shape = (-1,) if transform is None else jnp.shape(transform.inv(jnp.asarray(d.values[0])))

    def log_density(flat: Array) -> Array:
        if transform is None:
            return d.score(flat)
        u = flat.reshape(shape)
        with numpyro_promotion():
            x = transform(u)
            return d.score(x.reshape(-1)) + jnp.sum(transform.log_abs_det_jacobian(u, x))

    centre = np.median(u, axis=0)
    slopes = np.asarray(jit_quickly(jax.vmap(jax.grad(log_density)))(jnp.asarray(u)), np.float64)
    spread = np.maximum(u.std(axis=0), 1e-30)
    slopes, v = slopes * spread, (u - centre) / spread
    sine, cosine = np.sin(v), np.cos(v)
    columns = [slopes, 1 + v * slopes, cosine + sine * slopes, cosine * slopes - sine]
    columns += [sine[:, order] * slopes for order in _pairings(u.shape[1])]
    return np.concatenate(columns, axis=1)


def _pairings(size: int) -> list[np.ndarray]:
    """Orders in which no value is its own partner: all shifts of few values, some of many."""
    shifts = range(1, size) if size <= _ALL_PAIRS else (1, 2, size // 3, size // 2)
    return [np.roll(np.arange(size), shift) for shift in shifts]


def _unconstrained(d: Drawn) -> tuple[np.ndarray, Any]:
    """Draws in coordinates in which every number is allowed, and the transform from them."""
    support = d.distribution.support
    if d.distribution.is_discrete or support is None:
        raise UnknownError(f"no coordinates are known for the support {support}")
    each = of_one_value(support)
    if each is constraints.real:
        return d.values, None
    try:
        transform = biject_to(support if each.event_dim else each)
    except NotImplementedError:
        raise UnknownError(f"no coordinates are known for the support {support}") from None
    with numpyro_promotion():
        u = np.asarray(jit_quickly(jax.vmap(transform.inv))(jnp.asarray(d.values)))
        inner = np.nextafter(d.values, np.median(d.values, axis=0, keepdims=True))
        moved = np.asarray(jit_quickly(jax.vmap(transform.inv))(jnp.asarray(inner)))
    with np.errstate(invalid="ignore"):
        unresolved = ~(np.abs(moved - u) <= _RESOLVED * (1 + np.abs(u)))
    if unresolved.reshape(len(u), -1).any(axis=1).mean() > _RESOLVED or not np.isfinite(u).all():
        raise UnknownError(
            "draws lie so near to the border of the support that float32 rounds them"
        )
    return u, transform


def _repeated(flat: np.ndarray) -> np.ndarray:
    """Which columns of draws [n, D] hold the same numbers again and again: masses, not densities."""
    return np.array([len(np.unique(column)) < len(column) / 2 for column in flat.T], bool)


# Sums over points.


def _all_points(d: Drawn) -> np.ndarray | None:
    """Every value that a discrete distribution can take, [N, *event], if they are few."""
    distribution, shape = d.distribution, d.distribution.event_shape
    if not distribution.is_discrete:
        return None
    if isinstance(distribution, OneHotCategorical):  # whose support, bits, says less than it could
        return np.asarray(states(distribution), d.values.dtype)
    values, whole = _values_ofof_one_value(d)
    size = int(np.prod(shape, dtype=int))
    if not whole or size * np.log(len(values)) > np.log(LARGEST_TABLE):
        return None
    grid = np.meshgrid(*[values] * size, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=-1).reshape(-1, *shape)


def _values_ofof_one_value(d: Drawn) -> tuple[np.ndarray, bool]:
    """The numbers that each value of a discrete x can be, and whether these are all."""
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
    """A bound that is the same for every value, as one number."""
    if bound is None or np.size(bound) == 0 or not np.all(bound == np.ravel(bound)[0]):
        return bound
    return np.ravel(bound)[0]


def _over_points(d: Drawn, points: np.ndarray) -> Sum:
    flat = points.reshape(len(points), -1)
    log_p = np.asarray(jit_quickly(jax.vmap(d.score))(jnp.asarray(flat)), np.float64)
    log_value = float(np.logaddexp.reduce(log_p))
    probs = np.exp(log_p - log_value)
    flat = flat.astype(np.float64)

    def products(order: np.ndarray) -> np.ndarray:
        return probs @ (flat * flat[:, order])

    how = f"the sum over {len(points):,} points"
    return Sum(log_value, TOLERANCE, how, probs @ flat, probs @ flat**2, products)


# Products of one factor a value.


def _is_product(d: Drawn) -> bool:
    """Whether exchanging values between two draws leaves the product of their densities as it is."""
    flat = d.values.reshape(len(d.values), -1)
    size = flat.shape[1]
    if size == 1:
        return True
    half = min(64, len(flat) // 2)
    a, b = flat[:half], flat[half : 2 * half]
    swap = np.random.default_rng(0).random((half, size)) < 0.5
    swap[:, 0], swap[:, -1] = True, False  # something is exchanged, something stays
    exchanged = np.where(swap, b, a), np.where(swap, a, b)
    score = jit_quickly(jax.vmap(d.score))
    before, after = (
        [np.asarray(score(jnp.asarray(rows)), np.float64) for rows in pair]
        for pair in ((a, b), exchanged)
    )
    difference = np.abs(sum(before) - sum(after))
    scale = 1 + np.abs(before[0]) + np.abs(before[1])
    return bool(np.all(difference <= 1e-5 * scale))  # NaN and infinity say no


def _by_lines(d: Drawn) -> Sum:
    """`p(x0) prod_d sum_t p(x0 with x_d = t) / p(x0)`, each sum or integral by itself."""
    values, log_weight, v = _lines(d)  # [G, D], [G, D], [G]
    discrete, size = d.distribution.is_discrete, values.shape[1]
    draws = d.values.reshape(len(d.values), -1)
    own = draws[:1] if discrete else draws[:_DRAWS_A_LINE]
    at_start, at_own, log_f = _along(d, draws[0], own, values)
    # Far out, where float32 has no such number of the support or of the density, there is nothing.
    within = np.isfinite(values) & np.isfinite(log_weight)
    within &= ~((np.abs(v) > _FAR)[:, None] & ~(log_f < np.inf))
    log_f = np.where(within, log_f, -np.inf)
    terms, how = log_f + np.where(within, log_weight, 0), f"along {size:,} values"
    if np.any(np.isnan(terms)):
        return Sum(np.nan, TOLERANCE, f"sums {how}, which are NaN")
    each = np.logaddexp.reduce(terms, axis=0)
    log_value = at_start + float(each.sum())
    limit = TOLERANCE + size * float(np.finfo(np.float32).eps) * abs(at_start)
    if discrete:
        tail = float(np.max(terms[-1] - each)) if not _values_ofof_one_value(d)[1] else -np.inf
        if tail > np.log(1e-6):
            raise UnknownError("the tail of the counts is too long to be summed")
        probs, values = np.exp(terms - each), values.astype(np.float64)
        mean, square = (probs * values).sum(0), (probs * values**2).sum(0)
        how = f"the product of sums {how}"
        return Sum(log_value, limit, how, mean, square, lambda order: mean * mean[order])
    _require_smooth(own, at_own, values, log_f)
    coarse = np.logaddexp.reduce(terms[::2] + np.log(2), axis=0)
    error = float(np.abs(coarse - each).sum())
    if not error <= _ROUGH:
        raise UnknownError(f"the integrals along each value are known to {error:.1g} nats alone")
    return Sum(log_value, limit + error, f"the product of integrals {how}")


def _along(
    d: Drawn, start: np.ndarray, own: np.ndarray, values: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """`log p(x0)`, and `log p(x0 with x_d = t) - log p(x0)` at some draws and at the nodes, [.., D].

    The start is a value of each line too, so that its rounding, which counts D times, is that of the others.
    """

    def line(index_and_column: tuple[Array, Array]) -> Array:
        index, column = index_and_column
        return jax.vmap(lambda value: d.score(jnp.asarray(start).at[index].set(value)))(column)

    columns = np.concatenate([start[None], own, values.astype(start.dtype)])
    arguments = jnp.arange(len(start)), jnp.asarray(columns.T)
    log_p = np.asarray(jit_quickly(lambda c: jax.lax.map(line, c))(arguments), np.float64).T
    with np.errstate(invalid="ignore"):
        log_f = log_p[1:] - log_p[0]
    return float(log_p[0].mean()), log_f[: len(own)], log_f[len(own) :]


def _require_smooth(
    draws: np.ndarray, at_draws: np.ndarray, values: np.ndarray, log_f: np.ndarray
) -> None:
    """Refuse lines whose density is at a draw e times what it is at the nodes beside it.

    Raises:
        UnknownError: something is narrower than a step.
    """
    for d in range(values.shape[1]):
        order = np.argsort(values[:, d])
        nodes, heights = values[order, d], log_f[order, d]
        place = np.clip(np.searchsorted(nodes, draws[:, d]), 1, len(nodes) - 1)
        if np.any(at_draws[:, d] > 1 + np.maximum(heights[place - 1], heights[place])):
            raise UnknownError("the density has something narrower than the nodes of the integral")


def _lines(d: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes along each value of x [G, D], the logarithms of their weights [G, D], and how far out they are [G]."""
    size = int(np.prod(d.distribution.event_shape, dtype=int))
    if d.distribution.is_discrete:
        values = np.repeat(_values_ofof_one_value(d)[0][:, None], size, axis=1)
        return values, np.zeros_like(values, np.float64), np.zeros(len(values))
    u, transform = _unconstrained(d)
    if u.shape != d.values.shape or _repeated(u.reshape(len(u), -1)).any():
        raise UnknownError("the values of x cannot be moved one by one")
    low, centre, high = np.quantile(u.astype(np.float64), [0.05, 0.5, 0.95], axis=0)
    spread = np.maximum(high - low, 1e-30) / 3.3
    v = _NODES.reshape(-1, *[1] * centre.ndim)
    nodes = (centre + spread * np.sinh(v)).astype(d.values.dtype)
    log_weight = np.log(spread * np.cosh(v) * (_NODES[1] - _NODES[0]))
    if transform is not None:
        with numpyro_promotion():
            x = jax.vmap(transform)(jnp.asarray(nodes))
            slope = jax.vmap(transform.log_abs_det_jacobian)(jnp.asarray(nodes), x)
        log_weight, nodes = log_weight + np.asarray(slope, np.float64), np.asarray(x)
    return nodes.reshape(len(nodes), size), log_weight.reshape(len(nodes), size), _NODES


# Draws.


def _by_draws(d: Drawn, false_alarm: float) -> Sum:
    """`1 / E_p[r(x) / p(x)]`, r fitted to one half of the draws and used on the other."""
    if d.distribution.is_discrete:
        raise UnknownError(
            f"its support has more than {LARGEST_TABLE:,} points, and its values depend on each other"
        )
    u, transform = _unconstrained(d)
    log_p = d.log_prob
    if transform is not None:
        with numpyro_promotion():
            slope = jax.vmap(transform.log_abs_det_jacobian)(jnp.asarray(u), jnp.asarray(d.values))
        log_p = log_p + np.asarray(slope, np.float64).reshape(len(u), -1).sum(axis=1)
    u = u.reshape(len(u), -1).astype(np.float64)
    if u.shape[1] > _DIMENSIONS:
        raise UnknownError(f"more than {_DIMENSIONS} values that depend on each other")
    half = len(u) // 2
    log_r = _proposal(u[:half])(u[half:])
    weights = np.exp(log_r - log_p[half:])
    mean = float(weights.mean())
    if not np.isfinite(mean):
        return Sum(np.nan, TOLERANCE, "the mean of r / p over draws, which is no number")
    if mean == 0:
        raise UnknownError("no draw lies where a mixture of Gaussians fitted to draws does")
    relative = float(standard_error(weights)) / mean
    limit = normal_quantile(false_alarm / 2) * relative
    if limit > _ROUGH:
        raise UnknownError(f"{half:,} draws tell the integral to {limit:.1g} nats alone")
    # The logarithm of a mean bends by half its variance; a tenth of a nat is the least that is told.
    return Sum(-np.log(mean), TOLERANCE + limit, f"the mean of r / p over {half:,} draws")


def _proposal(u: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The log-density of a narrower copy of draws [n, D]; values that repeat are masses of their own.

    Patterns of such values with too few draws are left out: r has to lie inside of p and needs not cover it.
    """
    from sklearn.mixture import GaussianMixture

    masses = _repeated(u)
    patterns, which = np.unique(u[:, masses], axis=0, return_inverse=True)
    counts = np.bincount(which.ravel(), minlength=len(patterns))
    enough = counts >= max(50, 10 * (~masses).sum())
    if not enough.any():
        raise UnknownError("too few draws of each of the masses")
    fitted = {}
    for i in np.flatnonzero(enough):
        rows = u[which.ravel() == i][:, ~masses]
        components = 8 if len(rows) >= 800 * rows.shape[1] else 1
        mixture = GaussianMixture(components, random_state=0).fit(rows)
        mixture.precisions_cholesky_ = mixture.precisions_cholesky_ / np.sqrt(_NARROW)
        fitted[i] = np.log(counts[i] / counts[enough].sum()), mixture

    def log_density(u: np.ndarray) -> np.ndarray:
        found = np.full(len(u), -np.inf)
        for i, (log_share, mixture) in fitted.items():
            here = np.all(u[:, masses] == patterns[i], axis=1)
            if here.any():
                found[here] = log_share + mixture.score_samples(u[here][:, ~masses])
        return found

    return log_density
