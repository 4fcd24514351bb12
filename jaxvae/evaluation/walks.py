"""Interpolation between examples and analogies in the latent space, displayed by p(x|z)."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxvae.checks import require_choice, require_integer
from jaxvae.evaluation.decoding import likelihood_means
from jaxvae.evaluation.latents import posterior_moments
from jaxvae.keys import OfEvaluation, stream_key
from jaxvae.types import Batch, InputError, Model, PRNGKey

Walk: TypeAlias = Literal["linear", "spherical"]
"""The type of interpolation: a straight line, or an arc with equal angles."""


def interpolate(
    model: Model,
    x_a: Float[Array | np.ndarray, "N *event"],
    x_b: Float[Array | np.ndarray, "N *event"],
    *,
    num: int = 8,
    kind: Walk = "linear",
    num_samples: int | None = None,
    key: PRNGKey | None = None,
) -> Float[np.ndarray, "N num *event"]:
    """Interpolate between examples: means of p(x|z) at latents from `E[z|x_a]` to `E[z|x_b]`.

    Args:
        model: any object with `prior`, `posterior` and `likelihood`, its latents not discrete.
        x_a: the first example of each walk, as inputs of the model, or a batch.
        x_b: the last example of each walk, equally many.
        num: number of points of a walk, 2 or more, including both ends.
        kind: "linear" or "spherical", see `path`.
        num_samples: for posteriors without a closed-form mean, see `posterior_moments`.
        key: one typed key for the samples of `num_samples`, and for those of a p(x|z) without a mean,
            see `likelihood_means`.

    Returns:
        `E[x|z]`, [N, num, *event], float32; if p(x|z) has no mean, the most probable classes or
        a sample, see `jaxvae.evaluation.decoding`.

    Raises:
        InputError: the numbers of examples differ, the latents are discrete, or an option is invalid.

    >>> import jax, jax.numpy as jnp, jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (5, 4), latent_dim=2, hidden=(8,))
    >>> interpolate(model, jnp.zeros((3, 5, 4)), jnp.ones((3, 5, 4)), num=6).shape
    (3, 6, 5, 4)

    Source: White (2016), "Sampling generative networks", for spherical walks.
    """
    a, b = _means_of_each(model, (x_a, x_b), num_samples, key)
    if a.shape != b.shape:
        raise InputError(f"x_b: expected {len(a)} examples, as in x_a, got {len(b)}")
    zs = path(a, b, num=num, kind=kind)
    means = likelihood_means(model, zs.reshape(-1, *a.shape[1:]), key=key)
    return means.reshape(len(a), num, *means.shape[1:])


def path(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"], *, num: int, kind: Walk = "linear"
) -> Float[np.ndarray, "N num D"]:
    """Return evenly spaced points from a to b, float32.

    linear: `(1 - t) a + t b`. spherical: `(sin((1 - t) w) a + sin(t w) b) / sin w`, w the angle between
    a and b, so that points between two latents of equal norm also have that norm. Samples of a standard
    normal prior over many latents have nearly equal norms. If a and b are parallel or antiparallel, the
    path is the line.

    Args:
        a: the first point of each path.
        b: the last point of each path.
        num: number of points, 2 or more, including both ends.
        kind: "linear" or "spherical".

    Returns:
        [N, num, D].

    Raises:
        InputError: `num` is below 2, or the kind is unknown.

    >>> a, b = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> path(a, b, num=3)[0, 1].tolist()
    [0.5, 0.5]
    >>> [f"{z:.4f}" for z in path(a, b, num=3, kind="spherical")[0, 1]]  # at 45 degrees
    ['0.7071', '0.7071']

    Source: Shoemake (1985), "Animating rotation with quaternion curves"; White (2016).
    """
    require_integer("num", num, at_least=2, or_else=", the two ends among them")
    require_choice("kind", kind, get_args(Walk))
    a, b = (np.asarray(z, np.float64)[:, None] for z in (a, b))
    t = np.linspace(0, 1, num).reshape(1, num, *[1] * (a.ndim - 2))
    line = (1 - t) * a + t * b
    if kind == "linear":
        return line.astype(np.float32)
    axes = tuple(range(2, a.ndim))
    norms = np.sqrt(np.sum(a**2, axes, keepdims=True) * np.sum(b**2, axes, keepdims=True))
    cosine = np.sum(a * b, axes, keepdims=True) / np.where(norms > 0, norms, 1)
    angle = np.where(norms > 0, np.arccos(np.clip(cosine, -1, 1)), 0)
    bent = np.sin(angle) > 1e-6
    safe = np.where(bent, angle, 1)
    arc = (np.sin((1 - t) * safe) * a + np.sin(t * safe) * b) / np.sin(safe)
    return np.where(bent, arc, line).astype(np.float32)


def analogy(
    model: Model,
    a: Batch,
    b: Batch,
    c: Batch,
    *,
    num_samples: int | None = None,
    key: PRNGKey | None = None,
) -> Float[np.ndarray, "N *event"]:
    """Transfer an attribute to c, as from a to b: means of p(x|z) at `E[z|c] + mean(E[z|b]) - mean(E[z|a])`.

    Groups a and b that differ in one attribute give its direction; with more examples, the direction
    contains less of other differences.

    Args:
        model: any object with `prior`, `posterior` and `likelihood`, its latents not discrete.
        a: examples without the attribute, or one example, [A, *event], or a batch.
        b: examples with the attribute, any number.
        c: examples to which the attribute is transferred, [N, *event].
        num_samples: for posteriors without a closed-form mean, see `posterior_moments`.
        key: one typed key for the samples of `num_samples`, and for those of a p(x|z) without a mean,
            see `likelihood_means`.

    Returns:
        [N, *event], float32; if p(x|z) has no mean, see `interpolate`.

    Raises:
        InputError: the latents are discrete, or examples do not fit the model.

    >>> import jax, jax.numpy as jnp, jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> analogy(model, jnp.zeros((5, 4)), jnp.ones((7, 4)), jnp.eye(4)[:3]).shape
    (3, 4)

    Source: Larsen et al. (2016), "Autoencoding beyond pixels using a learned similarity metric", for
    the directions of attributes; Mikolov et al. (2013), "Linguistic regularities in continuous
    space word representations", for analogies.
    """
    z_a, z_b, z_c = _means_of_each(model, (a, b, c), num_samples, key)
    return likelihood_means(model, z_c + z_b.mean(axis=0) - z_a.mean(axis=0), key=key)


def _means_of_each(
    model: Any, batches: Sequence[Batch], num_samples: int | None, key: PRNGKey | None
) -> list[Float[np.ndarray, "N D"]]:
    """Return the posterior means of each batch, with a separate key stream for each."""

    def key_of(number: int) -> PRNGKey | None:
        return None if key is None else stream_key(key, OfEvaluation.MOMENTS, number)

    return [_means(model, x, num_samples, key_of(i)) for i, x in enumerate(batches)]


def _means(
    model: Any, x: Batch, num_samples: int | None, key: PRNGKey | None
) -> Float[np.ndarray, "N D"]:
    if not isinstance(model, Model):
        raise InputError(
            "model: expected one with prior, posterior and likelihood, got "
            f"{type(model).__name__}; give one that needs a label its label, model.given(y)"
        )
    discrete: list[bool] = []
    jax.eval_shape(lambda: discrete.append(model.prior().is_discrete))  # traced, and not run
    if discrete[0]:
        raise InputError(
            "model: expected latents that are not discrete, got classes or bits, between which "
            "there is nothing"
        )
    return posterior_moments(model, x, num_samples=num_samples, key=key).mean
