"""Annealed importance sampling of log p(x), along a path of densities from p0(z) to p(x, z)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvae.checks import require_key
from jaxvae.evaluation.chains import Schedule, Settings, Start, anneal, draw, ladder, path, tune
from jaxvae.evaluation.streams import mean_and_error, stream, weights_of
from jaxvae.types import AnyModel, Batch, Model, PRNGKey


class AIS(NamedTuple):
    """Estimates of log p(x) by annealed importance sampling, one per example, as NumPy arrays."""

    estimate: Float[np.ndarray, "N"]
    """log mean_k w[k] over chains, nats: in expectation a lower bound on log p(x). For chains run in
    reverse it is -log mean_k w[k]: in expectation an upper bound."""
    standard_error: Float[np.ndarray, "N"]
    """The standard error of `estimate`, from the spread of the weights over chains (delta method), nats."""
    ess: Float[np.ndarray, "N"]
    """Effective number of chains, (sum w)^2 / sum w^2, from 1 to K."""
    acceptance: Float[np.ndarray, "N"]
    """Mean acceptance probability of the transitions; NaN without transitions."""
    weight: Float[np.ndarray, "N"] | None = None
    """Weights of the examples in the mean; equal if None."""

    def mean(self) -> tuple[float, float]:
        """The mean over examples and its standard error, sd / sqrt(N), nats."""
        return mean_and_error(self.estimate, self.weight)


def ais(
    key: PRNGKey,
    model: AnyModel,
    xs: Batch,
    *,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    num_leapfrog: int = 10,
    start: Start = "prior",
    schedule: Schedule = "sigmoid",
    target_acceptance: float = 0.65,
    step_size: float = 0.3,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> AIS:
    """Estimate log p(x) of every example by annealed importance sampling with Hamiltonian transitions.

        log f_t(z) = (1 - t) log p0(z) + t log p(x, z),    0 = t_0 < t_1 < .. < t_T = 1
        log w = sum_j (t_j - t_(j-1)) (log p(x, z_(j-1)) - log p0(z_(j-1)))
        estimate = log mean_k w[k],    z_0 ~ p0,    z_j from z_(j-1) by a transition that leaves f_(t_j) invariant

    E w = p(x) exactly, for any number of temperatures and however slowly the chains mix: the estimate
    is in expectation a lower bound, and exceeds log p(x) + b with probability at most exp(-b). More
    temperatures tighten the bound. For E w = p(x), the transitions must not be adapted to the history of
    their own chains: a pilot run with a separate key, of a tenth of the temperatures, adapts one step
    size for each example and temperature to the target acceptance, and the step sizes are then fixed.
    Random draws do not depend on the batch size; rounding may, and long chains amplify it.

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`.
        model: any object with `prior`, `posterior` and `likelihood` whose latents are real; bind the
            class of a model with a class among its latents by `given(y)`.
        xs: examples as inputs of the model, [N, *event]; or a batch: a mapping with `x` and optionally
            `label` and `mask`.
        num_chains: K, the number of chains per example.
        num_temperatures: T, the number of evaluations of the weight, with T - 1 transitions; T = 1 is
            plain importance sampling from p0.
        num_leapfrog: gradients of log p(x, z) per transition.
        start: p0: "prior", p(z), or "posterior", q(z|x), which needs far fewer temperatures if it is good.
        schedule: the temperatures t_j: "linear", j / T; or "sigmoid", dense at both ends,
            sigmoid(8 j / T - 4) shifted and scaled to run from 0 to 1.
        target_acceptance: the acceptance probability to which the pilot run adapts the step sizes.
        step_size: the initial leapfrog step size of the pilot run.
        batch_size: examples at a time; by default chosen so that batch x K is about 1,000.
        on_progress: called after every batch with the number of finished examples.

    Returns:
        `estimate` [N] and its `standard_error` [N], nats; `ess` [N]; `acceptance` [N].

    Raises:
        InputError: an option or a shape is invalid, or the latents are not real vectors.

    >>> from jaxvae.testing import linear_gaussian
    >>> model, x = linear_gaussian(), jnp.ones(3)
    >>> found = ais(jax.random.key(0), model, x[None], num_temperatures=100)
    >>> bool(abs(found.estimate[0] - model.log_evidence(x)) < 4 * found.standard_error[0])
    True

    Source: Neal (2001), "Annealed importance sampling"; Wu, Burda, Salakhutdinov and Grosse (2017),
    "On the quantitative analysis of decoder-based generative models". Departs from the source: they
    adapt step sizes by the acceptance of the weighted chains themselves, for which E w = p(x) holds only
    approximately.
    """
    settings = Settings(
        num_chains, num_temperatures, num_leapfrog, start, schedule, target_acceptance, step_size
    )
    require_key(key)
    settings = settings.checked()
    size = settings.batch_size(batch_size)
    result = stream(
        _ais, model, key, xs, batch_size=size, on_progress=on_progress, settings=settings
    )
    return result._replace(weight=weights_of(xs))


def _ais(model: Model, key: PRNGKey, x: Array, *, settings: Settings) -> AIS:
    base, evaluate = path(model, x, settings.start)
    of_start, of_pilot, of_chains = jax.random.split(key, 3)
    pilot, points = draw(of_start, base, evaluate, settings.num_chains)
    step_sizes = tune(of_pilot, pilot, evaluate, settings)
    ts = ladder(settings.schedule, settings.num_temperatures)
    return summary(*anneal(of_chains, points, ts, step_sizes, evaluate, settings.num_leapfrog))


def summary(log_w: Float[Array, "K"], acceptance: Float[Array, ""]) -> AIS:
    """Return `log mean_k w[k]` with its standard error and the effective number of chains."""
    count = log_w.shape[0]
    estimate = jax.nn.logsumexp(log_w) - np.float32(np.log(count))
    share = jax.nn.softmax(log_w)
    ess = 1 / jnp.sum(jnp.square(share))
    # var(mean w) / mean(w)^2
    relative = jnp.sum(jnp.square(count * share - 1)) / (count * max(count - 1, 1))
    error = jnp.sqrt(relative) if count > 1 else jnp.full((), jnp.nan)
    return AIS(estimate, error, ess, acceptance)  # pyright: ignore[reportArgumentType]
