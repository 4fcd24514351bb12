"""Gradient estimators for discrete latents: exact enumeration, relaxations, antithetic pairs.

Each is a function `Problem -> (samples, surrogate)`, as in `jaxvae.gradients`. The samples are always
of the discrete model, so that the value is its bound: a relaxation changes only the gradient.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.lax import stop_gradient
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, Independent

from jaxvae.checks import require_number
from jaxvae.distributions import (
    ClassConditional,
    FloatBernoulli,
    OneHotCategorical,
    describe,
    log_prob,
)
from jaxvae.log_weights import (
    Problem,
    Samples,
    log_p_x_given_z,
    over_samples,
    require_latents,
)
from jaxvae.types import InputError, PRNGKey, Scalar

MOST_STATES = 4096
LINEAR = "it is unbiased for a bound that is linear in log_w, the ELBO, alone"
UNDEFINED = "log q of a relaxed z is not defined"


def enumerate_latents(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """The exact expectation under q, by a sum over all states of z, without randomness.

    `sum_z q(z|x) log_w(z)`, for the ELBO, whose expectation is linear in the log-weights. For a latent
    of a class y and reals z, the sum is over y, with `num_samples` samples of z for each class:
    `sum_y q(y|x) mean_k log_w(y, z_yk)`, `z_yk ~ q(z|x, y)` reparameterised.

    Raises:
        InputError: q is not discrete, or has more than 4,096 states.
    """
    _require_elbo(problem, "enumerate", LINEAR)
    q, p = problem.model.posterior(problem.x), problem.model.prior()
    require_latents(q, p)
    if isinstance(q, ClassConditional):
        return _enumerate_classes(problem, q, p)
    z = jnp.asarray(states(q), _dtype(q))

    def one(z: Array) -> tuple[Array, ...]:
        return z, log_p_x_given_z(problem.model, problem.x, z), log_prob(p, z), log_prob(q, z)

    values = over_samples(jax.vmap(one), z, problem.chunk_size)
    s = Samples(q, p, *values, weight=jnp.exp(values[-1]))
    return s, problem.value(s)


def _enumerate_classes(
    problem: Problem, q: ClassConditional, p: Distribution
) -> tuple[Samples, Float[Array, ""]]:
    """Enumerate the classes, with samples of z given each: S = K * C latents, weighted by q(y|x) / K.

    Sample k of class y draws from `fold_in(fold_in(key, y), k)`, as does the model with y bound under
    the key `fold_in(key, y)`.
    """
    count, classes = problem.num_samples, q.num_classes
    model, x, noise_shape = problem.model, problem.x, jnp.shape(q.loc)[-1:]

    def row_of_each(values: Array) -> Array:
        return jnp.broadcast_to(values, (count, *values.shape)).reshape(-1, *values.shape[1:])

    def one(row: tuple[Array, ...]) -> tuple[Array, ...]:
        k, y, one_hot, log_q_y, loc, scale = row
        key = jax.random.fold_in(jax.random.fold_in(problem.key, y), k)
        z = loc + scale * jax.random.normal(key, noise_shape)
        log_q = log_q_y + log_prob(dist.Normal(loc, scale).to_event(1), z)
        latent = jnp.concatenate([one_hot, z])
        return latent, log_p_x_given_z(model, x, latent), log_prob(p, latent), log_q

    log_q_y = jax.nn.log_softmax(jnp.asarray(q.logits))
    of_class = jnp.arange(classes), jnp.eye(classes), log_q_y, q.loc, q.scale
    rows = jnp.repeat(jnp.arange(count), classes), *map(row_of_each, of_class)
    values = over_samples(jax.vmap(one), rows, problem.chunk_size)
    s = Samples(q, p, *values, weight=row_of_each(jnp.exp(log_q_y)) / count)
    return s, problem.value(s)


def straight_through(
    problem: Problem, *, temperature: Scalar = 1.0
) -> tuple[Samples, Float[Array, ""]]:
    """The straight-through estimator: discrete samples in the value, the gradient of their relaxation.

    `z = hard + relaxed - stop_gradient(relaxed)`, with `relaxed = softmax((logits + gumbel) /
    temperature)` and `hard` the one-hot vector of its largest entry. Biased.

    Source: Bengio, Leonard and Courville (2013), "Estimating or propagating gradients through
    stochastic neurons"; Jang, Gu and Poole (2017), "Categorical reparameterization with
    Gumbel-softmax", section 2.2.
    """
    _require_elbo(problem, "straight_through", UNDEFINED)
    return _relaxed(problem, temperature, lambda hard, soft: hard + (soft - stop_gradient(soft)))


def gumbel_softmax(
    problem: Problem, *, temperature: Scalar = 1.0
) -> tuple[Samples, Float[Array, ""]]:
    """The Gumbel-softmax estimator: the value of the discrete model, the gradient of the relaxed one on the same noise.

    `relaxed = softmax((logits + gumbel) / temperature)`, or `sigmoid((logit + logistic) /
    temperature)` for bits. Biased for the discrete model; less so as the temperature falls, while
    its variance rises.

    Source: Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax";
    Maddison, Mnih and Teh (2017), "The concrete distribution".
    """
    _require_elbo(problem, "gumbel_softmax", UNDEFINED)
    return _relaxed(problem, temperature, lambda hard, soft: soft)


def _relaxed(
    problem: Problem,
    temperature: Scalar,
    passed: Callable[[Array, Array], Array],
) -> tuple[Samples, Float[Array, ""]]:
    require_number("temperature", temperature, above=0)
    if problem.rate.kl == "monte_carlo":
        raise InputError(
            'kl: expected "analytic" or "entropy" under a relaxation, because log q(z|x) of a '
            'relaxed z is not defined for a discrete q, got "monte_carlo"'
        )
    model, x = problem.model, problem.x
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)

    def pair(k: Array) -> tuple[Array, Array]:
        return relaxed_sample(q, jax.random.fold_in(problem.key, k), temperature)

    def densities(z: Array) -> tuple[Array, ...]:
        return z, log_p_x_given_z(model, x, z), log_prob(p, z), log_prob(q, z)

    def hard(k: Array) -> tuple[Array, ...]:
        return densities(pair(k)[0])

    def soft(k: Array) -> tuple[Array, ...]:
        return densities(passed(*pair(k)))

    ks = jnp.arange(problem.num_samples)
    s = Samples(q, p, *over_samples(jax.vmap(hard), ks, problem.chunk_size))
    relaxed = Samples(q, p, *over_samples(jax.vmap(soft), ks, problem.chunk_size))
    return s, problem.value(relaxed)


def _require_elbo(problem: Problem, name: str, why: str) -> None:
    if problem.of_weights:
        raise InputError(f'gradient: "{name}" does not apply to this bound: {why}')


def relaxed_sample(
    q: Distribution, key: PRNGKey, temperature: Scalar
) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
    """Draw a sample of q and its relaxation from the same noise, both [D].

    Raises:
        InputError: q is not over bits or one-hot vectors.
    """
    if isinstance(q, OneHotCategorical):
        noisy = q.logits + jax.random.gumbel(key, q.logits.shape)
        hard = jax.nn.one_hot(jnp.argmax(noisy, -1), q.logits.shape[-1], dtype=noisy.dtype)
        return hard.reshape(-1), jax.nn.softmax(noisy / temperature).reshape(-1)
    noisy = bit_logits(q) + jax.random.logistic(key, q.event_shape)
    return (noisy > 0).astype(noisy.dtype), jax.nn.sigmoid(noisy / temperature)


def disarm(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """The DisARM estimator: an antithetic pair of bit vectors for each sample; unbiased in q and p.

    With `u` uniform, `b = 1[1 - u < sigmoid(a)]`, `b' = 1[u < sigmoid(a)]` and f the log-weight,

    `d/da_d = (f(b) - f(b')) / 2 * (-1)^b'_d * 1[b_d != b'_d] * sigmoid(|a_d|)`.

    Raises:
        InputError: q is not over bits, or the bound is not linear in the log-weights.

    Source: Dong, Mnih and Tucker (2020), "DisARM: an antithetic gradient estimator for binary
    latent variables"; the gradient in p is the mean of those at both vectors.
    """
    _require_elbo(problem, "disarm", LINEAR)
    model, x = problem.model, problem.x
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)
    logits = bit_logits(q)

    def one(k: Array) -> tuple[Array, ...]:
        u = jax.random.uniform(jax.random.fold_in(problem.key, k), logits.shape)
        on = jax.nn.sigmoid(stop_gradient(logits))
        pair = (1 - u < on).astype(logits.dtype), (u < on).astype(logits.dtype)
        return tuple(
            jnp.stack(column)
            for column in zip(
                *[(z, log_p_x_given_z(model, x, z), log_prob(p, z), log_prob(q, z)) for z in pair],
                strict=True,
            )
        )

    ks = jnp.arange(problem.num_samples)
    both = over_samples(jax.vmap(one), ks, problem.chunk_size)  # each [K, 2, ...]
    s = Samples(q, p, *(column.reshape(-1, *column.shape[2:]) for column in both))
    f = stop_gradient(problem.log_w(s)).reshape(-1, 2)
    b, other = jnp.moveaxis(both[0], 1, 0)
    sign = jnp.where(b == other, 0.0, jnp.where(other > 0, -1.0, 1.0))
    sign = sign * jax.nn.sigmoid(jnp.abs(logits))[None]
    direction = 0.5 * jnp.mean((f[:, 0] - f[:, 1])[:, None] * stop_gradient(sign), axis=0)
    return s, problem.value(s) + jnp.sum(stop_gradient(direction) * logits)


def bit_logits(q: Distribution) -> Float[Array, "D"]:
    """Return the logits of a posterior over independent bits.

    Raises:
        InputError: q is another distribution.
    """
    if isinstance(q, Independent) and isinstance(q.base_dist, FloatBernoulli):
        return jnp.asarray(q.base_dist.logits)
    raise InputError(
        f"gradient: expected a posterior of independent bits (or one-hot vectors, where the "
        f'estimator takes them), such as vae(posterior="bernoulli"), got {describe(q)}'
    )


def _dtype(q: Distribution) -> Any:
    """Return the dtype of a discrete latent, which is that of its logits."""
    return jnp.result_type(q.logits if isinstance(q, OneHotCategorical) else bit_logits(q))


def states(q: Distribution) -> Float[np.ndarray, "S D"]:
    """Return all states of a discrete latent, as rows.

    Raises:
        InputError: q is not over bits or one-hot vectors, or has more than 4,096 states.
    """
    if isinstance(q, OneHotCategorical):
        variables, classes = q.logits.shape[-2:]
        choices = np.eye(classes)
    else:
        (variables,), classes = bit_logits(q).shape, 2
        choices = np.array([[0.0], [1.0]])
    if classes**variables > MOST_STATES:
        raise InputError(
            f'gradient: "enumerate" takes at most {MOST_STATES} states of z, got '
            f'{classes}^{variables}; use an estimator that samples, such as "score"'
        )
    rows = itertools.product(range(classes), repeat=variables)
    return np.stack([choices[list(row)].reshape(-1) for row in rows])
