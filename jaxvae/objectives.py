"""Objectives of one example, `(key, model, x) -> Terms`: the ELBO and the importance-weighted bounds.

`log_weights.RATES` says what of the rate is sampled, `bounds` has the functions of the log-weights, `gradients` the
estimators. Batches, means and the minus sign are in `training`.
"""

from functools import partial
from typing import get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvae import bounds
from jaxvae.checks import is_known, require_choice, require_positive, require_weight
from jaxvae.distributions import analytic_kl
from jaxvae.gradients import Baseline, Estimator, bend, choose, separate
from jaxvae.log_weights import KL, RATES, Bound, Problem, Rate, kl_each, problem
from jaxvae.types import AnyArray, InputError, Model, PRNGKey, Scalar, Terms


def elbo(
    key: PRNGKey,
    model: Model,
    x: Float[AnyArray, "*event"],
    *,
    num_samples: int = 1,
    beta: Scalar = 1.0,
    kl: KL = "analytic",
    gradient: str | Estimator = "pathwise",
    free_bits: Scalar = 0.0,
    capacity: Scalar | None = None,
    baseline: Baseline | None = None,
    temperature: Scalar | None = None,
    chunk_size: int | None = None,
) -> Terms:
    """Estimate the evidence lower bound of one example, in one of three forms.

    `bound = -(distortion + rate)` with `distortion = -mean_k log_p_x_z[k]`, `z_k ~ q(z|x)`, and

    - `kl="analytic"`: `rate = KL(q(z|x) || p(z))` in closed form;
    - `kl="entropy"`: `rate = -H(q(z|x)) - mean_k log_p_z[k]`, the entropy in closed form;
    - `kl="monte_carlo"`: `rate = mean_k (log_q_z_x[k] - log_p_z[k])`.

    `objective = -(distortion + beta * penalty)`, where the penalty is the rate; or, with `free_bits`,
    `sum_d max(free_bits, rate_d)` over latents; or, with `capacity`, `|rate - capacity|`.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        x: one example, of the event shape of the likelihood.
        num_samples: K, how many samples the expectation is averaged over.
        beta: weight of the penalty in `objective`; `bound` and `rate` stay unweighted.
        kl: how the rate is computed.
        gradient: the name of an estimator in `jaxvae.gradients`, or such a function.
        free_bits: nats of each latent that cost nothing more, per example (not per minibatch, which
            would couple examples); needs `kl="analytic"`.
        capacity: nats that the rate is held at, usually rising with the step; needs `kl="analytic"`.
        baseline: what `gradient="score"` subtracts, nats.
        temperature: of the relaxations "gumbel_softmax" and "straight_through".
        chunk_size: samples at a time, to bound memory; value and gradient stay the same.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: a shape, option or key is not usable, options do not go together, or no closed
            form is known.

    >>> import jax
    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> terms = jv.elbo(jax.random.key(1), model, jnp.ones(4))
    >>> bool(jnp.allclose(terms.bound, -(terms.distortion + terms.rate)))
    True

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes"; Higgins et al.
    (2017), "beta-VAE"; Kingma et al. (2016), "Improved variational inference with inverse
    autoregressive flow", appendix C.8, for free bits; Burgess et al. (2018), "Understanding
    disentangling in beta-VAE", for capacity. Departs from the source: free bits are counted
    per example, not per minibatch.
    """
    require_choice("kl", kl, get_args(KL))
    require_weight(beta=beta)
    task = problem(
        key,
        model,
        x,
        num_samples=num_samples,
        bound=bounds.elbo,
        rate=_weighted_rate(kl, free_bits, capacity),
        beta=beta,
        chunk_size=chunk_size,
    )
    return _terms(task, choose(gradient, baseline=baseline, temperature=temperature))


def iwae(
    key: PRNGKey,
    model: Model,
    x: Float[AnyArray, "*event"],
    *,
    num_samples: int,
    gradient: str | Estimator = "pathwise",
    baseline: Baseline | None = None,
    chunk_size: int | None = None,
) -> Terms:
    """Estimate the importance-weighted bound of one example with K = `num_samples`.

    `bound = log mean_k exp(log_w[k])`, `log_w[k] = log_p_x_z[k] + log_p_z[k] - log_q_z_x[k]`,
    `z_k ~ q(z|x)`. Distortion and rate are those of q, averaged over the same samples, so
    `-(distortion + rate)` is the ELBO, which lies below the bound.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        x: one example, of the event shape of the likelihood.
        num_samples: K, at least 1.
        gradient: the name of an estimator in `jaxvae.gradients`, or such a function.
        baseline: what `gradient="score"` subtracts, nats, or "leave_one_out".
        chunk_size: samples at a time, to bound memory; value and gradient stay the same.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: a shape, option or key is not usable, or options do not go together.

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
    """
    options = {"num_samples": num_samples, "chunk_size": chunk_size}
    task = problem(key, model, x, bound=bounds.iwae, **options)
    return _terms(task, choose(gradient, baseline=baseline))


def importance_weighted(
    key: PRNGKey,
    model: Model,
    x: Float[AnyArray, "*event"],
    *,
    bound: Bound,
    num_samples: int,
    gradient: str | Estimator = "pathwise",
    baseline: Baseline | None = None,
    chunk_size: int | None = None,
) -> Terms:
    """Evaluate any function of the log-weights as an objective: one of `jaxvae.bounds`, or your own.

    `objective = bound(log_w)`. The reported `bound` is `min(bound(log_w), iwae(log_w))`, an honest
    lower bound whatever the function: for a lower bound such as `renyi` with alpha >= 0 it is the
    function itself, for `vr_max` or `chi_upper` the importance-weighted bound on the same samples.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        x: one example, of the event shape of the likelihood.
        bound: log_w [K] -> nats, such as `functools.partial(bounds.renyi, alpha=0.5)`.
        num_samples: K, at least 1.
        gradient: the name of an estimator in `jaxvae.gradients`, or such a function.
        baseline: what `gradient="score"` subtracts, nats, or "leave_one_out".
        chunk_size: samples at a time, to bound memory; value and gradient stay the same.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: a shape, option or key is not usable, or options do not go together.
    """
    options = {"num_samples": num_samples, "chunk_size": chunk_size}
    task = problem(key, model, x, bound=bound, of_weights=True, **options)
    return _terms(task, choose(gradient, baseline=baseline))


def multiply_iwae(
    key: PRNGKey,
    model: Model,
    x: Float[AnyArray, "*event"],
    *,
    num_outer: int,
    num_samples: int,
    gradient: str | Estimator = "pathwise",
    chunk_size: int | None = None,
) -> Terms:
    """Estimate the mean of M = `num_outer` importance-weighted bounds of K = `num_samples` samples each.

    `bound = mean_m log mean_k w[m, k]`, on M * K samples.

    Source: Rainforth et al. (2018), "Tighter variational bounds are not necessarily better", MIWAE.
    """
    require_positive(num_outer=num_outer, num_samples=num_samples)
    return importance_weighted(
        key,
        model,
        x,
        bound=partial(_multiply, num_outer=num_outer),
        num_samples=num_outer * num_samples,
        gradient=gradient,
        chunk_size=chunk_size,
    )


def partially_iwae(
    key: PRNGKey,
    model: Model,
    x: Float[AnyArray, "*event"],
    *,
    num_outer: int,
    num_samples: int,
    chunk_size: int | None = None,
) -> Terms:
    """Estimate the bound that trains the decoder on all M * K samples together and the encoder on M sets of K.

    The value is `iwae` of the M * K samples; the encoder's gradient is that of `multiply_iwae`.

    Source: Rainforth et al. (2018), "Tighter variational bounds are not necessarily better", PIWAE.
    """
    require_positive(num_outer=num_outer, num_samples=num_samples)
    encoder_bound = partial(_multiply, num_outer=num_outer)
    return iwae(
        key,
        model,
        x,
        num_samples=num_outer * num_samples,
        gradient=partial(separate, encoder_bound=encoder_bound),
        chunk_size=chunk_size,
    )


def _multiply(log_w: Float[Array, "MK"], *, num_outer: int) -> Float[Array, ""]:
    return bounds.multiply_iwae(log_w.reshape(num_outer, -1))


def _terms(task: Problem, estimator: Estimator) -> Terms:
    """Return the terms of a problem: `objective = value`, with the gradient of the estimator.

    The reported bound is `-(distortion + rate)` for the ELBO and `min(value, iwae(log_w))` otherwise.
    """
    s, surrogate = estimator(task)
    value = task.value(s)
    distortion, rate = -s.mean(s.log_p_x_z), RATES[task.rate.kl](s)
    is_elbo = task.bound is bounds.elbo
    bound = -(distortion + rate) if is_elbo else jnp.minimum(value, bounds.iwae(s.log_w))
    return Terms(bend(value, surrogate), bound, distortion, rate)


def _weighted_rate(kl: KL, free_bits: Scalar, capacity: Scalar | None) -> Rate:
    """Return what beta weighs: the rate, the rate beyond the free bits, or its distance from a capacity."""
    rate = RATES[kl]
    require_weight(free_bits=free_bits)
    no_free_bits = is_known(free_bits) and float(free_bits) == 0
    if no_free_bits and capacity is None:
        return rate
    given = "capacity" if capacity is not None else "free_bits"
    if kl != "analytic":
        raise InputError(f'{given}: needs kl="analytic", the rate in closed form, got kl="{kl}"')
    if capacity is None:
        return rate._replace(closed=lambda q, p: jnp.sum(jnp.maximum(kl_each(q, p), free_bits)))
    require_weight(capacity=capacity)
    if not no_free_bits:
        raise InputError("free_bits: has no effect beside capacity; leave one of them out")
    return rate._replace(closed=lambda q, p: jnp.abs(analytic_kl(q, p) - capacity))
