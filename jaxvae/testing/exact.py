"""Exact answers of solvable models: the evidence, and the expectation and gradient of a bound.

Everything here is differentiable and has the dtype of the model; `in_float64` evaluates it in double
precision, whatever the default dtype of the process.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import log_prob, sample
from jaxvae.types import AnyArray, InputError, Model, PRNGKey, Terms

Bound: TypeAlias = Literal["elbo", "iwae"]
M = TypeVar("M", bound=nnx.Module)

_STEP = 0.4
_LOG_TIMES = np.arange(-40, 200, _STEP)
"""The nodes of the trapezoid rule of `expected_iwae`: the integrand is analytic in a strip of half width pi / 2,
so the error with this step is about exp(-pi^2 / 0.4) = 2e-11."""


class ExactModel(nnx.Module):
    """A model whose bounds are known exactly, with a q(z|x) that need not be its exact posterior.

    The parameters of q are in `encoder`, those of p(z) and p(x|z) in `decoder`. A subclass declares
    the model, `log_evidence`, `exact_posterior` and `quadrature`; the bounds are computed from these.
    """

    encoder: nnx.Dict
    decoder: nnx.Dict

    def prior(self) -> Distribution:
        """p(z), over one latent."""
        raise NotImplementedError

    def posterior(self, x: Float[Array, "E"]) -> Distribution:
        """q(z|x), which need not be the exact posterior."""
        raise NotImplementedError

    def likelihood(self, z: Array) -> Distribution:
        """p(x|z), over one example."""
        raise NotImplementedError

    def log_evidence(self, x: Float[Array, "E"]) -> Float[Array, ""]:
        """The evidence, `log p(x)` of one example, nats."""
        raise NotImplementedError

    def exact_posterior(self, x: Float[Array, "E"]) -> Distribution:
        """p(z|x) of one example."""
        raise NotImplementedError

    def quadrature(self, x: Float[Array, "E"]) -> tuple[Array, Float[Array, "N"]]:
        """Return latents z [N, ...] and probabilities [N] with `E_q f(z) = sum_n probs[n] * f(z[n])`.

        Raises:
            InputError: the latent has too many dimensions for a grid.
        """
        raise NotImplementedError

    def exact_elbo(self, x: Float[Array, "E"]) -> Terms:
        """Return the expectations of the terms of the ELBO over q(z|x), scalars in nats."""
        z, probs = self.quadrature(x)
        log_p_x_z, log_p_z, log_q_z_x = self._densities(x, z)
        distortion, rate = -(probs @ log_p_x_z), probs @ (log_q_z_x - log_p_z)
        bound = -(distortion + rate)
        return Terms(bound, bound, distortion, rate)

    def exact_iwae(self, x: Float[Array, "E"], num_samples: int) -> Float[Array, ""]:
        """Return the expectation of the IWAE bound with K = `num_samples`, for any K, nats."""
        z, probs = self.quadrature(x)
        log_p_x_z, log_p_z, log_q_z_x = self._densities(x, z)
        return expected_iwae(log_p_x_z + log_p_z - log_q_z_x, probs, num_samples)

    def _densities(self, x: Array, z: Array) -> tuple[Array, Array, Array]:
        prior, q = self.prior(), self.posterior(x)
        return jax.vmap(
            lambda z: (log_prob(self.likelihood(z), x), log_prob(prior, z), log_prob(q, z))
        )(z)


def expected_iwae(
    log_w: Float[Array, "N"], probs: Float[Array, "N"], num_samples: int
) -> Float[Array, ""]:
    """Compute `E log mean_k w[k]` over K independent weights with `P(w = exp(log_w[n])) = probs[n]`.

    The sum over all K-tuples is one integral, since `E exp(-t sum_k w[k]) = phi(t)^K`:

        E log sum_k w[k] = int (exp(-e^u) - phi(e^u)^K) du,  phi(t) = sum_n probs[n] exp(-t w[n])

    Args:
        log_w: the possible log-weights [N], nats.
        probs: their probabilities [N], which sum to 1.
        num_samples: K.

    Returns:
        A scalar, nats, within 1e-9 in float64 for log-weights within about 190 nats of each other.

    Raises:
        InputError: `num_samples` is not an integer of at least 1.

    >>> half = jnp.array([0.5, 0.5])
    >>> round(float(expected_iwae(jnp.log(jnp.array([1.0, 3.0])), half, 2)), 4)  # of 1, 2, 2, 3
    0.6212

    Source: Frullani's integral, log s = int_0^inf (exp(-t) - exp(-s t)) / t dt, with t = e^u.
    """
    require_positive(num_samples=num_samples)
    shift = jax.lax.stop_gradient(jax.nn.logsumexp(log_w + jnp.log(probs)))
    u = jnp.asarray(_LOG_TIMES, log_w.dtype)
    # Beyond e^6 the exponential is zero; its argument must not overflow on the way there.
    exponents = jnp.exp(jnp.minimum(u[:, None] + (log_w - shift)[None, :], 6.0))
    phi = jnp.exp(-exponents) @ probs
    integrand = jnp.exp(-jnp.exp(jnp.minimum(u, 6.0))) - phi**num_samples
    return shift + _STEP * jnp.sum(integrand) - float(np.log(num_samples))


def exact_bound(
    model: ExactModel, x: Float[AnyArray, "E"], *, bound: Bound = "elbo", num_samples: int = 1
) -> Float[Array, ""]:
    """Compute the expectation of a bound for one example; for the ELBO it does not depend on K.

    Args:
        model: a solvable model.
        x: one example [E].
        bound: "elbo" or "iwae".
        num_samples: K, for "iwae".

    Returns:
        A scalar, nats, differentiable in the model.

    Raises:
        InputError: the bound is unknown, or the latent has too many dimensions for `quadrature`.
    """
    require_positive(num_samples=num_samples)
    x = jnp.asarray(x)
    if bound == "iwae":
        return model.exact_iwae(x, num_samples)
    if bound == "elbo":
        return model.exact_elbo(x).bound
    raise InputError(f'bound: expected "elbo" or "iwae", got {bound!r}')


def exact_gradient(
    model: M, x: Float[AnyArray, "E"], *, bound: Bound = "elbo", num_samples: int = 1
) -> M:
    """Compute the gradient of `exact_bound` in all parameters, `.encoder` and `.decoder`, in float64.

    Args:
        model: a solvable model.
        x: one example [E].
        bound: "elbo" or "iwae".
        num_samples: K, for "iwae".

    Returns:
        A pytree of NumPy arrays with the model's structure.

    Raises:
        InputError: as `exact_bound`.

    >>> from jaxvae.testing import linear_gaussian
    >>> gradient = exact_gradient(linear_gaussian(), jnp.zeros(3))
    >>> gradient.encoder.weight[...].shape
    (2, 3)
    """
    return in_float64(
        jax.grad(lambda model, x: exact_bound(model, x, bound=bound, num_samples=num_samples)),
        model,
        x,
    )


def in_float64(function: Callable[..., Any], *args: Any) -> Any:
    """Evaluate `function(*args)` with every float array of the arguments in float64, and return NumPy arrays.

    >>> float(in_float64(jnp.sqrt, jnp.asarray(2.0))) == 2**0.5
    True
    """

    def widen(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(np.asarray(leaf, np.float64)) if floating else leaf

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(function)(*jax.tree.map(widen, args)))


def draw_examples(key: PRNGKey, model: Model, num_examples: int) -> Float[Array, "N *event"]:
    """Draw examples from the model: `z ~ p(z)`, `x ~ p(x|z)`.

    Example i is drawn with `fold_in(key, i)`.

    Args:
        key: one typed key.
        model: any model.
        num_examples: N.

    Returns:
        Examples [N, *event], float32.

    Raises:
        InputError: the key or the number is not usable.

    >>> from jaxvae.testing import discrete
    >>> draw_examples(jax.random.key(0), discrete(), 5).shape
    (5, 4)
    """
    require_key(key)
    require_positive(num_examples=num_examples)

    def one(i: Array) -> Array:
        of_z, of_x = jax.random.split(jax.random.fold_in(key, i))
        x = sample(model.likelihood(sample(model.prior(), of_z)), of_x)
        return x.astype(jnp.float32)

    return jax.vmap(one)(jnp.arange(num_examples))
