"""The models of the command line: factories of `jaxvae.models`, whose signatures define their options."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxvae import models
from jaxvae.binding import bind, require_labels
from jaxvae.checks import require_choice
from jaxvae.compiling import jit_quickly
from jaxvae.data import Dataset
from jaxvae.distributions import analytic_kl, sample
from jaxvae.models.likelihoods import make_likelihood
from jaxvae.training import observe_split
from jaxvae.types import Conditional, InputError, Model, PRNGKey

ModelName: TypeAlias = Literal[
    "vae",
    "beta_vae",
    "conv_vae",
    "conditional_vae",
    "gmvae",
    "vampprior",
    "flow_prior_vae",
    "ssvae",
    "ppca",
    "factor_analysis",
    "ica",
    "gaussian_mixture",
    "hierarchical",
    "ladder",
    "autoregressive",
    "sequence_vae",
    "count_vae",
]

ROWS_TO_START_FROM = 10_000

Factory: TypeAlias = Callable[..., Any]

OF_THE_DATA: Mapping[str, str] = {
    "num_classes": "labels",
    "num_symbols": "categories",
}
"""Arguments of factories that are taken from the data, with the name of the data's property."""


def factory_of(name: str) -> Factory:
    """Return the factory of this name.

    Raises:
        InputError: there is none.
    """
    require_choice("model", name, get_args(ModelName))
    return getattr(models, name)


def options_of(factory: Factory) -> dict[str, Any]:
    """Return the options of a factory with their defaults; those without one are filled in from the data."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def with_defaults(config: Any, names: tuple[str, ...]) -> Any:
    """Return the configuration with every option of its model filled in.

    Args:
        config: a frozen dataclass with `model` and the options.
        names: the fields that are options of models; a value of None means not given.

    Raises:
        InputError: an option was given that the model does not have.
    """
    options, values = options_of(factory_of(config.model)), {}
    for name in names:
        given = getattr(config, name)
        if name in options:
            values[name] = options[name] if given is None else given
        elif given is not None:
            raise InputError(
                f"{name}: has no effect with model={config.model}, which takes "
                f"{', '.join(n for n in options if n in names) or 'no options'}; got {given}, "
                "leave it out"
            )
    return dataclasses.replace(config, **values)


def make_model(key: PRNGKey, config: Any, names: tuple[str, ...], dataset: Dataset) -> Any:
    """Build the model of a configuration for a data set.

    Raises:
        InputError: an option is not usable, or the data lack a property that the model needs.
    """
    factory = factory_of(config.model)
    options = options_of(factory)
    given = {name: getattr(config, name) for name in names if name in options}
    given |= {
        name: _of_the_data(name, config.model, dataset) for name in OF_THE_DATA if name in options
    }
    if given.get("num_batches") is not None:  # compiled code would not see a batch out of range
        for split in dataset.splits.values():
            labels = split.get("label", np.empty(0))
            on_disk = not isinstance(labels, np.ndarray)
            require_labels([labels.max()] if on_disk else labels, given["num_batches"])
    symbols = None
    if given.get("likelihood") == "categorical":
        symbols = _of_the_data("num_symbols", config.model, dataset)
    fixed = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    options = tuple(sorted(fixed.items()))
    try:
        return _drawn(factory, tuple(dataset.event_shape), options, symbols, key)
    except jax.errors.ConcretizationTypeError:  # the factory depends on drawn values
        return _of_options(factory, tuple(dataset.event_shape), options, symbols, key)


def _of_options(
    factory: Factory,
    event_shape: tuple[int, ...],
    options: tuple[tuple[str, Any], ...],
    num_symbols: int | None,
    key: PRNGKey,
) -> Any:
    given = dict(options)
    if num_symbols is not None:
        given["likelihood"] = make_likelihood("categorical", num_categories=num_symbols)
    return factory(key, event_shape, **given)


_drawn = jit_quickly(_of_options, static_argnums=(0, 1, 2, 3))
"""`_of_options`, compiled: one program draws all weights."""


def started_from_data(key: PRNGKey, model: Any, dataset: Dataset) -> Any:
    """Initialise the model from the training rows, if it has a method for that; else return it as it is.

    If the rows stay on disk, 10,000 evenly spaced ones are read for it.
    """
    if not hasattr(model, "initialized"):
        return model
    start_key, rows_key = jax.random.split(key)
    rows = observe_split(rows_key, dataset.sampled(ROWS_TO_START_FROM), "train")
    return model.initialized(start_key, rows)


def _of_the_data(name: str, model: str, dataset: Dataset) -> int:
    value = dataset.num_classes if name == "num_classes" else dataset.num_categories
    if value is None:
        raise InputError(
            f"data: the model {model} needs {OF_THE_DATA[name]}, and {dataset.name} has none"
        )
    return value


def a_row(model: Any, dataset: Dataset) -> tuple[Any, Any]:
    """Return the shapes of one example: x, and its label if the model is conditional, else None."""
    x = jax.ShapeDtypeStruct(dataset.event_shape, jnp.float32)
    conditional = isinstance(model, Conditional) and not isinstance(model, Model)
    return x, jax.ShapeDtypeStruct((), jnp.int32) if conditional else None


def traced(function: Callable[[Model, Any], Any], model: Any, dataset: Dataset) -> Any:
    """Trace `function(model, x)` for one example, without running it."""
    x, label = a_row(model, dataset)
    return jax.eval_shape(lambda m, x, label: function(bind(m, label), x), model, x, label)


def can_differentiate_latents(model: Any, dataset: Dataset) -> bool:
    """Return whether q(z|x) is reparameterised."""
    found = []
    traced(lambda m, x: found.append(m.posterior(x).has_rsample), model, dataset)
    return found[0]


def has_closed_kl(model: Any, dataset: Dataset) -> bool:
    """Return whether KL(q(z|x) || p(z)) is known in closed form."""
    try:
        traced(lambda m, x: analytic_kl(m.posterior(x), m.prior()), model, dataset)
    except InputError:
        return False
    return True


def has_closed_mean(model: Any, dataset: Dataset) -> bool:
    """Return whether mean and variance of q(z|x) are known in closed form."""
    try:
        traced(lambda m, x: (m.posterior(x).mean, m.posterior(x).variance), model, dataset)
    except NotImplementedError:
        return False
    return True


def support_of(model: Any, dataset: Dataset) -> Any:
    """Return the support of one value of x under p(x|z)."""
    found = []

    def likelihood(m: Model, x: Any) -> None:
        del x
        found.append(m.likelihood(sample(m.prior(), jax.random.key(0))).support)

    traced(likelihood, model, dataset)
    support = found[0]
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support
