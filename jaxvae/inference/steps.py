"""The E-step and the M-step of EM, on all examples at once."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.checks import require_positive
from jaxvae.inference.free_energy import Solvable, free_energy
from jaxvae.types import InputError, Model, Terms

MStep: TypeAlias = Callable[[Any, Distribution, Array, Array], Any]
"""An M-step `(model, qs, xs, weights) -> model`; `qs` is a distribution with a leading axis N in its arrays."""


class HalfSteps(NamedTuple):
    """The result of one EM step, with the free energy of every example after the E-step and after the M-step."""

    model: Any
    opt_state: optax.OptState
    after_e: Terms
    """The free energy [N] of the previous model at its exact posteriors; `bound` is its log p(x), nats."""
    after_m: Terms
    """The free energy [N] of the new model at the same posteriors, nats."""


Update: TypeAlias = Callable[[Any, Any, Array, Array], HalfSteps]


def make_update(
    model: Model,
    *,
    m_step: MStep | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_updates: int | None = None,
) -> Update:
    """Return the pure EM step `(model, opt_state, xs, weights) -> HalfSteps` for models of one type.

    Args:
        model: a model of this type; its values do not matter.
        m_step: your own M-step.
        optimizer: the optimizer of a gradient M-step.
        num_updates: number of updates of the optimizer in each M-step; 10 by default.

    Raises:
        InputError: the model has no exact posterior, or there is no M-step, or more than one is given.
    """
    if not isinstance(model, Solvable):
        raise InputError(
            f"model: expected one with exact_posterior(x), got {type(model).__name__}; where p(z|x) "
            "is not known, train an encoder with jv.training"
        )
    if m_step is not None and optimizer is not None:
        raise InputError("optimizer: has no effect beside your own m_step; leave one of them out")
    if optimizer is None and num_updates is not None:
        raise InputError("num_updates: has no effect without an optimizer; leave it out")
    own = m_step or getattr(type(model), "m_step", None)
    updates = 10 if num_updates is None else num_updates
    require_positive(num_updates=updates)
    if optimizer is not None:
        _require_module(model)
    elif own is None:
        raise InputError(
            f"m_step: {type(model).__name__} has no closed form of its own; pass an optimizer for an "
            "M-step by gradient, such as optax.adam(1e-2), or an m_step"
        )

    def update(model: Any, opt_state: Any, xs: Array, weights: Array) -> HalfSteps:
        with jax.default_matmul_precision("highest"):
            qs = jax.vmap(model.exact_posterior)(xs)
            after_e = free_energies(model, qs, xs)
            if optimizer is not None:
                new, opt_state = gradient_m_step(
                    model, opt_state, qs, xs, weights, optimizer, num_updates=updates
                )
            else:
                assert own is not None
                new = own(model, qs, xs, weights)
            return HalfSteps(new, opt_state, after_e, free_energies(new, qs, xs))

    return update


def free_energies(model: Model, qs: Distribution, xs: Float[Array, "N *event"]) -> Terms:
    """The `free_energy` of every example, as `Terms` of [N], nats."""
    return jax.vmap(free_energy, (None, 0, 0))(model, qs, xs)


def gradient_m_step(
    model: Any,
    opt_state: optax.OptState,
    qs: Distribution,
    xs: Float[Array, "N *event"],
    weights: Float[Array, "N"],
    optimizer: optax.GradientTransformation,
    *,
    num_updates: int,
) -> tuple[Any, optax.OptState]:
    """Return the best model among the iterates of the optimizer, so that F does not decrease.

    It ascends `sum_i weights_i F(q_i, model) / sum_i weights_i` at fixed q, a generalised M-step: if no
    iterate is better, the initial model is returned.

    Returns:
        The model, and the state of the optimizer after `num_updates` updates.

    Source: Neal and Hinton (1998), "A view of the EM algorithm that justifies incremental, sparse,
    and other variants".
    """
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    qs = jax.lax.stop_gradient(qs)

    def loss(params: Any) -> Float[Array, ""]:
        bounds = free_energies(nnx.merge(graph, params, rest), qs, xs).bound
        return -(weights @ bounds) / jnp.sum(weights)

    def keep(best: tuple[Any, Array], params: Any, value: Array) -> tuple[Any, Array]:
        better = value < best[1]
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best[0])
        return kept, jnp.where(better, value, best[1])

    def one(carry: Any, _: None) -> tuple[Any, None]:
        params, opt_state, best = carry
        value, gradient = jax.value_and_grad(loss)(params)
        best = keep(best, params, value)
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes int and float
            updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, best), None

    start = params, opt_state, (params, jnp.asarray(jnp.inf))
    (params, opt_state, best), _ = jax.lax.scan(one, start, length=num_updates)
    best, _ = keep(best, params, loss(params))
    return nnx.merge(graph, best, rest), opt_state


def start_optimizer(model: Model, optimizer: optax.GradientTransformation | None) -> Any:
    """Return the state of the optimizer before the first M-step, `()` without an optimizer."""
    return () if optimizer is None else optimizer.init(nnx.state(_require_module(model), nnx.Param))


def _require_module(model: Any) -> nnx.Module:
    if not isinstance(model, nnx.Module):
        raise InputError(
            f"model: expected a flax.nnx.Module, whose nnx.Params an optimizer can train, got "
            f"{type(model).__name__}"
        )
    return model
