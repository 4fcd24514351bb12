"""Chains of latents along a path of densities: initial points, transitions and weights."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

from jaxvae.checks import known_number, require_choice, require_positive
from jaxvae.distributions import ClassConditional, can_score, describe, log_prob, sample
from jaxvae.evaluation.hmc import Evaluate, Point, transition
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import AnyArray, InputError, Model, PRNGKey

Start: TypeAlias = Literal["prior", "posterior"]
Schedule: TypeAlias = Literal["sigmoid", "linear"]

ROWS = 1000
"""The approximate number of chains x examples per batch, unless a batch size is given."""
WARM_UP = 50
"""Transitions of the pilot run at its first temperature, in which the step size adapts to it."""


class Settings(NamedTuple):
    """The options of a run of chains; hashable, so that they can be a static argument."""

    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    start: Start
    schedule: Schedule
    target_acceptance: float
    step_size: float

    def checked(self) -> "Settings":
        """Return the settings, with Python's numbers, if they are valid.

        Raises:
            InputError: a number is out of its range or a name is unknown.
        """
        counts = self.num_chains, self.num_temperatures, self.num_leapfrog
        require_positive(**dict(zip(self._fields, counts, strict=False)))
        require_choice("start", self.start, get_args(Start))
        require_choice("schedule", self.schedule, get_args(Schedule))
        acceptance = known_number("target_acceptance", self.target_acceptance, above=0, below=1)
        step_size = known_number("step_size", self.step_size, above=0)
        return self._replace(target_acceptance=acceptance, step_size=step_size)

    def batch_size(self, given: int | None) -> int:
        """Return the number of examples at a time: the given one, or as many as make about 1,000 chains."""
        return max(1, ROWS // self.num_chains) if given is None else given


def ladder(schedule: Schedule, num_temperatures: int) -> Float[np.ndarray, "{num_temperatures}+1"]:
    """Return the temperatures t_0 = 0 to t_T = 1, float32.

    >>> ladder("linear", 4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    t = np.linspace(0.0, 1.0, num_temperatures + 1)
    if schedule == "sigmoid":
        t = 1 / (1 + np.exp(4 - 8 * t))
        t = (t - t[0]) / (t[-1] - t[0])
    return t.astype(np.float32)


def path(model: Model, x: Array, start: Start) -> tuple[Distribution, Evaluate]:
    """Return p0, and the path from p0 to p(x, z) with its gradients.

    Raises:
        InputError: the latents are not real vectors, or p0 is a posterior without a density.
    """
    p, q = model.prior(), model.posterior(x)
    require_latents(q, p)
    _require_real(p, "model.prior()")
    if start == "posterior":
        _require_real(q, "model.posterior(x)")
        if not can_score(q):
            raise InputError(
                'start: expected "prior" for a posterior that has no density of a given z, got '
                f'"posterior" with {describe(q)}'
            )

    def log_likelihood(z: Array) -> Array:
        return log_p_x_given_z(model, x, z)

    def evaluate(z: Array) -> Point:
        slope = jax.value_and_grad(log_likelihood)(z)
        log_p = jax.value_and_grad(lambda z: log_prob(p, z))(z)
        if start == "prior":
            return Point(z, log_p[0], slope[0], log_p[1], slope[1])
        log_q = jax.value_and_grad(lambda z: log_prob(q, z))(z)
        slope = [x + (b - a) for x, b, a in zip(slope, log_p, log_q, strict=True)]
        return Point(z, log_q[0], slope[0], log_q[1], slope[1])

    return (p if start == "prior" else q), evaluate


def draw(
    key: PRNGKey, base: Distribution, evaluate: Evaluate, num_chains: int
) -> tuple[Point, Point]:
    """Draw exact samples of p0 and evaluate them: K for the pilot run, and K others for the weighted chains."""
    points = jax.vmap(lambda key: evaluate(sample(base, key)))(
        jax.random.split(key, 2 * num_chains)
    )
    pilot, chains = (
        Point(*(leaf[some] for leaf in points))
        for some in (slice(num_chains), slice(num_chains, None))
    )
    return pilot, chains


def anneal(
    key: PRNGKey,
    points: Point,
    ts: Float[AnyArray, "temperatures"],
    step_sizes: Float[Array, "moves"],
    evaluate: Evaluate,
    num_leapfrog: int,
) -> tuple[Float[Array, "K"], Float[Array, ""]]:
    """Run chains from exact samples of f_(t_0); return their log-weights, nats, and mean acceptance.

    `log_w = sum_j (ts[j] - ts[j-1]) slope(z_(j-1))`, z_j by a transition at ts[j] with
    `step_sizes[j-1]`. Increasing temperatures give weights of mean p(x); decreasing ones, from samples
    of the exact posterior, give weights of mean 1 / p(x). The transition at the last temperature would
    not change the weights and is omitted. Sums are compensated, since thousands of float32 increments
    would accumulate rounding errors.
    """
    changes = ts[1:] - ts[:-1]

    def at(carry: tuple, now: tuple) -> tuple[tuple, None]:
        points, log_w, accepted = carry
        j, change, t, step_size = now
        log_w = add(log_w, change * points.slope)
        points, acceptance = move(
            jax.random.fold_in(key, j), points, t, step_size, evaluate, num_leapfrog
        )
        return (points, log_w, accepted + jnp.mean(acceptance)), None

    moves = len(changes) - 1
    zeros = jnp.zeros_like(points.slope)
    steps = np.arange(moves), changes[:-1], ts[1:-1], step_sizes
    (points, log_w, accepted), _ = jax.lax.scan(at, (points, (zeros, zeros), jnp.zeros(())), steps)
    log_w, _ = add(log_w, changes[-1] * points.slope)
    return log_w, accepted / moves if moves else jnp.full((), jnp.nan)


def tune(
    key: PRNGKey, points: Point, evaluate: Evaluate, settings: Settings
) -> Float[Array, "{settings.num_temperatures}-1"]:
    """Return a step size for each transition, from a pilot run of a tenth of the temperatures.

    `log step += mean_k acceptance[k] - target` after every transition of K chains; between the
    temperatures of the pilot run the logarithm of the step size is interpolated.
    """
    size = settings.num_temperatures
    if size == 1:
        return jnp.zeros(0)
    pilot_size = max(WARM_UP, size // 10)
    ts = ladder(settings.schedule, pilot_size)[1:]
    ts = np.concatenate([np.full(WARM_UP, ts[0]), ts])

    def at(carry: tuple, now: tuple) -> tuple[tuple, Array]:
        points, log_step = carry
        j, t = now
        key_now, step_size = jax.random.fold_in(key, j), jnp.exp(log_step)
        points, acceptance = move(key_now, points, t, step_size, evaluate, settings.num_leapfrog)
        log_step = log_step + (jnp.mean(acceptance) - settings.target_acceptance)
        return (points, log_step), log_step

    begin = points, jnp.log(settings.step_size)
    _, log_steps = jax.lax.scan(at, begin, (np.arange(len(ts)), ts))
    # [0] is the step size at the end of the warm-up, [i] that after the transition at t_i of the pilot run.
    log_steps = log_steps[WARM_UP - 1 :]
    place = np.arange(1, size) * pilot_size / size
    before = place.astype(int)
    part = np.float32(place - before)
    return jnp.exp((1 - part) * log_steps[before] + part * log_steps[before + 1])


def move(
    key: PRNGKey,
    points: Point,
    t: Array,
    step_size: Array,
    evaluate: Evaluate,
    num_leapfrog: int,
) -> tuple[Point, Float[Array, "K"]]:
    """Make one transition of every chain, each with its own key."""

    def one(key: PRNGKey, point: Point) -> tuple[Point, Array]:
        return transition(key, point, t, step_size, evaluate=evaluate, num_leapfrog=num_leapfrog)

    return jax.vmap(one)(jax.random.split(key, len(points.slope)), points)


def add(total: tuple[Array, Array], value: Array) -> tuple[Array, Array]:
    """Add `value` to a sum with its accumulated rounding error (Kahan summation)."""
    before, error = total
    value = value - error
    after = before + value
    error = (after - before) - value
    return after, jnp.where(jnp.isfinite(error), error, jnp.zeros_like(error))


def _require_real(distribution: Distribution, role: str) -> None:
    """Refuse latents to which Hamiltonian dynamics does not apply.

    Raises:
        InputError: the support is not all real vectors, or the latent contains a class.
    """
    support: Any = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if isinstance(distribution, ClassConditional):
        raise InputError(
            f"{role}: expected one over real vectors, got {describe(distribution)}, whose latent holds a "
            "class; bind it with model.given(y)"
        )
    if support != constraints.real:
        raise InputError(
            f"{role}: expected one over real vectors, which gradients can move, got "
            f"{describe(distribution)} of support {support}; use jv.evaluation.log_likelihood, or, of "
            "a class, model.given(y) where the model has it"
        )
