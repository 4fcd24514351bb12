"""Objectives of one example: `(key, model, x) -> Terms`. The batch, its mean and the minus sign live elsewhere."""

from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae import bounds
from jaxvae.distributions import (
    analytic_kl,
    describe,
    log_prob,
    require_event,
    require_one_event,
    rsample,
)
from jaxvae.types import InputError, Model, PRNGKey, Terms, require_key, require_positive

KL: TypeAlias = Literal["analytic", "monte_carlo"]
Gradient: TypeAlias = Literal["pathwise"]


def elbo(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    num_samples: int = 1,
    beta: float | Float[Array, ""] = 1.0,
    kl: KL = "analytic",
    gradient: Gradient = "pathwise",
) -> Terms:
    """Evidence lower bound of one example.

    `bound = mean_k log_p_x_z[k] - rate` with `z_k ~ q(z|x)`, where `rate` is KL(q(z|x) || p(z)) in
    closed form (`kl="analytic"`) or `mean_k (log_q_z_x[k] - log_p_z[k])` (`kl="monte_carlo"`).
    `objective = -(distortion + beta * rate)`, which is the bound when beta = 1.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        x: one example, of the event shape of the likelihood.
        num_samples: K, how many samples the expectation is averaged over.
        beta: weight of the rate in `objective`; `bound` and `rate` stay unweighted.
        kl: how the rate is computed.
        gradient: "pathwise", through the samples.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: a shape, option or key is not usable, or the pair (q, p) has no closed-form KL.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> terms = jv.elbo(jax.random.key(1), model, jnp.ones(4))
    >>> bool(jnp.allclose(terms.bound, -(terms.distortion + terms.rate)))
    True

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", eq. 6 and 7 with the
    analytic rate; Higgins et al. (2017), "beta-VAE", eq. 4, for beta.
    """
    _require_choice("kl", kl, KL)
    _require_choice("gradient", gradient, Gradient)
    if isinstance(beta, int | float) and not 0 <= beta < float("inf"):
        raise InputError(f"beta: expected a finite number of at least 0, got {beta!r}")
    s = draw(key, model, x, num_samples)
    distortion = -jnp.mean(s.log_p_x_z)
    rate = analytic_kl(s.q, s.p) if kl == "analytic" else jnp.mean(s.log_q_z_x - s.log_p_z)
    return Terms(-(distortion + beta * rate), -(distortion + rate), distortion, rate)


def iwae(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    num_samples: int,
    gradient: Gradient = "pathwise",
) -> Terms:
    """Importance-weighted bound of one example with K = `num_samples`.

    `bound = log mean_k exp(log_w[k])`, `log_w[k] = log_p_x_z[k] + log_p_z[k] - log_q_z_x[k]`,
    `z_k ~ q(z|x)`. Distortion and rate are those of q, averaged over the same samples, so
    `-(distortion + rate)` is the ELBO, which lies below the bound.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        x: one example, of the event shape of the likelihood.
        num_samples: K, at least 1.
        gradient: "pathwise", through the samples.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: a shape, option or key is not usable.

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", eq. 8 and 13.
    """
    _require_choice("gradient", gradient, Gradient)
    s = draw(key, model, x, num_samples)
    bound = bounds.iwae(s.log_w)
    return Terms(bound, bound, -jnp.mean(s.log_p_x_z), jnp.mean(s.log_q_z_x - s.log_p_z))


class Samples(NamedTuple):
    """K samples of q(z|x) with their three log-densities, each [K], in nats."""

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
    require_one_event(q, "model.posterior(x)")
    require_one_event(p, "model.prior()")
    if q.event_shape != p.event_shape:
        raise InputError(
            f"model: expected one latent shape, got {q.event_shape} from posterior(x) and "
            f"{p.event_shape} from prior()"
        )
    if not q.has_rsample:
        raise InputError(
            'gradient: "pathwise" needs a posterior with reparameterised samples, '
            f"got {describe(q)}"
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


def _require_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        expected = " or ".join(f'"{choice}"' for choice in get_args(choices))
        raise InputError(f"{name}: expected {expected}, got {value!r}")
