"""Families of q(z) for one example: pytrees of free parameters, each of which makes a distribution."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.transforms import LowerCholeskyAffine

from jaxvae.checks import require_choice
from jaxvae.distributions import SplineCoupling, describe, sample
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.models.conditioners import ContextMLP
from jaxvae.types import InputError, PRNGKey

FamilyName: TypeAlias = Literal["diagonal", "full", "flow"]

NUM_COUPLINGS, NUM_BINS, HIDDEN = 2, 8, (32,)
CONTEXT_SIZE = 1
"""Of zeros: a flow of one example needs no context, but `jax.lax.map` takes no arrays of size 0."""

NETWORK_RATE = 0.1
"""Of the learning rate, for the networks of a flow: at the whole of it they are thrown off."""

NUM_MOMENT_SAMPLES = 256


class Diagonal(NamedTuple):
    """`q = N(mean, diag(exp(log_scale))^2)`."""

    mean: Float[Array, "D"]
    log_scale: Float[Array, "D"]

    def distribution(self) -> Distribution:
        """q(z)."""
        return dist.Normal(self.mean, jnp.exp(self.log_scale)).to_event(1)


class Full(NamedTuple):
    """`q = N(mean, L L')`, `L = diag(exp(log_scale)) (I + tril(lower, -1))`."""

    mean: Float[Array, "D"]
    log_scale: Float[Array, "D"]
    lower: Float[Array, "D D"]

    def distribution(self) -> Distribution:
        """q(z)."""
        return dist.MultivariateNormal(self.mean, scale_tril=scale_tril(self))


class Flowing(NamedTuple):
    """`z = mean + L g(e)`, e ~ N(0, I), g a chain of spline couplings, L as in `Full`.

    With g the identity, which is near to where it starts, it is `Full`: the couplings see
    standardised values whatever the size of q, and the family holds the other two.
    """

    mean: Float[Array, "D"]
    log_scale: Float[Array, "D"]
    lower: Float[Array, "D D"]
    conditioners: tuple[ContextMLP, ...]

    def distribution(self) -> Distribution:
        """q(z)."""
        zeros = jnp.zeros_like(self.mean)
        base = dist.Normal(zeros, jnp.ones_like(zeros)).to_event(1)
        no_context = jnp.zeros(CONTEXT_SIZE, zeros.dtype)
        flows: list[Any] = [
            SplineCoupling(conditioner, no_context, parity=i % 2)
            for i, conditioner in enumerate(self.conditioners)
        ]
        affine = LowerCholeskyAffine(self.mean, scale_tril(self))
        return dist.TransformedDistribution(base, [*flows, affine])


Family: TypeAlias = Diagonal | Full | Flowing


def scale_tril(family: Full | Flowing) -> Float[Array, "D D"]:
    """L, lower triangular."""
    unit = jnp.eye(family.mean.size) + jnp.tril(family.lower, -1)
    return jnp.exp(family.log_scale)[:, None] * unit


def begin(
    key: PRNGKey, name: FamilyName, mean: Float[Array, "D"], scale: Float[Array, "D"]
) -> Family:
    """The member of a family that is, or for a flow nearly is, `N(mean, diag(scale)^2)`.

    Args:
        key: for the weights of a flow.
        name: which family.
        mean: [D].
        scale: standard deviations [D].

    Raises:
        InputError: there is no family of this name.
    """
    require_family(name)
    size, log_scale = mean.size, jnp.log(scale)
    if name == "diagonal":
        return Diagonal(mean, log_scale)
    lower = jnp.zeros((size, size), mean.dtype)
    if name == "full":
        return Full(mean, log_scale, lower)
    rngs = nnx.Rngs(key)
    conditioners = tuple(
        ContextMLP(size, CONTEXT_SIZE, HIDDEN, size * (3 * NUM_BINS - 1), rngs=rngs)
        for _ in range(min(NUM_COUPLINGS, size))  # one latent has nothing to take turns with
    )
    return Flowing(mean, log_scale, lower, conditioners)


def slowed(updates: Any) -> Any:
    """The updates of a family's parameters, those of networks at `NETWORK_RATE` of the rate."""
    if not isinstance(updates, Flowing):
        return updates
    slow = jax.tree.map(lambda update: NETWORK_RATE * update, updates.conditioners)
    return updates._replace(conditioners=slow)


def family_of(q: Distribution) -> str:
    """The name of the family that q is of: one of `FamilyName`, or that of its class."""
    base = q.base_dist if isinstance(q, dist.Independent) else q
    if isinstance(base, dist.MultivariateNormal):
        return "full"
    if isinstance(base, dist.Normal) and q.event_dim == 1:
        return "diagonal"
    return describe(q)


def moments(key: PRNGKey, q: Distribution) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
    """Mean [D] and standard deviations [D]: in closed form, or of 256 draws where there is none."""
    try:
        with numpyro_promotion():
            mean, variance = jnp.asarray(q.mean), jnp.asarray(q.variance)
    except NotImplementedError:
        keys = jax.random.split(key, NUM_MOMENT_SAMPLES)
        z = jax.vmap(lambda key: sample(q, key))(keys)
        mean, variance = jnp.mean(z, axis=0), jnp.var(z, axis=0)
    return mean, jnp.sqrt(variance)


def require_family(name: Any) -> None:
    """Refuse a name that is no family's.

    Raises:
        InputError: it is not one of `FamilyName`.
    """
    require_choice("family", name, get_args(FamilyName))


def require_real_latent(p: Distribution) -> None:
    """Refuse a prior over anything but real vectors, which are all that the families can reach.

    Raises:
        InputError: the latent is discrete, confined to a part of the line, or no vector.
    """
    support: Any = p.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if len(p.event_shape) != 1 or not (
        support is constraints.real or support is constraints.real_vector
    ):
        raise InputError(
            "model: expected a latent that is a vector of reals, which a normal or a flow can reach, "
            f"got the prior {describe(p)} over {support} of event shape {p.event_shape}"
        )
