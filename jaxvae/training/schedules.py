"""Schedules over steps; a schedule that cannot finish within the run is refused."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxvae.checks import require_choice, require_number, require_positive
from jaxvae.types import InputError, Scalar

Decay: TypeAlias = Literal["constant", "cosine", "linear"]


def linear_warmup(warmup_steps: int, total_steps: int, *, end: float = 1.0) -> optax.Schedule:
    """Return the schedule `end * min(1, step / warmup_steps)`, float32: KL warm-up if used as `beta` of `elbo`.

    Args:
        warmup_steps: the step at which `end` is reached, below `total_steps`; 0 gives a constant schedule.
        total_steps: the length of the run.
        end: the value after the warm-up.

    Raises:
        InputError: the warm-up would not end within the run.

    Source: Bowman et al. (2016), "Generating sentences from a continuous space", section 3.1.
    """
    require_within("warmup_steps", warmup_steps, total_steps)

    def schedule(step: ArrayLike) -> Array:
        fraction = jnp.asarray(step, jnp.float32) / max(warmup_steps, 1)
        return jnp.asarray(end * (jnp.minimum(fraction, 1.0) if warmup_steps else 1.0), jnp.float32)

    return schedule


def learning_rate_schedule(
    peak: Scalar,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    decay: Decay = "constant",
) -> optax.Schedule:
    """Return a schedule with linear warm-up from 0 to `peak`, then constant or decaying to 0 at the end.

    Args:
        peak: the highest learning rate, > 0; may be traced.
        total_steps: the length of the run.
        warmup_steps: the number of steps of the warm-up.
        decay: the shape after the warm-up: "constant", "linear" or "cosine".

    Raises:
        InputError: the rate is not positive, or the warm-up would not end within the run.
    """
    require_number("learning_rate", peak, above=0)
    require_within("learning_rate_warmup_steps", warmup_steps, total_steps)
    rest = total_steps - warmup_steps
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, max(rest, 1)),
        "cosine": lambda: optax.cosine_decay_schedule(peak, max(rest, 1)),
    }
    require_choice("learning_rate_decay", decay, after)
    if warmup_steps == 0:
        return after[decay]()
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup_steps), after[decay]()], [warmup_steps]
    )


def require_within(name: str, steps: int, total_steps: int) -> None:
    """Refuse a schedule that cannot finish within the run.

    Raises:
        InputError: `steps` is negative, or not below `total_steps`.
    """
    require_positive(total_steps=total_steps)
    if not 0 <= steps < total_steps:
        raise InputError(
            f"{name}: expected 0 to {total_steps - 1}, the last step of the run, got {steps}; "
            "a schedule that cannot finish within the run is refused"
        )
