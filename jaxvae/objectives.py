"""Objectives of one example: `(key, model, x) -> Terms`. The batch, its mean and the minus sign live elsewhere."""

from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae import bounds
from jaxvae.distributions import analytic_kl
from jaxvae.sampling import draw
from jaxvae.types import InputError, Model, PRNGKey, Terms

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

    >>> import jax
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


def _require_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        expected = " or ".join(f'"{choice}"' for choice in get_args(choices))
        raise InputError(f"{name}: expected {expected}, got {value!r}")
