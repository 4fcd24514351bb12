"""Bidirectional Monte Carlo: lower and upper bounds on log p(x) of simulated examples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvae.binding import bind
from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import describe, sample
from jaxvae.evaluation.annealing import AIS, summary
from jaxvae.evaluation.chains import Schedule, Settings, Start, anneal, draw, ladder, path, tune
from jaxvae.evaluation.hmc import Point
from jaxvae.evaluation.streams import mean_and_error, stream
from jaxvae.types import InputError, Model, PRNGKey


class BDMC(NamedTuple):
    """Lower and upper bounds on log p(x) of examples simulated from the model."""

    lower: AIS
    """Chains from p0 to p(x, z): in expectation at most log p(x)."""
    upper: AIS
    """Chains from the exact posterior back to p0: in expectation at least log p(x). All chains of an
    example start at its single z, whose contribution to the error is not in `standard_error`."""
    xs: Float[np.ndarray, "N *event"]
    """The simulated examples."""

    @property
    def gap(self) -> tuple[float, float]:
        """The mean of upper - lower over examples and its standard error, nats.

        In expectation it bounds the error of either side on such examples, without knowledge of log p(x).
        """
        return mean_and_error(self.upper.estimate - self.lower.estimate)

    def __str__(self) -> str:
        (lower, lower_error), (upper, upper_error) = self.lower.mean(), self.upper.mean()
        gap, gap_error = self.gap
        return (
            f"log p(x) of {len(self.xs)} examples from the model: at least {lower:.2f} +- "
            f"{lower_error:.2f} and at most {upper:.2f} +- {upper_error:.2f} nats, a gap of {gap:.2f} "
            f"+- {gap_error:.2f} nats"
        )


def bdmc(
    key: PRNGKey,
    model: Model,
    *,
    num_examples: int,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    num_leapfrog: int = 10,
    start: Start = "prior",
    schedule: Schedule = "sigmoid",
    target_acceptance: float = 0.65,
    step_size: float = 0.3,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> BDMC:
    """Bound the error of annealed importance sampling, on examples simulated from the model.

        z ~ p(z),    x ~ p(x|z): z is an exact sample of p(z|x)
        lower = log mean_k w[k],       chains from p0 up to p(x, z), as in `ais`
        upper = -log mean_k v[k],      chains from z at p(x, z) down to p0,    E v = 1 / p(x)

    `E lower <= E log p(x) <= E upper`, so the gap bounds the error of either side. This holds for
    simulated examples only; for data, whose posteriors may be harder, the gap is an indication. Both
    directions use the step sizes of one pilot run.

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`.
        model: any object with `prior`, `posterior` and `likelihood`, whose latents are real.
        num_examples: N.
        num_chains: K, in each direction; see `jaxvae.evaluation.ais` for this and all following arguments.
        num_temperatures: T.
        num_leapfrog: gradients per transition.
        start: p0: "prior", p(z), or "posterior", q(z|x).
        schedule: the temperatures: "sigmoid" or "linear".
        target_acceptance: the acceptance probability to which the pilot run adapts the step sizes.
        step_size: the initial leapfrog step size of the pilot run.
        batch_size: examples at a time; by default chosen so that batch x K is about 1,000.
        on_progress: called after every batch with the number of finished examples.

    Returns:
        `lower`, `upper`, the examples `xs`, and the `gap`; `str` gives a one-sentence summary.

    Raises:
        InputError: an option is invalid, the latents are not real vectors, the likelihood cannot
            be sampled, or the model needs a label: pass `model.given(y)`.

    >>> from jaxvae.testing import linear_gaussian
    >>> both = bdmc(jax.random.key(0), linear_gaussian(), num_examples=10, num_temperatures=300)
    >>> both.gap[0] < 0.1
    True

    Source: Grosse, Ghahramani and Adams (2015), "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo"; Wu, Burda, Salakhutdinov and Grosse (2017), "On the quantitative
    analysis of decoder-based generative models".
    """
    settings = Settings(
        num_chains, num_temperatures, num_leapfrog, start, schedule, target_acceptance, step_size
    )
    require_key(key)
    require_positive(num_examples=num_examples)
    settings = settings.checked()
    # Examples are simulated from their keys when they are used; the rows only set their number.
    rows = jnp.zeros((num_examples, 1))
    size = settings.batch_size(batch_size)
    result = stream(
        _bdmc, bind(model), key, rows, batch_size=size, on_progress=on_progress, settings=settings
    )
    return BDMC(*result)


def _bdmc(model: Model, key: PRNGKey, row: Array, *, settings: Settings) -> BDMC:
    del row
    of_example, of_start, of_pilot, of_chains = jax.random.split(key, 4)
    z, x = simulate(of_example, model)
    base, evaluate = path(model, x, settings.start)
    pilot, below = draw(of_start, base, evaluate, settings.num_chains)
    step_sizes = tune(of_pilot, pilot, evaluate, settings)
    ts = ladder(settings.schedule, settings.num_temperatures)
    above = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), evaluate(z), below)

    def run(key: PRNGKey, points: Point, ts: Array, step_sizes: Array) -> AIS:
        found = anneal(key, points, ts, step_sizes, evaluate, settings.num_leapfrog)
        return summary(*found)

    # Both directions at once: one loop of twice the chains.
    up = below, ts, step_sizes
    down = above, ts[::-1], step_sizes[::-1]
    both = jax.tree.map(lambda *sides: jnp.stack(sides), up, down)
    found = jax.vmap(run)(jax.random.split(of_chains), *both)
    lower, upper = (jax.tree.map(lambda leaf, side=side: leaf[side], found) for side in (0, 1))
    return BDMC(lower, upper._replace(estimate=-upper.estimate), x)  # pyright: ignore[reportArgumentType]


def simulate(key: PRNGKey, model: Model) -> tuple[Array, Array]:
    """Draw `z ~ p(z)` and `x ~ p(x|z)`, x as float32.

    Raises:
        InputError: the likelihood cannot be sampled.
    """
    of_z, of_x = jax.random.split(key)
    z = sample(model.prior(), of_z)
    likelihood = model.likelihood(z)
    try:
        return z, sample(likelihood, of_x).astype(jnp.float32)
    except NotImplementedError:
        raise InputError(
            "model: expected a likelihood that can be sampled, to simulate examples, got "
            f"{describe(likelihood)}; use jv.evaluation.ais on examples of your own"
        ) from None
