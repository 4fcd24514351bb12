"""Checks that a data set fits a likelihood, made before anything compiles."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxvae.data.dataset import DEQUANTIZE_LEVELS, Dataset, categories, observed, support_name
from jaxvae.data.on_disk import OnDisk
from jaxvae.types import InputError

_FITS = {
    "boolean": ("boolean",),
    "open_unit_interval": ("open_unit_interval",),
    "unit_interval": ("unit_interval", "open_unit_interval"),
    "nonnegative_integer": ("nonnegative_integer", "boolean"),
    "real": ("boolean", "open_unit_interval", "unit_interval", "nonnegative_integer", "real"),
}
_WORDS = {
    "boolean": "bits (boolean)",
    "open_unit_interval": "values strictly between 0 and 1 (open_unit_interval)",
    "unit_interval": "grey values (unit_interval)",
    "nonnegative_integer": "counts (nonnegative_integer)",
    "real": "real values (real)",
}
_LIKELIHOODS = {
    "boolean": 'choose a likelihood for bits such as "bernoulli"',
    "open_unit_interval": 'choose a likelihood for such values as "beta" or "gaussian"',
    "unit_interval": 'choose a likelihood for grey values such as "gaussian"',
    "nonnegative_integer": 'choose a likelihood for counts such as "negative_binomial"',
    "real": 'choose a likelihood for real values such as "gaussian"',
}


def require_support(dataset: Dataset, likelihood_support: constraints.Constraint) -> None:
    """Refuse a data set whose values lie outside the likelihood's support.

    Args:
        dataset: from `load`.
        likelihood_support: `model.likelihood(z).support`, of one value or of a whole event.

    Raises:
        InputError: the data do not fit; the message suggests remedies.

    >>> import jaxvae.data
    >>> digits = jaxvae.data.load("digits", binarize="threshold")
    >>> require_support(digits, constraints.independent(constraints.boolean, 2))
    """
    needed = _one_value(likelihood_support)
    name = _name(needed)
    if not _fits(dataset, needed, name):
        raise InputError(
            f"dataset {dataset.name!r}: the likelihood needs {_words(needed, name)}, "
            f"and the data are {_words(dataset.support, dataset.support_name)}; "
            f"{_remedy(dataset, needed, name)}"
        )


def _one_value(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def _name(support: Any) -> str:
    """Return a name as in `Dataset.support_name`, "levels", or "" for any other support."""
    if num_levels(support) is not None:
        return "levels"
    if isinstance(support, type(constraints.interval(0.0, 1.0))) and (
        jnp.all(support.lower_bound == 0) and jnp.all(support.upper_bound == 1)
    ):
        is_open = isinstance(support, type(constraints.open_interval(0.0, 1.0)))
        return "open_unit_interval" if is_open else "unit_interval"
    name = support_name(support)
    return name if name in _FITS or name == "category" else ""


def num_levels(support: Any) -> int | None:
    """Return the number of evenly spaced levels from 0 to 1 in a support, if it declares one, else None."""
    return getattr(support, "num_levels", None)


def _words(support: Any, name: str) -> str:
    if name == "category":
        low, high = int(support.lower_bound), int(support.upper_bound)
        return f"class numbers from {low} to {high} (category)"
    if name == "levels":
        return f"{num_levels(support)} grey levels (levels)"
    return _WORDS.get(name, repr(support))


def _fits(dataset: Dataset, needed: Any, name: str) -> bool:
    own = dataset.support_name
    if own == "category":
        return name == "category" and _same_categories(needed, dataset)
    if name == "levels":
        of_data = 2 if own == "boolean" else _stored_levels(dataset)
        return of_data in (2, num_levels(needed))
    if name == "open_unit_interval" and own == "unit_interval":
        low, high = _extremes(dataset)
        return low > 0 and high < 1
    return own in _FITS[name] if name in _FITS else _values_fit(dataset, needed)


def _same_categories(support: Any, dataset: Dataset) -> bool:
    own: Any = categories(dataset.num_categories or 0)
    bounds = (support.lower_bound, support.upper_bound)
    return bool(jnp.all(jnp.asarray(bounds) == jnp.asarray((own.lower_bound, own.upper_bound))))


def _stored_levels(dataset: Dataset) -> int | None:
    """Return the number of possible grey levels of the stored values; None if they are not 8-bit grey levels."""
    stored = next(iter(dataset.splits.values()))["x"].dtype
    grey = dataset.support_name == "unit_interval" and stored == np.uint8
    return int(dataset.scale) + 1 if grey else None


def _values_fit(dataset: Dataset, support: constraints.Constraint) -> bool:
    """Return whether the data's smallest and largest values, or its first example, lie in `support`."""
    if support.is_discrete and dataset.support_name not in _FITS["nonnegative_integer"]:
        return False
    if support.event_dim > 0:
        values = next(iter(dataset.splits.values()))["x"][0] / dataset.scale
    else:
        values = np.array(_extremes(dataset)).reshape(2, *[1] * len(dataset.event_shape))
    return bool(jnp.all(support(values)))


def _extremes(dataset: Dataset) -> tuple[float, float]:
    """Return the smallest and the largest value that a model can see."""
    xs = [observed(arrays) for arrays in dataset.splits.values()]
    low, high = min(float(x.min()) for x in xs), max(float(x.max()) for x in xs)
    if not dataset.dequantize:
        return low / dataset.scale, high / dataset.scale
    edge = 0.5 / DEQUANTIZE_LEVELS
    return (low + edge) / (dataset.scale + 1), (high + 1 - edge) / (dataset.scale + 1)


def _remedy(dataset: Dataset, needed: Any, name: str) -> str:
    own = dataset.support_name
    if own == "category":
        return f'choose the likelihood "categorical" with num_categories={dataset.num_categories}'
    other = _LIKELIHOODS[own]
    if first := _first_remedy(dataset, needed, name):
        return f"{first}, or {other}"
    if name in ("nonnegative_integer", "category") and (found := _why_no_counts(dataset)):
        return f"{found}, or {other}"
    return other


def _first_remedy(dataset: Dataset, needed: Any, name: str) -> str:
    """Return advice on how to load or convert the data; "" if no such change helps."""
    if dataset.dequantize:
        undone = name in ("boolean", "category", "levels", "nonnegative_integer")
        return "load them with dequantize=False" if undone else ""
    own, levels = dataset.support_name, _stored_levels(dataset)
    if name == "boolean" and own == "unit_interval":
        return 'load them with binarize="dynamic", "static" or "threshold"'
    if name == "unit_interval" and dataset.binarize != "none":
        return 'load them with binarize="none"'
    if name == "open_unit_interval" and dataset.binarize != "none":
        return 'load them with binarize="none" and dequantize=True'
    if name == "open_unit_interval" and own == "unit_interval":
        if levels:
            return "they hold exact 0 or 1: load them with dequantize=True"
        return "they hold exact 0 or 1: move these inside before they are saved"
    if name == "category" and levels:
        return f"take the levels as {levels} classes with dataset.as_categories()"
    if name == "category" and own in ("boolean", "nonnegative_integer"):
        highest = int(_extremes(dataset)[1])
        return f"raise num_categories above their largest value, {highest}"
    if name == "levels" and levels:
        return f"set num_levels={levels}, as many as they have"
    if name == "levels" and own == "unit_interval":
        return "save the levels 0, 1, .. in a uint8 array"
    return ""


def _why_no_counts(dataset: Dataset) -> str:
    """Explain why stored floats are not counts; "" if they are not floats, or on disk."""
    xs = [observed(a) for a in dataset.splits.values() if not isinstance(a, OnDisk)]
    if not xs or xs[0].dtype.kind != "f":
        return ""
    fractional = next((x[x != np.round(x)][0] for x in xs if (x != np.round(x)).any()), None)
    if fractional is not None:
        return f"counts are whole numbers and {fractional:g} is not: give the raw counts"
    if (low := _extremes(dataset)[0]) < 0:
        return f"counts are not negative and {low:g} is: give the raw counts"
    return "they are whole numbers saved as floats: convert them with astype('int32')"
