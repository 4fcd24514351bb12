"""Hamiltonian Monte Carlo on a path of densities: one chain, one transition, a few lines.

Its own kernel, not one of a sampling library: on the path both ends are kept with their gradients, so
a new temperature costs no new evaluation, and there is no further dependency for these lines.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae.types import PRNGKey

JITTER = 0.2
"""Step sizes vary by this share at random: with one length, a trajectory can close on itself."""


class Point(NamedTuple):
    """A latent z on the path `log f_t(z) = base(z) + t * slope(z)`, t from 0 to 1."""

    z: Float[Array, "*latent"]
    base: Float[Array, ""]
    slope: Float[Array, ""]
    base_gradient: Float[Array, "*latent"]
    slope_gradient: Float[Array, "*latent"]

    def gradient(self, t: Float[Array, ""]) -> Float[Array, "*latent"]:
        """The gradient of log f_t at z."""
        return self.base_gradient + t * self.slope_gradient


Evaluate: TypeAlias = Callable[[Array], Point]
"""`z -> Point`: both log-densities and their gradients at a latent."""


def transition(
    key: PRNGKey,
    point: Point,
    t: Float[Array, ""],
    step_size: Float[Array, ""],
    *,
    evaluate: Evaluate,
    num_leapfrog: int,
) -> tuple[Point, Float[Array, ""]]:
    """One transition that leaves f_t invariant: momentum, leapfrog steps, Metropolis test.

    `momentum ~ N(0, I)`; a step is a half kick, a drift and a half kick, of which neighbours share
    one; the end is accepted with probability `min(1, exp(H(start) - H(end)))`, where
    `H = |momentum|^2 / 2 - log f_t(z)`. An end where H is not a number is rejected.

    Args:
        key: one typed key.
        point: where the chain is.
        t: the temperature.
        step_size: of the leapfrog; what is used is drawn within 20 % of it.
        evaluate: the path.
        num_leapfrog: steps, of one evaluation each.

    Returns:
        Where the chain is then, and the probability with which the end was accepted.

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
    # Differences of like terms first: the energies themselves may be thousands of nats.
    kinetic = jnp.sum((start - momentum) * (start + momentum)) / 2
    log_ratio = kinetic + (end.base - point.base) + t * (end.slope - point.slope)
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    accepted = jnp.log(threshold) < log_ratio
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point)
    return chosen, jnp.exp(jnp.minimum(log_ratio, 0.0))
