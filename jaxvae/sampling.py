"""K samples of q(z|x) and their log-densities: what every bound and every estimator is made from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, Independent

from jaxvae.distributions import (
    analytic_kl,
    describe,
    log_prob,
    require_event,
    require_one_event,
    rsample,
)
from jaxvae.types import InputError, Model, PRNGKey, require_key, require_positive


class Samples(NamedTuple):
    """K samples of q(z|x) with their log-densities, each [K], in nats."""

    q: Distribution
    p: Distribution
    z: Float[Array, "K D"]
    log_p_x_z: Float[Array, "K"]
    log_p_z: Float[Array, "K"]
    log_q_z_x: Float[Array, "K"]

    @property
    def log_w(self) -> Float[Array, "K"]:
        """`log p(x, z_k) - log q(z_k | x)`."""
        return self.log_p_x_z + self.log_p_z - self.log_q_z_x


def draw(key: PRNGKey, model: Model, x: Float[Array, "*event"], num_samples: int) -> Samples:
    """Sample q(z|x) K times, differentiably, and evaluate the densities.

    Sample k is drawn with `fold_in(key, k)`, so the first K samples do not depend on how many more
    are drawn, nor on the chunks that they are drawn in.

    Raises:
        InputError: a shape or the key is wrong, or q cannot be reparameterised.
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)
    if not q.has_rsample:
        raise InputError(
            f'gradient: "pathwise" needs a posterior with reparameterised samples, got {describe(q)}'
        )

    def one(k: Array) -> tuple[Array, ...]:
        z = rsample(q, jax.random.fold_in(key, k))
        return z, log_likelihood(model, x, z), log_prob(p, z), log_prob(q, z)

    return Samples(q, p, *jax.vmap(one)(jnp.arange(num_samples)))


def log_likelihood(model: Model, x: Float[Array, "*event"], z: Float[Array, "D"]) -> Array:
    """`log p(x|z)` of one example under one latent, nats, with the shapes checked.

    Raises:
        InputError: `x` is not of the likelihood's event shape.
    """
    likelihood = model.likelihood(z)
    require_event(likelihood, x, "model.likelihood(z)", "x")
    return log_prob(likelihood, x)


def kl_each(q: Distribution, p: Distribution) -> Float[Array, "D"]:
    """KL(q(z_d|x) || p(z_d)) of every latent in closed form, nats, where both factorise.

    Raises:
        InputError: one of them does not factorise over its latents, or no closed form is known.
    """
    q_each, p_each = _factors(q), _factors(p)
    if q_each is None or p_each is None:
        raise InputError(
            "kl: expected a posterior and a prior that factorise over latents, got "
            f"{describe(q)} and {describe(p)}"
        )
    return analytic_kl(q_each, p_each)


def _factors(distribution: Distribution) -> Distribution | None:
    """The D distributions of one latent each, as a batch, or None where there are none."""
    if not isinstance(distribution, Independent) or distribution.base_dist.event_shape != ():
        return None
    return distribution.base_dist


def require_latents(q: Distribution, p: Distribution) -> None:
    """Refuse a posterior and a prior that are not over the same single latent.

    Raises:
        InputError: a batch shape is not (), or the event shapes differ.
    """
    require_one_event(q, "model.posterior(x)")
    require_one_event(p, "model.prior()")
    if q.event_shape != p.event_shape:
        raise InputError(
            f"model: expected one latent shape, got {q.event_shape} from posterior(x) and "
            f"{p.event_shape} from prior()"
        )
