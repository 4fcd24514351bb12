"""Hamiltonian Monte Carlo on a path of densities: one transition of one chain.

A separate implementation, not that of a sampling library: the log-densities of both ends of the path
are stored with their gradients, so that a new temperature needs no new evaluation, and no dependency
is added for a few lines.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae.types import PRNGKey

JITTER = 0.2
"""The relative random variation of step sizes, without which a trajectory can be periodic."""


class Point(NamedTuple):
    """A latent z, the terms of the path `log f_t(z) = base(z) + t * slope(z)`, 0 <= t <= 1, and their gradients."""

    z: Float[Array, "*latent"]
    base: Float[Array, ""]
    slope: Float[Array, ""]
    base_gradient: Float[Array, "*latent"]
    slope_gradient: Float[Array, "*latent"]

    def gradient(self, t: Float[Array, ""]) -> Float[Array, "*latent"]:
        """Return the gradient of log f_t at z."""
        return self.base_gradient + t * self.slope_gradient


Evaluate: TypeAlias = Callable[[Array], Point]
"""`z -> Point`: `base`, `slope` and their gradients at a latent."""


def transition(
    key: PRNGKey,
    point: Point,
    t: Float[Array, ""],
    step_size: Float[Array, ""],
    *,
    evaluate: Evaluate,
    num_leapfrog: int,
) -> tuple[Point, Float[Array, ""]]:
    """Make one transition that leaves f_t invariant: momentum, leapfrog steps, Metropolis test.

    `momentum ~ N(0, I)`. A leapfrog step is a half step of the momentum, a step of z and another half
    step of the momentum; adjacent half steps are merged. The end point is accepted with probability
    `min(1, exp(H(start) - H(end)))`, where `H = |momentum|^2 / 2 - log f_t(z)`. An end point with H = NaN
    is rejected.

    Args:
        key: one typed key.
        point: the current point of the chain.
        t: the temperature.
        step_size: the leapfrog step size; the actual one is drawn within 20 % of it.
        evaluate: the path.
        num_leapfrog: number of leapfrog steps, of one evaluation each.

    Returns:
        The next point of the chain, and the acceptance probability.

    Source: Neal (2011), "MCMC using Hamiltonian dynamics", sections 3.2 and 4.2.
    """
    of_momentum, of_uniform = jax.random.split(key)
    start = jax.random.normal(of_momentum, point.z.shape, point.z.dtype)
    jitter, threshold = jax.random.uniform(of_uniform, (2,))
    step = step_size * (1 + JITTER * (2 * jitter - 1))

    def leapfrog(_: Array, state: tuple[Point, Array]) -> tuple[Point, Array]:
        at, momentum = state
        at = evaluate(at.z + step * momentum)
        return at, momentum + step * at.gradient(t)

    half = step / 2
    first = start + half * point.gradient(t)
    end, momentum = jax.lax.fori_loop(0, num_leapfrog, leapfrog, (point, first))
    momentum = momentum - half * end.gradient(t)
    # Like terms are subtracted first, since the energies themselves may be thousands of nats.
    kinetic = jnp.sum((start - momentum) * (start + momentum)) / 2
    log_ratio = kinetic + (end.base - point.base) + t * (end.slope - point.slope)
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    accepted = jnp.log(threshold) < log_ratio
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point)
    return chosen, jnp.exp(jnp.minimum(log_ratio, 0.0))
