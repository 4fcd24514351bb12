"""The one table of random streams: which key draws what.

A run has one key. Example i of step t draws from `fold_in(fold_in(key, t), i)`, where i is the global index of the
example, and its sample k from `fold_in(.., k)`: so no draw depends on the batch layout or the number of devices.
What else is drawn from a key has a named stream of its own. Steps, examples and samples count up from 0, streams
count down from the largest fold, 2^32 - 1, so that they do not meet.

Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3", the generator that JAX folds with.
"""

from enum import IntEnum, unique

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxvae.types import PRNGKey

LARGEST_FOLD = 2**32 - 1


@unique
class OfRun(IntEnum):
    """Streams of the key of a run, whose steps are folds."""

    ORDER = 0
    """The order of the training rows in each epoch."""
    OBSERVATION = 1
    """How a stored row is observed: the bits that grey levels are binarised to, dequantisation."""
    VALIDATION = 2
    """The draws of validation, among them its own OBSERVATION."""


@unique
class OfWeights(IntEnum):
    """Streams of the key of the initial weights, from which the networks draw."""

    PRIOR = 0
    """The initial weights of a learned prior."""
    LABELS = 1
    """Which training rows keep their labels."""
    START = 2
    """A start from data, such as k-means."""


@unique
class OfExample(IntEnum):
    """Streams of the key of an example in training, whose samples of q(z|x) are folds."""

    PRIOR = 0
    """A sample of p(z) beside that of q(z|x), for a comparison of the two."""
    PERMUTATIONS = 1
    """Of the first example that counts: how the latents of a whole batch are permuted."""
    ENCODER_LOSS = 16
    """The loss on the encoder; one that is added to it has the next number, up to LABELLED_ROW."""
    LABELLED_ROW = 48
    """Which labelled row goes with an unlabelled example, and the samples of its bound."""


@unique
class OfEvaluation(IntEnum):
    """Streams of a key that an evaluation is given, whose examples are folds."""

    MOMENTS = 0
    """The samples behind the moments of q(z|x). Of several batches, batch b has the stream MOMENTS + b."""


@unique
class OfComparison(IntEnum):
    """Streams of the key that compares two sets of samples."""

    PERMUTATIONS = 0
    """Which set each sample is put into, in a test by permutation."""


@unique
class OfImputation(IntEnum):
    """Streams of the key of an example whose missing values are drawn, whose samples of q(z|x) are folds."""

    LATENT = 0
    """Which of the weighted latents a draw takes."""
    VALUES = 1
    """The values that p(x|z) draws at that latent."""


Stream = OfRun | OfWeights | OfExample | OfEvaluation | OfComparison | OfImputation


def stream_key(key: PRNGKey, stream: Stream, number: int = 0) -> PRNGKey:
    """Return the key of a named stream, or of one of several that begin with it.

    `fold_in(key, 2^32 - 1 - stream - number)`.
    """
    return jax.random.fold_in(key, jnp.uint32(LARGEST_FOLD - stream - number))


def example_keys(
    key: PRNGKey, step: Int[Array, ""] | int, index: Int[Array, "B"]
) -> Key[Array, "B"]:
    """Return one key for each example, `fold_in(fold_in(key, step), index[i])`."""
    return fold_each(jax.random.fold_in(key, step), index)


def fold_each(key: PRNGKey, index: Int[Array, "B"]) -> Key[Array, "B"]:
    """Return one key for each index, `fold_in(key, index[i])`."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
