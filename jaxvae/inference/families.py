"""Families of q(z) for one example, as pytrees of free parameters with a `distribution`."""

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
"""Size of a context of zeros: a flow of one example needs none, but `jax.lax.map` accepts no arrays of size 0."""

NETWORK_RATE = 0.1
"""The factor on the learning rate of the networks of a flow, which diverge at the full rate."""

NUM_MOMENT_SAMPLES = 256


class Diagonal(NamedTuple):
    """A diagonal normal, `q = N(mean, diag(exp(log_scale))^2)`."""

    mean: Float[Array, "D"]
    log_scale: Float[Array, "D"]

    def distribution(self) -> Distribution:
        """q(z)."""
        return dist.Normal(self.mean, jnp.exp(self.log_scale)).to_event(1)


class Full(NamedTuple):
    """A full normal, `q = N(mean, L L')`, `L = diag(exp(log_scale)) (I + tril(lower, -1))`."""

    mean: Float[Array, "D"]
    log_scale: Float[Array, "D"]
    lower: Float[Array, "D D"]

    def distribution(self) -> Distribution:
        """q(z)."""
        return dist.MultivariateNormal(self.mean, scale_tril=scale_tril(self))


class Flowing(NamedTuple):
    """A flow, `z = mean + L g(e)`, e ~ N(0, I), g a chain of spline couplings, L as in `Full`.

    If g is the identity, as it nearly is initially, this is `Full`. So the couplings act on
    standardised values whatever the scale of q, and the family contains the other two.
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
    """Return L, lower triangular [D, D]."""
    unit = jnp.eye(family.mean.size) + jnp.tril(family.lower, -1)
    return jnp.exp(family.log_scale)[:, None] * unit


def begin(
    key: PRNGKey, name: FamilyName, mean: Float[Array, "D"], scale: Float[Array, "D"]
) -> Family:
    """Return the member of a family that equals, or for a flow nearly equals, `N(mean, diag(scale)^2)`.

    Args:
        key: one typed key, for the weights of a flow.
        name: the name of the family.
        mean: means [D].
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
        for _ in range(min(NUM_COUPLINGS, size))  # with one latent there is nothing to alternate
    )
    return Flowing(mean, log_scale, lower, conditioners)


def slowed(updates: Any) -> Any:
    """Return the updates of a family's parameters, with those of networks scaled by `NETWORK_RATE`."""
    if not isinstance(updates, Flowing):
        return updates
    slow = jax.tree.map(lambda update: NETWORK_RATE * update, updates.conditioners)
    return updates._replace(conditioners=slow)


def family_of(q: Distribution) -> str:
    """Return the name of the family of q: one of `FamilyName`, or else the name of its distribution."""
    base = q.base_dist if isinstance(q, dist.Independent) else q
    if isinstance(base, dist.MultivariateNormal):
        return "full"
    if isinstance(base, dist.Normal) and q.event_dim == 1:
        return "diagonal"
    return describe(q)


def moments(key: PRNGKey, q: Distribution) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
    """Return means [D] and standard deviations [D] of q, in closed form if there is one, else from 256 samples."""
    try:
        with numpyro_promotion():
            mean, variance = jnp.asarray(q.mean), jnp.asarray(q.variance)
    except NotImplementedError:
        keys = jax.random.split(key, NUM_MOMENT_SAMPLES)
        z = jax.vmap(lambda key: sample(q, key))(keys)
        mean, variance = jnp.mean(z, axis=0), jnp.var(z, axis=0)
    return mean, jnp.sqrt(variance)


def require_family(name: Any) -> None:
    """Refuse an unknown name of a family.

    Raises:
        InputError: the name is not one of `FamilyName`.
    """
    require_choice("family", name, get_args(FamilyName))


def require_real_latent(p: Distribution) -> None:
    """Refuse a prior that is not over real vectors, the support of the families.

    Raises:
        InputError: the latent is discrete, restricted to a part of the real line, or not a vector.
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
