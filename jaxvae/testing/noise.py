"""The signal-to-noise ratio of gradients, and its growth with K."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxvae.checks import require_key, require_positive
from jaxvae.types import InputError, Model, Objective, PRNGKey, Terms


class Slope(NamedTuple):
    """The exponent of a power law and its standard error from the residuals of the fit."""

    value: float
    standard_error: float


def snr(
    key: PRNGKey,
    objective: Objective,
    model: Model,
    x: Float[Array, "*event"],
    *,
    num_draws: int = 1000,
    reference: Any = None,
    groups: Sequence[str] = ("encoder", "decoder"),
    chunk_size: int = 1000,
) -> dict[str, float]:
    """Estimate the signal-to-noise ratio of an objective's gradient, one number per group of parameters.

    `snr = |E g| / sqrt(tr Cov g)`, in Euclidean norm over the group. The covariance is that of the objective's
    gradient; the mean is taken from `reference`, since the noise of `objective` can hide its own mean.

    Args:
        key: one typed key.
        objective: `(key, model, x) -> Terms`.
        model: the model; the groups are attributes of it.
        x: one example.
        num_draws: the number of gradients drawn, of the objective and of the reference.
        reference: the source of the mean: an exact gradient, such as from `exact_gradient`; another
            objective with the same expectation and less noise; or None for the objective itself.
        groups: names of attributes of the model.
        chunk_size: the number of gradients computed at once.

    Returns:
        A ratio for each group.

    Raises:
        InputError: a group is not an attribute of the model, or an argument is not usable.

    >>> import jaxvae as jv
    >>> from jaxvae.testing import exact_gradient, linear_gaussian
    >>> model, x = linear_gaussian(), jax.numpy.ones(3)
    >>> ratios = snr(jax.random.key(0), jv.elbo, model, x, reference=exact_gradient(model, x))
    >>> sorted(ratios)
    ['decoder', 'encoder']

    Source: Rainforth et al. (2018), "Tighter variational bounds are not necessarily better".
    Departs from the source: the source takes the ratio of each parameter separately.
    """
    require_key(key)
    require_positive(num_draws=num_draws, chunk_size=chunk_size)
    for group in groups:
        if not hasattr(model, group):
            raise InputError(
                f"groups: expected attributes of {type(model).__name__}, got {group!r}"
            )
    own, other = jax.random.split(key)
    gradients = _draw(own, objective, model, x, num_draws, chunk_size)
    if callable(reference):
        estimator = cast(Objective, reference)
        reference, rows = _draw(other, estimator, model, x, num_draws, chunk_size), num_draws
    elif reference is None:
        reference, rows = gradients, num_draws
    else:
        rows = 1

    def ratio(group: str) -> float:
        mean = _flat(reference, group, rows).mean(axis=0)
        spread = _flat(gradients, group, num_draws).var(axis=0, ddof=1)
        return float(np.linalg.norm(mean) / np.sqrt(spread.sum()))

    return {group: ratio(group) for group in groups}


def slope(ks: ArrayLike, values: ArrayLike) -> Slope:
    """Fit the exponent a in `values ~ ks^a`, by least squares of log values on log ks.

    Args:
        ks: positive numbers, at least three of them distinct, such as numbers of samples.
        values: a positive number for each.

    Returns:
        The exponent and its standard error.

    Raises:
        InputError: there are too few numbers, or one of them is not positive.

    >>> round(slope([1, 4, 16], [3.0, 6.0, 12.0]).value, 6)
    0.5
    """
    ks, values = np.asarray(ks, np.float64), np.asarray(values, np.float64)
    if ks.ndim != 1 or ks.shape != values.shape or len(np.unique(ks)) < 3:
        raise InputError(
            "ks: expected at least three different numbers and a value for each, "
            f"got {ks.shape} and {values.shape}"
        )
    if not (np.all(ks > 0) and np.all(values > 0)):
        raise InputError("values: expected positive numbers, whose logarithm exists")
    x, y = np.log(ks), np.log(values)
    x = x - x.mean()
    exponent = x @ y / (x @ x)
    residual = y - y.mean() - exponent * x
    error = np.sqrt(residual @ residual / (len(x) - 2) / (x @ x))
    return Slope(float(exponent), float(error))


def _draw(
    key: PRNGKey, objective: Objective, model: Model, x: Array, num_draws: int, chunk_size: int
) -> Any:
    """Draw gradients of the objective; every leaf has a leading axis of draws."""

    def one(key: PRNGKey) -> Any:
        def ascend(model: Model) -> Array:
            result = objective(key, model, x)
            return result.objective if isinstance(result, Terms) else result

        return jax.grad(ascend)(model)

    keys = jax.random.split(key, num_draws)
    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=min(chunk_size, num_draws)))(keys)


def _flat(gradient: Any, group: str, rows: int) -> np.ndarray:
    """Return the group's gradient entries as [rows, P] in float64."""
    leaves = jax.tree.leaves(getattr(gradient, group))
    return np.concatenate([np.asarray(a, np.float64).reshape(rows, -1) for a in leaves], axis=1)
