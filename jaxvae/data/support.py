"""Does a data set fit a likelihood? The question is asked before anything compiles."""

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxvae.data.dataset import Dataset, support_name
from jaxvae.types import InputError

_FITS = {
    "boolean": ("boolean",),
    "unit_interval": ("unit_interval",),
    "nonnegative_integer": ("nonnegative_integer", "boolean"),
    "real": ("boolean", "unit_interval", "nonnegative_integer", "real"),
}
_WORDS = {
    "boolean": "bits (boolean)",
    "unit_interval": "grey values (unit_interval)",
    "nonnegative_integer": "counts (nonnegative_integer)",
    "real": "real values (real)",
}
_LIKELIHOODS = {
    "boolean": 'choose a likelihood for bits such as "bernoulli"',
    "unit_interval": 'choose a likelihood for grey values such as "gaussian"',
    "nonnegative_integer": 'choose a likelihood for counts such as "negative_binomial"',
    "real": 'choose a likelihood for real values such as "gaussian"',
}


def require_support(dataset: Dataset, likelihood_support: constraints.Constraint) -> None:
    """Refuse a data set whose values lie outside the likelihood's support.

    Args:
        dataset: what `load` gave.
        likelihood_support: `model.likelihood(z).support`, of one value or of a whole event.

    Raises:
        InputError: the data do not fit; the message lists the remedies.

    >>> import jaxvae.data
    >>> digits = jaxvae.data.load("digits", binarize="threshold")
    >>> require_support(digits, constraints.independent(constraints.boolean, 2))
    """
    needed = _one_value(likelihood_support)
    name = _name(needed)
    fits = dataset.support_name in _FITS[name] if name else _values_fit(dataset, needed)
    if not fits:
        raise InputError(
            f"dataset {dataset.name!r}: the likelihood needs {_WORDS.get(name, repr(needed))}, "
            f"and the data are {_WORDS[dataset.support_name]}; {_remedy(dataset, name)}"
        )


def _one_value(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def _name(support: constraints.Constraint) -> str:
    """One of the four names, or "" for any other support."""
    if isinstance(support, type(constraints.interval(0.0, 1.0))) and (
        jnp.all(support.lower_bound == 0) and jnp.all(support.upper_bound == 1)
    ):
        return "unit_interval"
    name = support_name(support)
    return name if name in _FITS else ""


def _values_fit(dataset: Dataset, support: constraints.Constraint) -> bool:
    """Whether the data's smallest and largest values, or its first example, obey `support`."""
    if support.is_discrete and dataset.support_name not in _FITS["nonnegative_integer"]:
        return False
    if support.event_dim > 0:
        values = next(iter(dataset.splits.values()))["x"][0] / dataset.scale
    else:
        values = np.array([_extreme(dataset, np.min), _extreme(dataset, np.max)])
        values = values.reshape(2, *[1] * len(dataset.event_shape))
    return bool(jnp.all(support(values)))


def _extreme(dataset: Dataset, reduce) -> float:
    return float(reduce([reduce(a["x"]) for a in dataset.splits.values()])) / dataset.scale


def _remedy(dataset: Dataset, needed: str) -> str:
    other = _LIKELIHOODS[dataset.support_name]
    if needed == "boolean" and dataset.support_name == "unit_interval":
        return f'load them with binarize="dynamic", "static" or "threshold", or {other}'
    if needed == "unit_interval" and dataset.binarize != "none":
        return f'load them with binarize="none", or {other}'
    return other
