"""The free energy of one example, a bound on log p(x) for any q with exact expectations."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.distributions import OneHotCategorical, analytic_kl, describe, log_prob
from jaxvae.inference.polynomials import degree
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.relaxations import states
from jaxvae.types import InputError, Model, Terms


@runtime_checkable
class Solvable(Protocol):
    """A model with an exact posterior: `exact_posterior(x)` is p(z|x)."""

    def exact_posterior(self, x: Float[Array, "*event"], /) -> Distribution:
        """p(z|x)."""
        ...


def free_energy(model: Model, q: Distribution, x: Float[Array, "*event"]) -> Terms:
    """The free energy `F(q, model) = E_q[log p(x, z)] + H(q)` of one example, without samples.

    `F = -(distortion + rate)`, `distortion = -E_q[log p(x|z)]`, `rate = KL(q || p(z))`. It is at most
    log p(x), with equality for q = p(z|x); there its gradient in the model, at fixed q, equals that
    of log p(x) (Fisher's identity). The distortion uses the model's `expected_log_likelihood(q, x)`
    if it has one, or else `expectation`, which is exact for bits, one-hot vectors and polynomials in z.

    Args:
        model: any object with `prior` and `likelihood`.
        q: a distribution over one latent.
        x: one example.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: the rate has no closed form, or the expectation has no exact rule.

    >>> import jaxvae as jv
    >>> model, x = jv.models.ppca(jax.random.key(0), (3,), latent_dim=1), jnp.ones(3)
    >>> terms = free_energy(model, model.exact_posterior(x), x)
    >>> bool(jnp.allclose(terms.bound, model.log_evidence(x), rtol=1e-5))
    True

    Source: Neal and Hinton (1998), "A view of the EM algorithm that justifies incremental, sparse,
    and other variants".
    """
    p = model.prior()
    require_latents(q, p)
    known = getattr(model, "expected_log_likelihood", None)
    if known is None:
        known = partial(_expected_log_likelihood, model)
    distortion = -known(q, x)
    rate = analytic_kl(q, p)
    bound = -(distortion + rate)
    return Terms(bound, bound, distortion, rate)


def _expected_log_likelihood(model: Model, q: Distribution, x: Array) -> Float[Array, ""]:
    def log_p(z: Array) -> Array:
        return log_p_x_given_z(model, x, z)

    if not q.is_discrete and degree(log_p, q.event_shape) > 3:
        raise InputError(
            "model: expected one whose E_q[log p(x|z)] is known: by log p(x|z) that is a polynomial in z of degree up "
            "to three, as of a linear decoder with normal noise, or by a method expected_log_likelihood(q, x), got "
            f"{type(model).__name__} with {describe(q)}; use jv.elbo, which samples it"
        )
    return expectation(q, log_p)


def expectation(q: Distribution, function: Callable[[Array], Array]) -> Float[Array, ""]:
    """`E_q[function(z)]` for one latent, by a sum over points, without samples.

    For bits and one-hot vectors the sum is over all states. For normal distributions it is over the 2 D
    points `mean +- sqrt(D) L e_d` of equal weight. This is exact for polynomials of degree up to three
    in z, such as the log-likelihood of a linear decoder with normal noise, and an approximation for
    other functions.

    Raises:
        InputError: q is of neither kind, or has more than 4,096 states.

    Source: Arasaratnam and Haykin (2009), "Cubature Kalman filters", for the 2 D points.
    """
    base = q.base_dist if isinstance(q, dist.Independent) else q
    if isinstance(base, OneHotCategorical | dist.BernoulliLogits):
        points = jnp.asarray(states(q), jnp.float32)
        probs = jnp.exp(jax.vmap(lambda z: log_prob(q, z))(points))
        values = jax.vmap(function)(points)
        return jnp.sum(jnp.where(probs > 0, probs * values, 0.0))
    if isinstance(base, dist.MultivariateNormal):
        mean, tril = jnp.asarray(base.loc), jnp.asarray(base.scale_tril)
    elif isinstance(base, dist.Normal) and q.event_dim == 1:
        mean, tril = jnp.asarray(q.mean), jnp.diag(jnp.sqrt(jnp.asarray(q.variance)))
    else:
        raise InputError(
            "exact_posterior: expected a normal distribution, bits or one-hot vectors, whose "
            f"expectations are finite sums, got {describe(q)}"
        )
    steps = jnp.sqrt(mean.size) * tril.T
    points = jnp.concatenate([mean[None] + steps, mean[None] - steps])
    return jnp.mean(jax.vmap(function)(points))
