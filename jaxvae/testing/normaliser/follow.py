"""Tests that draws follow the stated density."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxvae.compiling import jit_quickly
from jaxvae.distributions import can_score
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.testing.normaliser.drawn import Drawn, Sum, UnknownError, repeated, unconstrained
from jaxvae.testing.statistics import z_test

_ALL_PAIRS = 16
"""The largest number of values of which all pairs are compared; of more values only some pairs are."""


def draws_follow(d: Drawn, total: Sum | None, false_alarm: float) -> tuple[bool, str]:
    """Test whether the draws follow the density: by its moments if they are known, else by its score function.

    In unconstrained coordinates u, `E[g'(u_i) + g(u_i) d log p / d u_i] = 0` for every smooth g whose product with
    p vanishes at infinity, and `E[g(u_j) d log p / d u_i] = 0` for j other than i, whatever the normaliser. Here g
    is 1, u - c, its sine and its cosine, and the sine for pairs. If the moments are known (discrete values), the
    means, squares and products of pairs are tested instead.

    Raises:
        UnknownError: the density cannot be evaluated at given values, or its support has point masses or no
            unconstrained coordinates.

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
    """Evaluate `g'(u_i) + g(u_i) d log p / d u_i` and `g(u_j) d log p / d u_i` at the draws, [n, columns]; mean 0."""
    u, transform = unconstrained(d)
    u = u.reshape(len(u), -1)
    if repeated(u).any():
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
    """Return orders without fixed points, to pair values: all cyclic shifts of few values, some of many."""
    shifts = range(1, size) if size <= _ALL_PAIRS else (1, 2, size // 3, size // 2)
    return [np.roll(np.arange(size), shift) for shift in shifts]
