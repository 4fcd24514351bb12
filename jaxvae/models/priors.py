"""Learned priors, each a module `() -> p(z)` for `VAE(..., prior=...)`."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx

from jaxvae.checks import require_choice, require_positive
from jaxvae.distributions import (
    DiagonalNormalMixture,
    InverseAutoregressive,
    SplineCoupling,
)
from jaxvae.keys import OfWeights, stream_key
from jaxvae.models.conditioners import ContextMLP, MaskedMLP
from jaxvae.models.likelihoods import variance_of
from jaxvae.models.posteriors import PosteriorName
from jaxvae.types import InputError, PRNGKey

FlowName: TypeAlias = Literal["spline", "masked_autoregressive"]


class MixturePrior(nnx.Module):
    """A mixture: `p(z) = sum_c w[c] N(loc[c], diag(softplus(raw_variance[c]) + 1e-8))`, `w = 1 / C` or learned.

    `loc` and `raw_variance` are initialised with normal draws of variance 1 / (C D).

    Args:
        latent_dim: D.
        num_components: C.
        learn_weights: whether `w = softmax(logits)` is learned, starting from equal weights.
        rngs: source of the initial values.

    Source: Stanford CS236 (2018), problem set 2, problem 2.
    """

    def __init__(
        self,
        latent_dim: int,
        num_components: int,
        *,
        learn_weights: bool = False,
        rngs: nnx.Rngs,
    ):
        require_positive(latent_dim=latent_dim, num_components=num_components)
        if not isinstance(learn_weights, bool):
            raise InputError(f"learn_weights: expected True or False, got {learn_weights!r}")
        shape = num_components, latent_dim
        draw = nnx.initializers.normal((num_components * latent_dim) ** -0.5)
        self.loc = nnx.Param(draw(rngs.params(), shape))
        self.raw_variance = nnx.Param(draw(rngs.params(), shape))
        self.logits = nnx.Param(jnp.zeros(num_components)) if learn_weights else None

    def __call__(self) -> DiagonalNormalMixture:
        """p(z)."""
        loc, scale = self.loc[...], jnp.sqrt(variance_of(self.raw_variance[...]))
        logits = jnp.zeros(loc.shape[0]) if self.logits is None else self.logits[...]
        return DiagonalNormalMixture(logits, loc, scale)


class FlowPrior(nnx.Module):
    """A flow prior: `log p(z) = log N(f(z); 0, I) + log|det df/dz|`, f a chain of flows.

    The flows map z to the noise, so that the density, which every training step needs, takes one pass
    through them; a sample is the inverse of f at a normal draw.

    Args:
        latent_dim: D.
        num_flows: the number of flows in f.
        flow: "spline", couplings whose inverse is equally cheap; or "masked_autoregressive", which
            transforms every entry given the entries before it and whose inverse takes D passes.
        hidden: widths of the hidden layers of each flow's network.
        rngs: source of the initial weights.

    Source: Papamakarios, Pavlakou and Murray (2017), "Masked autoregressive flow for density
    estimation"; Durkan et al. (2019), "Neural spline flows".
    """

    def __init__(
        self,
        latent_dim: int,
        num_flows: int,
        *,
        flow: FlowName = "spline",
        hidden: Sequence[int] = (64,),
        num_bins: int = 8,
        rngs: nnx.Rngs,
    ):
        require_positive(latent_dim=latent_dim, num_flows=num_flows, num_bins=num_bins)
        require_choice("flow", flow, get_args(FlowName))
        if flow == "spline" and (latent_dim < 2 or num_flows < 2):
            raise InputError(
                'latent_dim, num_flows: expected 2 or more of each with flow="spline", whose couplings '
                f"bend every other entry by the rest in turn, got {latent_dim} and {num_flows}; "
                'use flow="masked_autoregressive"'
            )
        self.latent_dim, self.flow = latent_dim, flow
        self.conditioners = nnx.List(
            ContextMLP(latent_dim, 0, hidden, latent_dim * (3 * num_bins - 1), rngs=rngs)
            if flow == "spline"
            else MaskedMLP(latent_dim, 0, hidden, reverse=i % 2 == 1, rngs=rngs)
            for i in range(num_flows)
        )

    def __call__(self) -> dist.TransformedDistribution:
        """p(z)."""
        noise = dist.Normal(jnp.zeros(self.latent_dim), jnp.ones(self.latent_dim)).to_event(1)
        from_noise: list = [self._bend(i).inv for i in range(len(self.conditioners))]
        return dist.TransformedDistribution(noise, from_noise)

    def _bend(self, index: int) -> SplineCoupling | InverseAutoregressive:
        conditioner, no_context = self.conditioners[index], jnp.zeros(0)
        if self.flow == "spline":
            return SplineCoupling(conditioner, no_context, parity=index % 2)
        return InverseAutoregressive(conditioner, no_context)


def prior_rngs(key: PRNGKey) -> nnx.Rngs:
    """Return keys for a prior, independent of the keys that the networks take from the same key."""
    return nnx.Rngs(stream_key(key, OfWeights.PRIOR))


def require_real_latents(posterior: PosteriorName) -> None:
    """Refuse a posterior over discrete latents for a prior over real latents.

    Raises:
        InputError: the posterior is "bernoulli" or "categorical".
    """
    if posterior in ("bernoulli", "categorical"):
        raise InputError(
            f'posterior: expected one over real latents, such as "diagonal", got "{posterior}", whose '
            "latents are discrete, while the prior is a density; use jv.models.vae"
        )
