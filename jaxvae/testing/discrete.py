"""Models with few discrete latent states, solved by summing over all of them."""

import itertools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from jaxvae.checks import require_choice, require_positive
from jaxvae.distributions import FloatBernoulli, log_prob
from jaxvae.testing.exact import ExactModel
from jaxvae.testing.linear_gaussian import parameters
from jaxvae.types import InputError

Latent: TypeAlias = Literal["categorical", "bernoulli"]


class Discrete(ExactModel):
    """A model with p(x|z) over independent bits, q(z|x) with logits `A x + c`, and z a class of D or D bits.

    `decoder` holds logits [D] of p(z), weight W [E, D] and bias b [E], the logits of x being
    `W[:, z] + b` for a class and `W z + b` for bits; `encoder` holds weight A [D, E] and bias c [D].
    """

    def __init__(self, seed: int, *, latent: Latent, latent_size: int, event_size: int):
        rng = np.random.default_rng(seed)
        self.latent: Latent = latent
        self.encoder = parameters(
            weight=0.5 * rng.normal(size=(latent_size, event_size)),
            bias=0.3 * rng.normal(size=latent_size),
        )
        self.decoder = parameters(
            logits=0.7 * rng.normal(size=latent_size),
            weight=1.5 * rng.normal(size=(event_size, latent_size)),
            bias=0.3 * rng.normal(size=event_size),
        )

    def states(self) -> Array:
        """Return every latent state: classes 0..D-1 [D], or all vectors of D bits [2^D, D]."""
        size = self.encoder.bias[...].shape[0]
        if self.latent == "categorical":
            return jnp.arange(size)
        rows = np.array(list(itertools.product((0, 1), repeat=size)))
        return jnp.asarray(rows, self.encoder.bias[...].dtype)

    def prior(self) -> dist.Distribution:
        """The prior p(z)."""
        return self._over(self.decoder.logits[...])

    def posterior(self, x: Float[Array, "E"]) -> dist.Distribution:
        """q(z|x), with logits A x + c."""
        return self._over(self.encoder.weight[...] @ x + self.encoder.bias[...])

    def likelihood(self, z: Array) -> dist.Distribution:
        """p(x|z), bits with logits W[:, z] + b or W z + b."""
        weight = self.decoder.weight[...]
        shift = weight[:, z] if self.latent == "categorical" else weight @ z
        return FloatBernoulli(shift + self.decoder.bias[...]).to_event(1)

    def log_evidence(self, x: Float[Array, "E"]) -> Float[Array, ""]:
        """`log sum_z p(x, z)`, nats."""
        return jax.nn.logsumexp(self._log_joint(x))

    def exact_posterior(self, x: Float[Array, "E"]) -> dist.Distribution:
        """p(z|x) as a Categorical over the rows of `states()`: bits are dependent given x."""
        return dist.CategoricalLogits(self._log_joint(x))

    def quadrature(self, x: Float[Array, "E"]) -> tuple[Array, Float[Array, "N"]]:
        """Return every latent state and its probability under q(z|x)."""
        states, q = self.states(), self.posterior(x)
        return states, jnp.exp(jax.vmap(lambda z: log_prob(q, z))(states))

    def _over(self, logits: Array) -> dist.Distribution:
        if self.latent == "categorical":
            return dist.CategoricalLogits(logits)
        return FloatBernoulli(logits).to_event(1)

    def _log_joint(self, x: Array) -> Float[Array, "N"]:
        prior = self.prior()
        return jax.vmap(lambda z: log_prob(self.likelihood(z), x) + log_prob(prior, z))(
            self.states()
        )


def discrete(
    seed: int = 0,
    *,
    latent: Latent = "categorical",
    latent_size: int = 3,
    event_size: int = 4,
) -> Discrete:
    """Return a model of E bits with a discrete latent and a q(z|x) that is not the exact posterior.

    Args:
        seed: the seed of the parameters, drawn by NumPy.
        latent: "categorical", z an integer of 0..D-1; or "bernoulli", z a vector of D bits.
        latent_size: D, the number of classes or of bits.
        event_size: E.

    Returns:
        A model with `log_evidence`, `exact_posterior`, `exact_elbo` and `exact_iwae`.

    Raises:
        InputError: a size is below 1, there are more than 10 bits, or the latent is unknown.

    >>> model, x = discrete(latent="bernoulli"), jnp.ones(4)
    >>> bool(model.exact_elbo(x).bound < model.exact_iwae(x, 5) < model.log_evidence(x))
    True
    """
    require_positive(latent_size=latent_size, event_size=event_size)
    require_choice("latent", latent, ("categorical", "bernoulli"))
    if latent == "bernoulli" and latent_size > 10:
        raise InputError(
            f"latent_size: expected at most 10 bits, whose 1,024 states are summed, got {latent_size}"
        )
    return Discrete(seed, latent=latent, latent_size=latent_size, event_size=event_size)
