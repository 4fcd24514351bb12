"""The method by which a run fits its model: the objective, its schedules, the optimiser, and the step."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxvae import inference, objectives
from jaxvae.batching import map_examples
from jaxvae.data import Dataset
from jaxvae.runs.models import can_differentiate_latents, has_closed_kl, traced
from jaxvae.semi_supervised import Classifying, choose_labelled, redrawn, semi_supervised
from jaxvae.training import linear_warmup, make_em_step, make_step
from jaxvae.training.step import Step
from jaxvae.types import AnyModel, InputError, Objective, PRNGKey, Terms

LABEL_WEIGHT = 100.0


class Labelled(NamedTuple):
    """The labelled rows of a semi-supervised model."""

    x: Array
    """The rows as model inputs, drawn once."""
    y: Array
    stored: Array
    draw_key: PRNGKey
    """The key that draws their bits at every step, with dynamic binarisation."""


class Method(NamedTuple):
    """The objective of validation, the optimiser, the step, and the labelled rows if there are any."""

    objective: Objective
    optimizer: optax.GradientTransformation
    step: Step
    labelled: Labelled | None = None


def with_estimator(config: Any, model: AnyModel, dataset: Dataset) -> Any:
    """Fill in the options of rate, gradient and labels, as the model allows.

    Raises:
        InputError: an option has no effect with this model.
    """
    if isinstance(model, Classifying):
        values = _label_options(config, dataset)
    else:
        config.refuse_without_effect("no part of this model is a classifier", *LABEL_OPTIONS)
        values = {}
    if config.fit == "em":
        return dataclasses.replace(config, **values)
    values["gradient"] = config.gradient
    if config.gradient is None:
        discrete = "vimco" if config.objective == "iwae" else "enumerate"
        values["gradient"] = "pathwise" if can_differentiate_latents(model, dataset) else discrete
    if config.kl is None and config.objective == "elbo":
        values["kl"] = "analytic" if has_closed_kl(model, dataset) else "monte_carlo"
    return dataclasses.replace(config, **values)


LABEL_OPTIONS = ("num_labels", "label_weight")


def _label_options(config: Any, dataset: Dataset) -> dict[str, Any]:
    if config.objective != "elbo" or config.fit == "em":
        raise InputError(
            "objective: learning from labels ascends the ELBO by gradients, got "
            f"objective={config.objective}, fit={config.fit}; leave them out"
        )
    assert dataset.num_classes is not None  # the factory requires it
    ten_a_class = 10 * dataset.num_classes
    return {
        "num_labels": ten_a_class if config.num_labels is None else config.num_labels,
        "label_weight": LABEL_WEIGHT if config.label_weight is None else config.label_weight,
    }


def make_method(config: Any, model: AnyModel, dataset: Dataset, label_key: PRNGKey) -> Method:
    """Return the method of a resolved configuration, after tracing it once with the shapes of the data.

    Args:
        config: from `with_estimator`.
        model: the model to fit.
        dataset: the data set, from which labelled rows are chosen.
        label_key: the key that chooses the labelled rows, and draws their bits.

    Raises:
        InputError: model, objective and data do not fit together.
    """
    if config.fit == "em":
        return Method(_free_energy, optax.identity(), make_em_step(model))
    classifying = isinstance(model, Classifying)
    labelled = choose_rows(config, dataset, label_key) if classifying else None
    method = by_gradients(config, dataset, labelled)
    # Trace the objective now, so that it refuses wrong options before anything is written.
    key = jax.random.key(0)  # only shapes are computed: nothing is drawn
    traced(lambda m, x: method.objective(key, m, x), model, dataset)
    return method


def by_gradients(config: Any, dataset: Dataset, labelled: Labelled | None) -> Method:
    """Return the method of gradient training. `learning_rate`, `beta` and labelled rows may be traced."""
    objective, schedules = _objective(config)
    if labelled is not None:
        objective, more = _with_labels(objective, config, dataset, labelled)
        schedules = schedules | more
    optimizer = optax.adam(config.learning_rates())
    step = make_step(objective, optimizer, schedules=schedules)
    return Method(objective, optimizer, step, labelled)


def _free_energy(key: PRNGKey, model: Any, x: Array) -> Terms:
    """Compute EM's objective after an exact E-step, which is log p(x)."""
    del key
    return inference.free_energy(model, model.exact_posterior(x), x)


def _objective(config: Any) -> tuple[Any, dict[str, optax.Schedule]]:
    options = {"num_samples": config.num_samples, "gradient": config.gradient}
    if config.objective == "iwae":
        return partial(objectives.iwae, **options), {}
    elbo = partial(objectives.elbo, **options, kl=config.kl, free_bits=config.free_bits)
    if config.kl_warmup_steps == 0:
        return partial(elbo, beta=config.beta), {}
    warmup = linear_warmup(config.kl_warmup_steps, config.total_steps, end=config.beta)
    # Validation has the full weight at every step, as training has at its end.
    return partial(elbo, beta=config.beta), {"beta": warmup}


def choose_rows(config: Any, dataset: Dataset, key: PRNGKey) -> Labelled:
    """Choose the rows that keep their labels.

    Raises:
        InputError: a class has too few rows.
    """
    train = dataset.splits["train"]
    choice_key, draw_key, once_key = jax.random.split(key, 3)
    rows = choose_labelled(
        choice_key, jnp.asarray(train["label"]), config.num_labels, dataset.num_classes or 0
    )
    stored, labels = jnp.asarray(np.asarray(train["x"])[rows]), np.asarray(train["label"])[rows]
    xs = map_examples(dataset.observe, once_key, stored, batch_size=len(rows))
    return Labelled(xs, jnp.asarray(labels), stored, draw_key)


def _with_labels(
    elbo: Any, config: Any, dataset: Dataset, labelled: Labelled
) -> tuple[Objective, dict[str, Any]]:
    """Return the semi-supervised objective with the options of the ELBO and the labelled rows."""
    objective = partial(
        semi_supervised,
        labelled_x=labelled.x,
        labelled_y=labelled.y,
        label_weight=config.label_weight,
        **elbo.keywords,
    )
    if dataset.binarize != "dynamic":
        return objective, {}
    return objective, {"labelled_x": redrawn(labelled.draw_key, dataset.observe, labelled.stored)}
