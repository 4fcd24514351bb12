"""Expectation maximisation, as alternating ascent of one free energy."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxvae.checks import known_number, require_positive
from jaxvae.inference.steps import MStep, free_energies, make_update, start_optimizer
from jaxvae.types import AnyArray, InputError, Model

M = TypeVar("M", bound=Model)

ROUNDING = 1e-4
"""The tolerated float32 error of a sum of free energies, as a fraction of the sum of their magnitudes."""


class EMRecord(NamedTuple):
    """The record of one EM step: weighted sums over the examples, nats.

    `after_e <= after_m <= log_evidence`, and `log_evidence` is `after_e` of the next step.
    """

    step: int
    """The number of the step, from 1."""
    after_e: float
    """Free energy at the exact posteriors of the model before the step, which is that model's log-evidence."""
    after_m: float
    """Free energy of the new model at the same posteriors."""
    log_evidence: float
    """Log-evidence of the new model."""


def em(
    model: M,
    xs: Float[AnyArray, "N *event"],
    *,
    num_steps: int = 100,
    tolerance: float | None = 1e-6,
    weights: Float[AnyArray, "N"] | None = None,
    m_step: MStep | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_updates: int | None = None,
    on_progress: Callable[[EMRecord], None] | None = None,
) -> tuple[M, list[EMRecord]]:
    """Fit a model with an exact posterior by expectation maximisation.

    `F = sum_i weights_i (E_q_i[log p(x_i, z)] + H(q_i))`, see `free_energy`. E-step: `q_i = p(z|x_i)`,
    so that F = log p(xs). M-step: the model ascends F at these q, by the first that is available of:
    `m_step`; `optimizer`, with `num_updates` updates, of which the best model is kept; the model's own
    `m_step(qs, xs, weights)`, in closed form. F decreases in neither step, which is checked. EM is
    deterministic and takes no key.

    EM finds a local optimum, which depends on the initial model: `model.initialized(key, xs)` is an
    initial model at the scale of the data for `ppca`, `factor_analysis` and `gaussian_mixture`.

    Args:
        model: a model with `prior`, `likelihood` and `exact_posterior`; p(z|x) is normal, or over bits or
            one-hot vectors. If it has `log_evidence`, every E-step is checked against it.
        xs: all the examples. The posteriors of all of them are in memory at once.
        num_steps: the maximum number of steps.
        tolerance: stop once a step gains no more than this, nats per example; None to take all steps.
        weights: weights of the examples; equal if None.
        m_step: your own M-step, `(model, qs, xs, weights) -> model`; `qs` is the result of
            `jax.vmap(model.exact_posterior)(xs)`.
        optimizer: an optax transformation, which minimises.
        num_updates: number of updates of the optimizer in each M-step; 10 by default.
        on_progress: called with each record.

    Returns:
        The model, and a record for each step.

    Raises:
        InputError: an argument is invalid; the free energy is not finite, decreased, or differs from
            the log-evidence after an E-step, by more than float32 rounding explains.

    >>> import jaxvae as jv
    >>> xs = jax.random.normal(jax.random.key(0), (40, 3))
    >>> model = jv.models.ppca(jax.random.key(1), (3,), latent_dim=1).initialized(jax.random.key(2), xs)
    >>> model, history = em(model, xs, num_steps=5)
    >>> [bool(r.after_e < r.after_m < r.log_evidence) for r in history]
    [True, True, True, True, True]

    Source: Dempster, Laird and Rubin (1977), "Maximum likelihood from incomplete data via the EM
    algorithm"; Neal and Hinton (1998), "A view of the EM algorithm that justifies incremental,
    sparse, and other variants".
    """
    require_positive(num_steps=num_steps)
    xs = jnp.asarray(xs, jnp.float32)
    weights = _weights(xs, weights)
    total = float(jnp.sum(weights))
    if tolerance is not None:
        none = ", or None for all of the steps"
        tolerance = known_number("tolerance", tolerance, at_least=0, or_else=none)
    step = _make_step(model, m_step=m_step, optimizer=optimizer, num_updates=num_updates)
    opt_state, history = start_optimizer(model, optimizer), []
    for count in range(1, num_steps + 1):
        new, opt_state, sums = step(model, opt_state, xs, weights)
        record = _checked(count, {name: float(value) for name, value in sums.items()})
        if count == 1 and optimizer is not None and record.after_m <= record.after_e:
            raise InputError(
                "optimizer: no update of the first M-step raised the free energy; lower the "
                "learning rate"
            )
        model = new
        history.append(record)
        if on_progress:
            on_progress(record)
        if tolerance is not None and record.log_evidence - record.after_e <= tolerance * total:
            break
    return model, history


def _make_step(model: Any, **options: Any) -> Callable[..., tuple[Any, Any, dict[str, Array]]]:
    """Return the compiled step, which returns the new model, the optimizer's state, and sums over the examples."""
    update = make_update(model, **options)

    def evidence(model: Any, xs: Array) -> Float[Array, "N"]:
        if hasattr(model, "log_evidence"):
            return jax.vmap(model.log_evidence)(xs)
        return free_energies(model, jax.vmap(model.exact_posterior)(xs), xs).bound

    @jax.jit
    def step(
        model: Any, opt_state: Any, xs: Array, weights: Array
    ) -> tuple[Any, Any, dict[str, Array]]:
        with jax.default_matmul_precision("highest"):
            done = update(model, opt_state, xs, weights)
            before, after = evidence(model, xs), evidence(done.model, xs)
        each = {
            "after_e": done.after_e.bound,
            "after_m": done.after_m.bound,
            "log_evidence": after,
            "before": before,
            "size": jnp.maximum(jnp.abs(done.after_e.distortion), 1.0),
        }
        return done.model, done.opt_state, {n: jnp.sum(weights * v) for n, v in each.items()}

    return step


def _checked(step: int, sums: dict[str, float]) -> EMRecord:
    """Return the record of a step; refuse a free energy that is not finite, decreased, or inexact after the E-step."""
    before, slack = sums.pop("before"), ROUNDING * sums.pop("size")
    record = EMRecord(step, **sums)
    if not all(abs(value) < float("inf") for value in record):
        raise InputError(
            f"model: expected finite free energies, got {record}; scale the data, or start from "
            "model.initialized(key, xs)"
        )
    if abs(record.after_e - before) > slack:
        raise InputError(
            f"exact_posterior: expected a free energy of {before:.6g} nats after E-step {step}, the "
            f"log_evidence, got {record.after_e:.6g}; one of the two is not exact"
        )
    if record.after_m < record.after_e - slack:
        raise InputError(
            f"m_step: expected a free energy of at least {record.after_e:.6g} nats after M-step "
            f"{step}, got {record.after_m:.6g}; it does not maximise E_q[log p(x, z)]"
        )
    return record


def _weights(xs: Array, weights: AnyArray | None) -> Float[Array, "N"]:
    if xs.ndim < 2 or xs.shape[0] == 0:
        raise InputError(f"xs: expected [N, *event] with N >= 1, got shape {xs.shape}")
    if not bool(jnp.all(jnp.isfinite(xs))):
        raise InputError("xs: expected finite values, got NaN or infinity; leave those rows out")
    if weights is None:
        return jnp.ones(xs.shape[0])
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != xs.shape[:1]:
        raise InputError(
            f"weights: expected shape {xs.shape[:1]}, one an example, got {weights.shape}"
        )
    if not bool(jnp.all(weights >= 0)) or not bool(jnp.sum(weights) > 0):
        raise InputError("weights: expected numbers of at least 0, not all of them 0")
    return weights
