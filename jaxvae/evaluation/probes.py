"""Probes: simple classifiers that predict labels from a representation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxvae.batching import unpack
from jaxvae.checks import require_positive
from jaxvae.evaluation.latents import posterior_moments
from jaxvae.evaluation.streams import is_there
from jaxvae.keys import OfEvaluation, stream_key
from jaxvae.types import Batch, InputError, Model, PRNGKey


class Probe(NamedTuple):
    """The accuracy of a classifier of codes."""

    accuracy: float
    standard_error: float
    """The standard error of the accuracy a, sqrt(a (1 - a) / N), N the number of test examples."""


class Probes(NamedTuple):
    """The results of classifiers of codes, and of x itself for comparison."""

    linear: Probe
    knn: Probe
    linear_of_x: Probe
    knn_of_x: Probe

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {probe.accuracy:.3f} +- {probe.standard_error:.3f}"
            for name, probe in self._asdict().items()
        )


def probes(
    model: Model,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    *,
    num_neighbours: int = 5,
    num_samples: int | None = None,
    key: PRNGKey | None = None,
    batch_size: int = 500,
) -> Probes:
    """Train linear and nearest-neighbour classifiers of posterior means, and of x for comparison.

    Args:
        model: any object with `posterior`.
        train: the training batch, with `x` and `label`; rows of weight 0 are left out.
        test: the test batch, likewise.
        num_neighbours: see `knn_probe`.
        num_samples: for posteriors without a closed-form mean, see `posterior_moments`.
        key: one typed key for the samples of `num_samples`; the two splits use separate streams.
        batch_size: examples at a time.

    Returns:
        Accuracies from 0 to 1 with their standard errors; `str` lists them.

    Raises:
        InputError: there are no labels, or they are all of one class.

    Source: Alain and Bengio (2017), "Understanding intermediate layers using linear classifier
    probes".
    """
    x, label = zip(_examples("train", train), _examples("test", test), strict=True)
    means = []
    for i, batch in enumerate((train, test)):
        moments = posterior_moments(
            model,
            batch,
            num_samples=num_samples,
            key=None if key is None else stream_key(key, OfEvaluation.MOMENTS, i),
            batch_size=batch_size,
        )
        means.append(moments.mean[is_there(batch)])
    found = []
    for train_codes, test_codes in (means, x):
        rows = [np.reshape(codes, (len(codes), -1)) for codes in (train_codes, test_codes)]
        sides = rows[0], label[0], rows[1], label[1]
        found += [linear_probe(*sides), knn_probe(*sides, num_neighbours=num_neighbours)]
    return Probes(*found)


def linear_probe(
    train_codes: Real[ArrayLike, "N D"],
    train_labels: Int[ArrayLike, "N"],
    test_codes: Real[ArrayLike, "M D"],
    test_labels: Int[ArrayLike, "M"],
) -> Probe:
    """Train multinomial logistic regression on standardised codes.

    scikit-learn's, with its penalty of half the squared norm of the weights added to the summed loss;
    each latent has mean 0 and variance 1 over the training examples.

    Args:
        train_codes: codes of the training examples.
        train_labels: their classes, integers, two classes or more.
        test_codes: codes of the test examples.
        test_labels: their classes.

    Returns:
        Accuracy on the test examples, 0 to 1, with its standard error.

    Raises:
        InputError: codes or labels are invalid.

    >>> codes, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    >>> linear_probe(codes, labels, codes, labels).accuracy
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return _judge(classifier, train_codes, train_labels, test_codes, test_labels)


def knn_probe(
    train_codes: Real[ArrayLike, "N D"],
    train_labels: Int[ArrayLike, "N"],
    test_codes: Real[ArrayLike, "M D"],
    test_labels: Int[ArrayLike, "M"],
    *,
    num_neighbours: int = 5,
) -> Probe:
    """Classify by a majority vote of the nearest training codes, by Euclidean distance.

    The codes are not standardised: with equal variances, dead latents would count as much as active
    ones.

    Args:
        train_codes: codes of the training examples, among which neighbours are found.
        train_labels: their classes, integers, two classes or more.
        test_codes: codes of the test examples.
        test_labels: their classes.
        num_neighbours: number of neighbours that vote, at most N; ties go to the lowest class.

    Returns:
        Accuracy on the test examples, 0 to 1, with its standard error.

    Raises:
        InputError: codes or labels are invalid, or there are fewer training codes than `num_neighbours`.

    >>> codes, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    >>> knn_probe(codes, labels, codes, labels, num_neighbours=1).accuracy
    1.0
    """
    from sklearn.neighbors import KNeighborsClassifier

    require_positive(num_neighbours=num_neighbours)
    if num_neighbours > (count := len(np.asarray(train_codes))):
        raise InputError(
            f"num_neighbours: expected at most {count}, the training examples, got {num_neighbours}"
        )
    classifier = KNeighborsClassifier(num_neighbours)
    return _judge(classifier, train_codes, train_labels, test_codes, test_labels)


def require_codes(name: str, codes: Any) -> Float[np.ndarray, "N D"]:
    """Return codes in float64.

    Raises:
        InputError: the codes are not finite real numbers [N, D].
    """
    array = np.asarray(codes)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf":
        raise InputError(
            f"{name}: expected real numbers [N, D], one row an example, got {array.dtype} of shape "
            f"{array.shape}; flatten what an example has to one row"
        )
    if not np.isfinite(array).all():
        raise InputError(
            f"{name}: expected finite numbers, got {(~np.isfinite(array)).sum():,} that are not"
        )
    return array.astype(np.float64)


def require_label_of_each(name: str, labels: Any, count: int) -> Int[np.ndarray, "N"]:
    """Return labels as an array.

    Raises:
        InputError: the labels are not integers, one for each of `count` examples.
    """
    array = np.asarray(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(
            f"{name}: expected integers of shape ({count},), one an example, got {array.dtype} of "
            f"shape {array.shape}"
        )
    return array


def _examples(name: str, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    examples = unpack(batch)
    if examples.label is None:
        raise InputError(
            f'{name}: expected a batch with "x" and "label", got examples without labels; a probe '
            "needs labels to read off"
        )
    there = is_there(batch)
    return np.asarray(examples.x)[there], np.asarray(examples.label)[there]


def _judge(classifier: Any, train_codes, train_labels, test_codes, test_labels) -> Probe:
    train_codes = require_codes("train_codes", train_codes)
    test_codes = require_codes("test_codes", test_codes)
    if train_codes.shape[1] != test_codes.shape[1]:
        raise InputError(
            f"test_codes: expected {train_codes.shape[1]} latents, as in train_codes, got "
            f"{test_codes.shape[1]}"
        )
    train_labels = require_label_of_each("train_labels", train_labels, len(train_codes))
    test_labels = require_label_of_each("test_labels", test_labels, len(test_codes))
    if len(np.unique(train_labels)) < 2:
        raise InputError(
            f"train_labels: expected two classes or more, got {train_labels[0]} for every example"
        )
    classifier.fit(train_codes, train_labels)
    right = classifier.predict(test_codes) == test_labels
    accuracy = float(np.mean(right))
    return Probe(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(right))))
