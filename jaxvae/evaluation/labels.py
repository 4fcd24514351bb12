"""The accuracy of the classifier q(y|x)."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int

from jaxvae.binding import require_labels
from jaxvae.evaluation.streams import is_there, stream
from jaxvae.types import (
    Batch,
    InputError,
)


class Classification(NamedTuple):
    """The accuracy and the confusion matrix of the most probable class."""

    accuracy: float
    standard_error: float
    """The standard error of the accuracy a, sqrt(a (1 - a) / N)."""
    confusion: Int[np.ndarray, "C C"]
    """The number of examples of class i [row] that were classified as class j [column]."""


def classification(
    model: Any, xs: Batch, labels: Int[np.ndarray, "N"], *, batch_size: int = 500
) -> Classification:
    """Return the accuracy of `argmax_y q(y|x)`, for a model with `label_posterior`.

    Args:
        model: a model, such as `models.ssvae`, whose `label_posterior(x)` of one example has `logits` [C].
        xs: examples as inputs of the model, [N, *event], or a batch, whose rows of weight 0 are left out.
        labels: the classes of the examples, integers from 0 to C - 1.
        batch_size: examples at a time.

    Returns:
        The accuracy, 0 to 1, with its standard error, and the confusion matrix [C, C].

    Raises:
        InputError: the model has no `label_posterior`, or the labels do not fit.
    """
    if not hasattr(model, "label_posterior"):
        raise InputError(
            "model: expected one with label_posterior, such as models.ssvae, got "
            f"{type(model).__name__}"
        )
    logits = stream(_label_logits, model, None, xs, batch_size=batch_size)
    classes = logits.shape[-1]
    labels = require_labels(labels, classes)
    if len(labels) != len(logits):
        raise InputError(f"labels: expected {len(logits)}, one an example, got {len(labels)}")
    there = is_there(xs)
    labels, logits = labels[there], logits[there]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    accuracy = float(np.trace(confusion) / len(labels))
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(labels)))
    return Classification(accuracy, error, confusion)


def _label_logits(model: Any, _: None, x: Array) -> Array:
    return model.label_posterior(x).logits
