"""Gradient estimators: each is a function `Problem -> (samples, surrogate)`.

The value of an objective is that of the bound on the samples. An estimator changes the gradient alone,
which is that of its scalar `surrogate`. A user's own estimator is such a function, passed as
`gradient=my_estimator`. Below, `v_k = d bound / d log_w[k]`; for IWAE, `v = softmax(log_w)`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    TransformedDistribution,
)

from jaxvae import bounds
from jaxvae.checks import require_choice
from jaxvae.distributions import can_score, describe
from jaxvae.distributions.support import is_all_reals
from jaxvae.log_weights import Bound, Problem, Samples
from jaxvae.relaxations import (
    disarm,
    enumerate_latents,
    gumbel_softmax,
    straight_through,
)
from jaxvae.types import InputError, Scalar

Estimator: TypeAlias = Callable[[Problem], tuple[Samples, Float[Array, ""]]]
Baseline: TypeAlias = Scalar | Literal["leave_one_out"]


def pathwise(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """The reparameterised gradient: differentiate the value through the samples.

    Unbiased for every continuous bound; of a bound of your own that jumps, the jumps are not seen.

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", section 2.4.
    """
    s = problem.draw()
    return s, problem.value(s)


def stl(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """Sticking the landing: pathwise without the score term, `log q(z|x)` seen through z alone.

    Zero in q where q is the exact posterior. Unbiased for the ELBO; biased in q for K > 1 under a
    bound that is not linear in `log_w`, such as IWAE. The score that is left out has a mean of 0 where the
    support of q is fixed.

    Raises:
        InputError: q cannot be scored, or its support depends on its parameters.

    Source: Roeder, Wu and Duvenaud (2017), "Sticking the landing".
    """
    _require_sampled_score(problem, "stl")
    s = problem.draw(scorer=stop_gradient(problem.model))
    return s, problem.value(s)


def dreg(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """Doubly reparameterised gradient, unbiased in q and p for every smooth bound.

    In the parameters of p: `sum_k v_k d log_w[k]`. In those of q, through the path alone:
    `sum_k c_k (d log_w[k] / d z_k) (d z_k / d phi)` with `c_k = v_k - d v_k / d log_w[k]`. For IWAE
    `c_k = softmax(log_w)_k^2`: the square belongs to q, never to p.

    Source: Tucker et al. (2019), "Doubly reparameterized gradient estimators for Monte Carlo
    objectives"; the general `c_k` follows by the same argument, an integration by parts: the bound
    has a second derivative without jumps of the first one (`vr_max` has them), and the support of q is fixed.

    Raises:
        InputError: the bound is `bounds.vr_max`, q cannot be scored, or its support depends on its parameters.
    """
    _require_sampled_score(problem, "dreg")
    if getattr(problem.bound, "func", problem.bound) is bounds.vr_max:
        raise InputError(
            'gradient: "dreg" needs a bound whose derivative has no jumps, got vr_max; use "pathwise", which is '
            "unbiased for it"
        )
    fixed = stop_gradient(problem.model)
    drawn = problem.draw(scorer=fixed)
    log_w = stop_gradient(problem.log_w(drawn))
    first, second = sensitivity(problem.bound, log_w)
    share = jnp.where(first == 0, 0.0, 1 - second / jnp.where(first == 0, 1.0, first))
    s = problem.draw(scorer=fixed, path=share, z=drawn.z)
    return s, problem.value(s)


def sensitivity(
    bound: Bound, log_w: Float[Array, "K"]
) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
    """Return the first and the second derivative of a bound in each log-weight, each [K]."""
    gradient = jax.grad(bound)

    def second(k: Array) -> Array:
        direction = (jnp.arange(log_w.size) == k).astype(log_w.dtype)
        return jax.jvp(gradient, (log_w,), (direction,))[1][k]

    ks = jnp.arange(log_w.size)
    return gradient(log_w), jax.lax.map(second, ks, batch_size=min(log_w.size, 128))


def score(
    problem: Problem, *, baseline: Baseline | None = None
) -> tuple[Samples, Float[Array, ""]]:
    """Score-function gradient (REINFORCE): none through z, so q may be discrete.

    `d value at fixed z + sum_k signal_k d log q(z_k|x)`, with `signal_k = value - baseline`; of the ELBO,
    a mean over samples, `signal_k = (value of sample k - baseline) / K`. With `baseline="leave_one_out"` it is
    `value - value_without_k`, where `value_without_k` has `log_w[k]` replaced by the mean of the other
    log-weights (the log of their geometric mean), or is 0 where that is -inf.

    Args:
        problem: what is estimated.
        baseline: None for nothing; a number in nats that does not depend on this example's samples,
            such as the running mean of `make_step(baseline_decay=...)`; or "leave_one_out", for K >= 2.

    Raises:
        InputError: "leave_one_out" with one sample, or another name.

    Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", theorem 1; Mnih and Rezende (2016), "Variational inference for Monte
    Carlo objectives", for the last.
    """
    s = problem.draw(path="stopped")
    value = problem.value(s)
    if isinstance(baseline, str):
        signal = _without_one(problem, stop_gradient(problem.log_w(s)), baseline)
    else:
        signal = _own(problem, s, value) - (0.0 if baseline is None else baseline)
        if problem.bound is bounds.elbo:
            signal = signal / problem.num_samples
    return s, value + _weighted_sum(stop_gradient(signal), s.log_q_z_x)


def _own(problem: Problem, s: Samples, value: Float[Array, ""]) -> Float[Array, "K"]:
    """Return the reward of each sample: the value, or, where the value is a mean over samples, its own term.

    The other terms of a mean add nothing to the expectation against `d log q(z_k|x)`, but add variance.
    """
    if problem.bound is bounds.elbo:
        return problem.log_w(s) - problem.beta * problem.rate.closed(s.q, s.p)
    return jnp.broadcast_to(value, s.log_q_z_x.shape)


def _weighted_sum(weight: Float[Array, "K"], values: Float[Array, "K"]) -> Float[Array, ""]:
    """Return `sum_k weight[k] * values[k]`, in which a value of weight 0 does not count, -inf included."""
    counts = weight != 0
    return jnp.sum(jnp.where(counts, weight * jnp.where(counts, values, 0.0), 0.0))


def vimco(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """The score-function gradient of an importance-weighted bound, with leave-one-out baselines.

    Raises:
        InputError: there is one sample only, or the bound is the ELBO.

    Source: Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives".
    """
    if not problem.of_weights:
        raise InputError(
            'gradient: "vimco" does not apply to the ELBO, for which it is "score" with '
            'baseline="leave_one_out"'
        )
    return score(problem, baseline="leave_one_out")


def _without_one(problem: Problem, log_w: Float[Array, "K"], name: str) -> Float[Array, "K"]:
    """Return the contribution of each sample to the bound, `bound(log_w) - bound(log_w without k)`."""
    count = log_w.size
    if name != "leave_one_out":
        raise InputError(f'baseline: expected a number or "leave_one_out", got {name!r}')
    if count < 2:
        raise InputError(f"num_samples: leave_one_out needs at least 2, got {count}")
    possible = log_w > -jnp.inf
    total, num_possible = jnp.sum(jnp.where(possible, log_w, 0.0)), jnp.sum(possible)

    def without(k: Array) -> Array:
        mean = (total - jnp.where(possible[k], log_w[k], 0.0)) / (count - 1)
        all_possible = num_possible - possible[k].astype(num_possible.dtype) == count - 1
        others = jnp.where(all_possible, mean, -jnp.inf)
        value = problem.bound(jnp.where(jnp.arange(count) == k, others, log_w))
        return jnp.where(jnp.isneginf(value), 0.0, value)  # any number that does not depend on z_k

    ks = jnp.arange(count)
    return problem.bound(log_w) - jax.lax.map(without, ks, batch_size=min(count, 128))


def rws(problem: Problem) -> tuple[Samples, Float[Array, ""]]:
    """Reweighted wake-sleep: p ascends the bound, q descends KL(p(z|x) || q(z|x)) (wake phase).

    In p: `sum_k v_k d log p(x, z_k)`; in q: `sum_k v_k d log q(z_k|x)`, `v = softmax(log_w)`. The
    update of q is not the gradient of the bound, and is biased by self-normalisation.

    Raises:
        InputError: the bound is another one.

    Source: Bornschein and Bengio (2015), "Reweighted wake-sleep".
    """
    if problem.bound is not bounds.iwae:
        raise InputError('gradient: "rws" belongs to the importance-weighted bound; use jv.iwae')
    s = problem.draw(path="stopped")
    v = jax.nn.softmax(stop_gradient(problem.log_w(s)))
    return s, _weighted_sum(v, s.log_p_x_z + s.log_p_z + s.log_q_z_x)


def separate(problem: Problem, *, encoder_bound: Bound) -> tuple[Samples, Float[Array, ""]]:
    """Two bounds on the same samples: q ascends `encoder_bound`, p ascends `problem.bound`.

    Source: Rainforth et al. (2018), "Tighter variational bounds are not necessarily better", the
    partially importance weighted autoencoder.
    """
    fixed = stop_gradient(problem.model)
    decoder = problem.draw(encoder=fixed, path="stopped")
    encoder = problem.draw(decoder=fixed)
    return encoder, problem.value(decoder) + encoder_bound(problem.log_w(encoder))


def bend(value: Float[Array, ""], surrogate: Float[Array, ""]) -> Float[Array, ""]:
    """Return a number with the value of the first and the gradient of the second."""
    return stop_gradient(value) + (surrogate - stop_gradient(surrogate))


def _require_sampled_score(problem: Problem, name: str) -> None:
    if problem.rate.kl != "monte_carlo":
        raise InputError(
            f'gradient: "{name}" changes how log q(z|x) is differentiated, which kl="{problem.rate.kl}" '
            'does not sample; use kl="monte_carlo"'
        )
    q = problem.model.posterior(problem.x)
    if not can_score(q):
        raise InputError(
            f'gradient: "{name}" evaluates log q(z|x) at z alone, which {describe(q)} cannot, '
            'having no inverse; use "pathwise" or "score"'
        )
    if moves(q):
        raise InputError(
            f'gradient: "{name}" leaves out the score of q, whose mean is 0 only where its support is fixed, '
            f'got {describe(q)}, whose support depends on its parameters; use "pathwise"'
        )


def moves(distribution: Distribution) -> bool:
    """Return whether the bounds of a support are arrays, which may be parameters.

    >>> import numpyro.distributions as dist
    >>> moves(dist.Uniform(jnp.zeros(2), jnp.ones(2))), moves(dist.Beta(2.0, 2.0))
    (True, False)
    """
    if isinstance(distribution, TransformedDistribution):
        base = distribution.base_dist
        if is_all_reals(base.support):
            return False
        parameters = jax.tree.leaves(distribution.transforms)
        return moves(base) or any(isinstance(leaf, jax.Array) for leaf in parameters)
    if isinstance(distribution, Independent | ExpandedDistribution):
        return moves(distribution.base_dist)
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(distribution.support))


ESTIMATORS: dict[str, Callable[..., tuple[Samples, Float[Array, ""]]]] = {
    "pathwise": pathwise,
    "stl": stl,
    "dreg": dreg,
    "score": score,
    "vimco": vimco,
    "rws": rws,
    "enumerate": enumerate_latents,
    "gumbel_softmax": gumbel_softmax,
    "straight_through": straight_through,
    "disarm": disarm,
}
"""Every estimator by its name; each refuses the problems that it is not for."""


def choose(gradient: str | Estimator, **options: Any) -> Estimator:
    """Return the estimator of a name, or the user's own, with its options bound.

    Args:
        gradient: a name in `ESTIMATORS`, or a function `Problem -> (samples, surrogate)`.
        options: those of estimators, such as `baseline`; None for one that is not given.

    Raises:
        InputError: the name is not known, or an option has no effect.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if callable(gradient):
        if given:
            raise InputError(f"{min(given)}: has no effect on your own estimator; bind it there")
        return gradient
    function = ", or a function Problem -> (samples, surrogate)"
    require_choice("gradient", gradient, ESTIMATORS, or_else=function)
    estimator = ESTIMATORS[gradient]
    for name in given:
        if name not in inspect.signature(estimator).parameters:
            raise InputError(f'{name}: has no effect with gradient="{gradient}"; leave it out')
    return partial(estimator, **given) if given else estimator
