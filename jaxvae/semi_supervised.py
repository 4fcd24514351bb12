"""Semi-supervised learning: the bound of M2 for unlabelled examples, and the terms of labelled rows.

The labelled rows are an argument of the objective, not a part of the batch, so that the objective is
still a function of one unlabelled example; the labelled terms do not depend on that example.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from jaxvae import objectives
from jaxvae.binding import require_labels
from jaxvae.checks import is_known, require_key, require_positive, require_weight
from jaxvae.distributions import log_prob
from jaxvae.keys import OfExample, fold_each, stream_key
from jaxvae.types import AnyArray, InputError, Label, Model, PRNGKey, Scalar, Terms

Observe: TypeAlias = Callable[[PRNGKey, Array], Array]
"""`(key, one stored example) -> one model input`, such as `jaxvae.data.Dataset.observe`."""


@runtime_checkable
class Classifying(Model, Protocol):
    """A model of x with a class y among its latents."""

    def label_prior(self) -> Distribution:
        """p(y), over class numbers."""
        ...

    def label_posterior(self, x: Float[Array, "*event"], /) -> Distribution:
        """q(y|x), over class numbers, with `logits` [C]."""
        ...

    def given(self, y: Label, /) -> Model:
        """Return the plain model of x with y bound."""
        ...


def semi_supervised(
    key: PRNGKey,
    model: Classifying,
    x: Float[AnyArray, "*event"],
    *,
    labelled_x: Float[AnyArray, "M *event"],
    labelled_y: Int[AnyArray, "M"],
    label_weight: Scalar = 100.0,
    labelled_bound: Scalar = 0.0,
    labelled_batch: int = 500,
    **options: Any,
) -> Terms:
    """The bound of one unlabelled example plus the weighted log-probability of labelled rows.

    `bound = sum_y q(y|x) (bound of given(y) + log p(y)) + H(q(y|x))`, as `elbo(gradient="enumerate")`, and

    `objective = bound + label_weight * mean_j log q(y_j|x_j)
    + labelled_bound * mean_j (bound of given(y_j) at x_j + log p(y_j))`.

    The first mean is over all M labelled rows if there are at most `labelled_batch`: it depends on the
    model alone, so that under `vmap` over examples it is computed once. If there are more, each example
    uses one row j drawn uniformly, which has the same expectation. The second mean is always estimated
    from one such row, since every bound needs its own samples.

    Args:
        key: one typed key.
        model: a model with `label_prior`, `label_posterior` and `given`, such as `models.ssvae`.
        x: one example without a label.
        labelled_x: the labelled examples as inputs of the model. For bits that are drawn again at every
            step use a schedule, see `redrawn`.
        labelled_y: the classes of `labelled_x`, integers from 0 to C - 1.
        label_weight: weight of the labels relative to one unlabelled example.
        labelled_bound: weight of the bound of labelled rows; with 0 they train the classifier only, M / N
            gives the source's sum over all data, N being the number of unlabelled examples.
        labelled_batch: the largest number of labelled rows that are all used at once.
        **options: options of `jaxvae.elbo`, such as `num_samples`; `gradient` is "enumerate" by default.

    Returns:
        `Terms` of scalars, nats; all except `objective` are those of the unlabelled example.

    Raises:
        InputError: the labelled rows do not fit the model, or an option is invalid.

    >>> import jaxvae as jv
    >>> model = jv.models.ssvae(jax.random.key(0), (4,), num_classes=2, latent_dim=1, hidden=(3,))
    >>> rows = {"labelled_x": jnp.eye(4)[:2], "labelled_y": jnp.array([0, 1])}
    >>> terms = semi_supervised(jax.random.key(1), model, jnp.ones(4), **rows)
    >>> bool(terms.objective < terms.bound)
    True

    Source: Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep
    generative models": with `label_weight = alpha / N` and `labelled_bound = M / N` the mean over the
    unlabelled examples is the source's objective divided by N. Stanford's CS236 (2018), problem set
    2, leaves the labelled bound out.
    """
    require_key(key)
    require_weight(label_weight=label_weight, labelled_bound=labelled_bound)
    require_positive(labelled_batch=labelled_batch)
    x = jnp.asarray(x)
    labelled_x, labelled_y = _labelled_rows(model, x, labelled_x, labelled_y)
    options = {"gradient": "enumerate"} | options
    terms = objectives.elbo(key, model, x, **options)
    row_key, bound_key = jax.random.split(stream_key(key, OfExample.LABELLED_ROW))
    row = jax.random.randint(row_key, (), 0, len(labelled_y))

    added = jnp.zeros(())
    if not _is_zero(label_weight):
        if len(labelled_y) <= labelled_batch:
            mean = jnp.mean(label_log_probs(model, labelled_x, labelled_y))
        else:
            mean = _label_log_prob(model, labelled_x[row], labelled_y[row])
        added += label_weight * mean
    if not _is_zero(labelled_bound):
        y, own = labelled_y[row], {n: v for n, v in options.items() if n != "gradient"}
        of_row = objectives.elbo(bound_key, model.given(y), labelled_x[row], **own)
        added += labelled_bound * (of_row.objective + log_prob(model.label_prior(), y))
    return terms._replace(objective=terms.objective + added)


def label_log_probs(
    model: Classifying, xs: Float[AnyArray, "M *event"], ys: Int[Array, "M"]
) -> Float[Array, "M"]:
    """The log-likelihood of the classifier, `log q(y_j|x_j)`, for labelled rows [M], nats."""
    return jax.vmap(partial(_label_log_prob, model))(jnp.asarray(xs), ys)


def _label_log_prob(model: Classifying, x: Array, y: Array) -> Array:
    return log_prob(model.label_posterior(x), y)


def redrawn(
    key: PRNGKey, observe: Observe, stored: AnyArray
) -> Callable[[Int[Array, ""]], Float[Array, "M *event"]]:
    """Return a schedule of `labelled_x`: the stored rows, observed again at every step.

    `labelled_x[j] = observe(fold_in(fold_in(key, step), j), stored[j])`.

    Args:
        key: one typed key, different from the key of the run.
        observe: `(key, one stored example) -> one model input`, such as `Dataset.observe`.
        stored: the labelled rows as stored [M, *event].

    Returns:
        The schedule, for `make_step(..., schedules={"labelled_x": redrawn(...)})`.
    """
    require_key(key)
    stored = jnp.asarray(stored)

    def at(step: Int[Array, ""]) -> Array:
        keys = fold_each(jax.random.fold_in(key, step), jnp.arange(stored.shape[0]))
        return jax.vmap(observe)(keys, stored)

    return at


def choose_labelled(
    key: PRNGKey, labels: Int[Array | np.ndarray, "N"], num_labels: int, num_classes: int
) -> Int[np.ndarray, "M"]:
    """Draw the rows that keep their labels, equally many of every class, without replacement.

    Args:
        key: one typed key.
        labels: the classes of all rows, integers from 0 to C - 1.
        num_labels: M, a multiple of the number of classes.
        num_classes: C.

    Returns:
        M indices of rows, class by class.

    Raises:
        InputError: the labels are not classes, M is not a multiple of C, or a class has too few rows.

    >>> labels = np.array([0, 1, 1, 0, 1, 0])
    >>> labels[choose_labelled(jax.random.key(0), labels, 4, 2)].tolist()
    [0, 0, 1, 1]
    """
    require_key(key)
    require_positive(num_labels=num_labels, num_classes=num_classes)
    classes = require_labels(labels, num_classes)
    if num_labels % num_classes:
        raise InputError(
            f"num_labels: expected a multiple of the {num_classes} classes, as many labels of each, "
            f"got {num_labels}"
        )
    each = num_labels // num_classes
    order = np.asarray(jax.random.permutation(key, len(classes)))
    chosen = []
    for c in range(num_classes):
        rows = order[classes[order] == c]
        if len(rows) < each:
            raise InputError(
                f"num_labels: expected at most {len(rows) * num_classes}, since class {c} has "
                f"{len(rows)} rows, got {num_labels}, {each} of every class"
            )
        chosen.append(rows[:each])
    return np.concatenate(chosen)


def _labelled_rows(
    model: Classifying, x: Array, labelled_x: AnyArray, labelled_y: AnyArray
) -> tuple[Array, Array]:
    if not isinstance(model, Classifying):
        raise InputError(
            "model: expected one with label_prior, label_posterior and given, such as models.ssvae, "
            f"got {type(model).__name__}"
        )
    if jnp.shape(labelled_x)[1:] != x.shape or jnp.shape(labelled_x)[:1] != jnp.shape(labelled_y):
        raise InputError(
            f"labelled_x: expected [M, *event] with event shape {x.shape}, and labelled_y [M], got "
            f"shapes {jnp.shape(labelled_x)} and {jnp.shape(labelled_y)}"
        )
    if not isinstance(labelled_y, Tracer):
        num_classes = jax.eval_shape(lambda x: model.label_posterior(x).logits, x).shape[-1]  # type: ignore[attr-defined]
        labelled_y = jnp.asarray(require_labels(labelled_y, num_classes, "labelled_y"))
    return jnp.asarray(labelled_x), labelled_y


def _is_zero(weight: Scalar) -> bool:
    return is_known(weight) and float(weight) == 0
