"""Twins of steps and objectives that each break one law, and that the checks of the laws must reject."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxvae as jv
from jaxvae.batching import Examples, over_batch, unpack
from jaxvae.keys import example_keys
from jaxvae.training.metrics import batch_metrics
from jaxvae.types import Terms


def altered(change: Any) -> Any:
    """Return a `make_step` whose steps change their batch first."""

    def make_step(objective: Any, optimizer: optax.GradientTransformation) -> Any:
        step = jv.training.make_step(objective, optimizer)
        return lambda state, batch: step(state, change(dict(batch)))

    return make_step


def _without(name: str) -> Any:
    return altered(lambda batch: {k: a for k, a in batch.items() if k != name})


def absent_rows_at_zero(objective: Any, optimizer: optax.GradientTransformation) -> Any:
    """Make a step that multiplies absent rows by weight 0, which gives NaN if they hold NaN."""

    def step(state: Any, batch: Any) -> Any:
        examples: Examples = unpack(batch)
        keys = example_keys(state.key, state.step, examples.index)

        def loss(model: Any) -> Any:
            terms = over_batch(objective, keys, model, examples)
            metrics = batch_metrics(terms, examples)
            return metrics["loss"], metrics

        gradient, metrics = jax.grad(loss, has_aux=True)(state.model)
        return state._replace(opt_state=gradient), metrics

    return step


def _by_place(batch: Any) -> Any:
    return batch | {"index": jnp.arange(4)}


def _squared(batch: Any) -> Any:
    return batch | {"weight": batch["weight"] ** 2}


def _centred(batch: Any) -> Any:
    return batch | {"x": batch["x"] - jnp.nanmean(batch["x"], axis=0, keepdims=True)}


STEPS = {
    "weights are left out": _without("weight"),
    "masks are left out": _without("mask"),
    "weights are squared": altered(_squared),
    "absent rows count 0 times": absent_rows_at_zero,
    "keys by place": altered(_by_place),
    "x is centred by its batch": altered(_centred),
}
"""Name of a bug -> the twin of `make_step` with it."""


def of_its_own_value(key: Any, model: Any, x: Any, **options: Any) -> Terms:
    """Compute IWAE with a changed objective: an estimator that changes the value."""
    terms = jv.iwae(key, model, x, num_samples=3, **options)
    return terms._replace(objective=terms.objective + 1e-3)


def _shifted(terms: Terms, by: Any) -> Terms:
    return terms._replace(objective=terms.objective + by, bound=terms.bound + by)


@jax.custom_batching.custom_vmap
def _zero(x: jax.Array) -> jax.Array:
    return jnp.zeros((), x.dtype)


@_zero.def_vmap
def _zero_mapped(size: int, batched: Any, x: jax.Array) -> tuple[jax.Array, bool]:
    del batched
    return jnp.full((size,), 1e-2, x.dtype), True


def other_under_vmap(key: Any, model: Any, x: Any, **options: Any) -> Terms:
    """Compute another ELBO under `vmap` than without it."""
    return _shifted(jv.elbo(key, model, x, **options), _zero(jax.lax.stop_gradient(x)))


def first_chunk_alone(key: Any, model: Any, x: Any, *, chunk_size: Any = None) -> Terms:
    """Compute IWAE from the samples of the first chunk alone."""
    return jv.iwae(key, model, x, num_samples=3 if chunk_size is None else chunk_size)


def rounded(key: Any, model: Any, x: Any, **options: Any) -> Terms:
    """Compute the ELBO with an error of 1e5 machine epsilons: visible in float32, not in float64."""
    terms = jv.elbo(key, model, x, **options)
    return _shifted(terms, jnp.asarray(1e5 * jnp.finfo(terms.bound.dtype).eps, terms.bound.dtype))


ALONE = {
    "another number under vmap": other_under_vmap,
    "the first chunk alone": first_chunk_alone,
    "rounded": rounded,
}
"""Name of a bug -> the objective; all three are consistent within a batch, and differ only from a row alone."""


def other_when_traced(key: Any, model: Any, x: Any, **options: Any) -> Terms:
    """Compute another ELBO when traced than when run line by line."""
    return _shifted(jv.elbo(key, model, x, **options), 1e-2 * isinstance(x, jax.core.Tracer))


def nan_in_the_branch_not_taken(key: Any, model: Any, x: Any, **options: Any) -> Terms:
    """Compute the ELBO with a NaN that `where` drops: harmless in the value, an error under `jax_debug_nans`."""
    terms = jv.elbo(key, model, x, **options)
    return _shifted(terms, jnp.where(terms.bound < 0, 0.0, jnp.log(terms.bound - 1e3)))


def deaf_to_keys(key: Any, model: Any, x: Any, **options: Any) -> Terms:
    """Compute the ELBO with the key's bits as a threefry key, whatever the key's implementation."""
    return jv.elbo(jax.random.wrap_key_data(jax.random.key_data(key)), model, x, **options)
