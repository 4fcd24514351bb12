"""The integral of a density that is a product over values: one sum or integral along each value."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxvae.compiling import jit_quickly
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.testing.normaliser.drawn import (
    ROUGH,
    TOLERANCE,
    Drawn,
    Sum,
    UnknownError,
    repeated,
    unconstrained,
)
from jaxvae.testing.normaliser.points import values_of_one

_NODES = np.arange(-12, 12.01, 1 / 16)
"""The nodes v of a trapezoid rule, x = centre + spread * sinh(v): up to 1e5 spreads out, in steps of 1/16."""
_FAR = 4.0
"""The |v| (27 spreads) beyond which a node counts as 0 if the density there is not a float32 number."""
_DRAWS_A_LINE = 256


def is_product(d: Drawn) -> bool:
    """Return whether exchanging values between two draws leaves the product of their densities unchanged."""
    flat = d.values.reshape(len(d.values), -1)
    size = flat.shape[1]
    if size == 1:
        return True
    half = min(64, len(flat) // 2)
    a, b = flat[:half], flat[half : 2 * half]
    swap = np.random.default_rng(0).random((half, size)) < 0.5
    swap[:, 0], swap[:, -1] = True, False  # at least one value is exchanged and one is not
    exchanged = np.where(swap, b, a), np.where(swap, a, b)
    score = jit_quickly(jax.vmap(d.score))
    before, after = (
        [np.asarray(score(jnp.asarray(rows)), np.float64) for rows in pair]
        for pair in ((a, b), exchanged)
    )
    difference = np.abs(sum(before) - sum(after))
    scale = 1 + np.abs(before[0]) + np.abs(before[1])
    return bool(np.all(difference <= 1e-5 * scale))  # False for NaN and infinity


def by_lines(d: Drawn) -> Sum:
    """Compute `p(x0) prod_d sum_t p(x0 with x_d = t) / p(x0)`, each sum or integral separately."""
    values, log_weight, v = _lines(d)  # [G, D], [G, D], [G]
    discrete, size = d.distribution.is_discrete, values.shape[1]
    draws = d.values.reshape(len(d.values), -1)
    own = draws[:1] if discrete else draws[:_DRAWS_A_LINE]
    at_start, at_own, log_f = _along(d, draws[0], own, values)
    # Far out, nodes or densities that float32 cannot represent count as 0.
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
        tail = float(np.max(terms[-1] - each)) if not values_of_one(d)[1] else -np.inf
        if tail > np.log(1e-6):
            raise UnknownError("the tail of the counts is too long to be summed")
        probs, values = np.exp(terms - each), values.astype(np.float64)
        mean, square = (probs * values).sum(0), (probs * values**2).sum(0)
        how = f"the product of sums {how}"
        return Sum(log_value, limit, how, mean, square, lambda order: mean * mean[order])
    _require_smooth(own, at_own, values, log_f)
    coarse = np.logaddexp.reduce(terms[::2] + np.log(2), axis=0)
    error = float(np.abs(coarse - each).sum())
    if not error <= ROUGH:
        raise UnknownError(f"the integrals along each value are known to {error:.1g} nats alone")
    return Sum(log_value, limit + error, f"the product of integrals {how}")


def _along(
    d: Drawn, start: np.ndarray, own: np.ndarray, values: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return `log p(x0)`, and `log p(x0 with x_d = t) - log p(x0)` at some draws and at the nodes, [.., D].

    x0 is evaluated again on each line, with the rounding of the other points there, as its error enters D times.
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
    """Refuse lines whose density at a draw is more than e times the density at the neighbouring nodes.

    Raises:
        UnknownError: the density has a feature narrower than a step.
    """
    for d in range(values.shape[1]):
        order = np.argsort(values[:, d])
        nodes, heights = values[order, d], log_f[order, d]
        place = np.clip(np.searchsorted(nodes, draws[:, d]), 1, len(nodes) - 1)
        if np.any(at_draws[:, d] > 1 + np.maximum(heights[place - 1], heights[place])):
            raise UnknownError("the density has something narrower than the nodes of the integral")


def _lines(d: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nodes along each value of x [G, D], their log-weights [G, D], and their v [G] (0 if discrete)."""
    size = int(np.prod(d.distribution.event_shape, dtype=int))
    if d.distribution.is_discrete:
        values = np.repeat(values_of_one(d)[0][:, None], size, axis=1)
        return values, np.zeros_like(values, np.float64), np.zeros(len(values))
    u, transform = unconstrained(d)
    if u.shape != d.values.shape or repeated(u.reshape(len(u), -1)).any():
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
