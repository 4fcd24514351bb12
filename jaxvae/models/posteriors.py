"""Families of q(z|x) as functions of the encoder's output, each with its prior."""

from typing import Literal, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_choice, require_integer
from jaxvae.distributions import (
    FloatBernoulli,
    Flow,
    InverseAutoregressive,
    OneHotCategorical,
    Planar,
    SplineCoupling,
)
from jaxvae.models.conditioners import ContextMLP, MaskedMLP
from jaxvae.models.likelihoods import variance_of
from jaxvae.types import InputError

PosteriorName: TypeAlias = Literal[
    "diagonal",
    "full_covariance",
    "laplace",
    "bernoulli",
    "categorical",
    "planar",
    "iaf",
    "spline",
]


@runtime_checkable
class Posterior(Protocol):
    """A family of q(z|x): the size of the encoder's output, the size of z, the prior and the posterior."""

    num_outputs: int
    """Size of the encoder's output."""
    size: int
    """Size of z."""

    def prior(self) -> dist.Distribution:
        """p(z) over one latent [size]."""
        ...

    def __call__(self, output: Float[Array, "num_outputs"], /) -> dist.Distribution:
        """q(z|x) over one latent [size]."""
        ...


class Diagonal(nnx.Module):
    """A diagonal normal: `q = N(mean, diag(softplus(raw) + 1e-8))`, `[mean, raw] = output` [2 D]; prior N(0, I)."""

    def __init__(self, latent_dim: int):
        self.size, self.num_outputs = latent_dim, 2 * latent_dim

    def prior(self) -> dist.Distribution:
        """p(z) = N(0, I)."""
        return dist.Normal(jnp.zeros(self.size), jnp.ones(self.size)).to_event(1)

    def __call__(self, output: Float[Array, "num_outputs"]) -> dist.Distribution:
        """q(z|x), normal with independent entries."""
        mean, raw = jnp.split(output, 2)
        return dist.Normal(mean, jnp.sqrt(variance_of(raw))).to_event(1)


class FullCovariance(Diagonal):
    """A full normal: `q = N(mean, L L')`, `[mean, raw, lower] = output` [2 D + D (D - 1) / 2]; prior N(0, I).

    L has `sqrt(softplus(raw) + 1e-8)` on its diagonal and `lower`, row by row, below it.
    """

    def __init__(self, latent_dim: int):
        super().__init__(latent_dim)
        self.num_outputs = 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def __call__(self, output: Float[Array, "num_outputs"]) -> dist.Distribution:
        """q(z|x), normal with correlated entries."""
        mean, raw, lower = jnp.split(output, [self.size, 2 * self.size])
        rows, columns = jnp.tril_indices(self.size, -1)
        tril = jnp.diag(jnp.sqrt(variance_of(raw))).at[rows, columns].set(lower)
        return dist.MultivariateNormal(mean, scale_tril=tril)


class Laplace(nnx.Module):
    """`q = Laplace(mean, sqrt(softplus(raw) + 1e-8))`, `[mean, raw] = output` [2 D]; prior Laplace(0, 1)."""

    def __init__(self, latent_dim: int):
        self.size, self.num_outputs = latent_dim, 2 * latent_dim

    def prior(self) -> dist.Distribution:
        """p(z), independent Laplace(0, 1) entries."""
        return dist.Laplace(jnp.zeros(self.size), jnp.ones(self.size)).to_event(1)

    def __call__(self, output: Float[Array, "num_outputs"]) -> dist.Distribution:
        """q(z|x), Laplace with independent entries."""
        mean, raw = jnp.split(output, 2)
        return dist.Laplace(mean, jnp.sqrt(variance_of(raw))).to_event(1)


class Bernoulli(nnx.Module):
    """Independent bits, 0.0 or 1.0, with `logits = output` [D]; the prior probability of a 1 is 1/2."""

    def __init__(self, latent_dim: int):
        self.size = self.num_outputs = latent_dim

    def prior(self) -> dist.Distribution:
        """p(z) = 2^-D."""
        return FloatBernoulli(jnp.zeros(self.size)).to_event(1)

    def __call__(self, output: Float[Array, "D"]) -> dist.Distribution:
        """q(z|x) over bits."""
        return FloatBernoulli(output).to_event(1)


class Categorical(nnx.Module):
    """D independent one-hot vectors of C classes, in one z [D * C], with `logits = output`; prior 1 / C each."""

    def __init__(self, latent_dim: int, num_categories: int):
        self.latent_dim, self.num_categories = latent_dim, num_categories
        self.size = self.num_outputs = latent_dim * num_categories

    def prior(self) -> dist.Distribution:
        """p(z) = C^-D."""
        return self(jnp.zeros(self.size))

    def __call__(self, output: Float[Array, "num_outputs"]) -> dist.Distribution:
        """q(z|x) over one-hot vectors."""
        return OneHotCategorical(output.reshape(self.latent_dim, self.num_categories))


class PlanarFlow(Diagonal):
    """A diagonal normal, given by the encoder, through planar flows; prior N(0, I).

    `[mean, raw, b] = output` [2 D + num_flows]: w and u of each flow are shared by all x, its offset
    b is an output of the encoder.

    Departs from the source: Rezende and Mohamed (2015) take w and u from the encoder as well.
    """

    def __init__(self, latent_dim: int, *, num_flows: int = 8, rngs: nnx.Rngs):
        super().__init__(latent_dim)
        self.num_outputs = 2 * latent_dim + num_flows
        draw = nnx.initializers.normal(latent_dim**-0.5)
        self.w = nnx.Param(draw(rngs.params(), (num_flows, latent_dim)))
        self.u = nnx.Param(draw(rngs.params(), (num_flows, latent_dim)))

    def __call__(self, output: Float[Array, "num_outputs"]) -> dist.Distribution:
        """q(z|x), which can score only its own samples."""
        moments, offsets = jnp.split(output, [2 * self.size])
        flows: list = [Planar(self.w[i], self.u[i], offsets[i]) for i in range(self.w.shape[0])]
        return dist.TransformedDistribution(super().__call__(moments), flows)


class _ContextFlow(Diagonal):
    """A diagonal normal through flows with a context, both given by the encoder."""

    conditioners: nnx.List

    def __init__(self, latent_dim: int, context_size: int):
        super().__init__(latent_dim)
        self.num_outputs = 2 * latent_dim + context_size

    def flow(self, index: int, context: Array) -> Flow:
        """Return flow `index`, conditioned on the context."""
        raise NotImplementedError

    def __call__(self, output: Float[Array, "num_outputs"]) -> dist.Distribution:
        """q(z|x) as a chain of flows over a normal."""
        moments, context = jnp.split(output, [2 * self.size])
        flows: list = [self.flow(i, context) for i in range(len(self.conditioners))]
        return dist.TransformedDistribution(super().__call__(moments), flows)


class AutoregressiveFlow(_ContextFlow):
    """A diagonal normal through inverse autoregressive flows of alternating order; prior N(0, I).

    `[mean, raw, context] = output` [2 D + context_size]; the masked networks are shared by all x.

    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive flow",
    algorithm 1.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        num_flows: int = 2,
        hidden: tuple[int, ...] = (64,),
        context_size: int = 16,
        rngs: nnx.Rngs,
    ):
        super().__init__(latent_dim, context_size)
        self.conditioners = nnx.List(
            MaskedMLP(latent_dim, context_size, hidden, reverse=i % 2 == 1, rngs=rngs)
            for i in range(num_flows)
        )

    def flow(self, index: int, context: Array) -> Flow:
        """Return flow `index`, conditioned on the context."""
        return InverseAutoregressive(self.conditioners[index], context)


class SplineFlow(_ContextFlow):
    """A diagonal normal through spline couplings, alternately of even and odd entries; prior N(0, I).

    `[mean, raw, context] = output` [2 D + context_size]; the networks are shared by all x.

    Source: Durkan et al. (2019), "Neural spline flows".
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        num_flows: int = 4,
        num_bins: int = 8,
        hidden: tuple[int, ...] = (64,),
        context_size: int = 16,
        rngs: nnx.Rngs,
    ):
        super().__init__(latent_dim, context_size)
        outputs = latent_dim * (3 * num_bins - 1)
        self.conditioners = nnx.List(
            ContextMLP(latent_dim, context_size, hidden, outputs, rngs=rngs)
            for _ in range(num_flows)
        )

    def flow(self, index: int, context: Array) -> Flow:
        """Return flow `index`, conditioned on the context."""
        return SplineCoupling(self.conditioners[index], context, parity=index % 2)


def make_posterior(
    name: PosteriorName, latent_dim: int, *, num_categories: int | None = None, rngs: nnx.Rngs
) -> Posterior:
    """Return the posterior module of this name.

    Args:
        name: the family of q(z|x).
        latent_dim: D.
        num_categories: C, for "categorical" only.
        rngs: source of the initial weights of a flow.

    Raises:
        InputError: the name is not one of `PosteriorName`, or `num_categories` is missing, below 2,
            or without effect.
    """
    require_choice("posterior", name, [*_PLAIN, *_FLOWS, "categorical"])
    if name == "categorical":
        of_it = ' with posterior="categorical"'
        count = require_integer("num_categories", num_categories, at_least=2, or_else=of_it)
        return Categorical(latent_dim, count)
    if num_categories is not None:
        raise InputError(
            f'num_categories: has an effect with posterior="categorical" alone, got '
            f"{num_categories!r} with posterior={name!r}; leave it out"
        )
    if name in _FLOWS:
        return _FLOWS[name](latent_dim, rngs=rngs)
    return _PLAIN[name](latent_dim)


_PLAIN = {
    "diagonal": Diagonal,
    "full_covariance": FullCovariance,
    "laplace": Laplace,
    "bernoulli": Bernoulli,
}
_FLOWS = {"planar": PlanarFlow, "iaf": AutoregressiveFlow, "spline": SplineFlow}
