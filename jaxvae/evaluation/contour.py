"""The ELBO of one example around its best q, seen in two coordinates of the mean."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvae.checks import require_key, require_number, require_positive
from jaxvae.evaluation.streams import Constant, hold
from jaxvae.inference.families import Diagonal, moments
from jaxvae.inference.fit_posterior import FitOptions, Start, optimise, require_options
from jaxvae.inference.refinement import diagonal_elbo
from jaxvae.types import InputError, Model, PRNGKey


class Contour(NamedTuple):
    """A map of `ELBO[N(mean, diag(scale)^2)]` over two entries of the mean, as NumPy arrays."""

    coordinates: tuple[int, int]
    """Which latents."""
    first: Float[np.ndarray, "G"]
    """Means of the first one along the grid."""
    second: Float[np.ndarray, "G"]
    """Means of the second one."""
    elbo: Float[np.ndarray, "G G"]
    """[second, first], nats; all else as at the optimum."""
    path: Float[np.ndarray, "T 2"]
    """Means that the optimisation went through, its start first and the optimum last."""
    encoder: Float[np.ndarray, "2"]
    """Mean of the encoder's q(z|x)."""
    encoder_elbo: float
    """ELBO of the encoder's q(z|x) as it is, its own scales and all of its coordinates, nats."""
    best_elbo: float
    """ELBO at the optimum, nats, on the same noise as all the others."""

    @property
    def best(self) -> Float[np.ndarray, "2"]:
        """Mean at the optimum."""
        return self.path[-1]


def contour(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    coordinates: tuple[int, int] = (0, 1),
    start: Start = "prior",
    margin: float = 0.25,
    num_points: int = 80,
    num_samples: int = 100,
    num_steps: int = 1000,
    num_fit_samples: int = 32,
    learning_rate: float = 0.02,
) -> Contour:
    """The surface that inference climbs: the ELBO over two means, the way up, and the encoder's guess.

    The best diagonal normal of x is found as by `fit_posterior`. Around it the ELBO is computed on a
    grid over the means of two latents; the other means and all scales stay at the optimum, and the
    noise is the same at every point, so the surface is smooth. With two latents nothing is hidden but
    the scales. The grid holds the path, the encoder's mean and the optimum, with a margin.

    Args:
        key: one typed key.
        model: with `prior`, `likelihood` and a `posterior` of known mean and variance.
        x: one example.
        coordinates: two latents.
        start: where the path starts: at the mean of the "prior", for a view of the whole way, or of
            the "encoder", for one from near.
        margin: as a share of the larger side, around what must be seen.
        num_points: G.
        num_samples: S, of the ELBO of each point.
        num_steps: updates of q, the length of the path.
        num_fit_samples: samples of an update.
        learning_rate: of the first update.

    Returns:
        A `Contour`; `jaxvae.reports.figures.elbo_contours` draws it.

    Raises:
        InputError: the latent is not a vector of reals, or an option is not usable.

    >>> import jaxvae as jv
    >>> surface = contour(jax.random.key(0), jv.testing.linear_gaussian(), jnp.ones(3), num_points=9)
    >>> surface.elbo.shape, bool(surface.elbo.max() <= surface.best_elbo + 0.1)
    ((9, 9), True)

    Source: Kim et al. (2018), "Semi-amortized variational autoencoders", and Marino, Yue and Mandt
    (2018), "Iterative amortized inference", for such figures of one example.
    """
    require_key(key)
    require_positive(num_points=num_points, num_samples=num_samples)
    options = require_options(
        FitOptions("diagonal", num_steps, num_fit_samples, learning_rate, start)
    )
    chosen = _require_coordinates(coordinates, model.prior().event_shape)
    require_number("margin", margin, at_least=0)
    held = hold(model)
    seen = _fit(key, held, x, options, num_samples)
    path, encoder = (np.asarray(means)[:, chosen] for means in (seen.path, seen.encoder[None]))
    first, second = _axes(np.vstack([path, encoder]), margin, num_points)
    grid = jnp.stack(jnp.meshgrid(jnp.asarray(first), jnp.asarray(second)), axis=-1)
    surface = _surface(held, x, seen.best, seen.noise, grid, chosen)
    return Contour(
        chosen,
        first,
        second,
        np.asarray(surface),
        path,
        encoder[0],
        float(seen.encoder_elbo),
        float(seen.best_elbo),
    )


class _Seen(NamedTuple):
    best: Diagonal
    encoder: Float[Array, "D"]
    path: Float[Array, "T D"]
    noise: Float[Array, "S D"]
    encoder_elbo: Float[Array, ""]
    best_elbo: Float[Array, ""]


@partial(jax.jit, static_argnums=(3, 4))
def _fit(key: PRNGKey, held: Any, x: Array, options: FitOptions, num_samples: int) -> _Seen:
    model = held.model if isinstance(held, Constant) else held
    fit_key, noise_key, moments_key = jax.random.split(key, 3)
    best, _, path = optimise(fit_key, model, x, options, watch=lambda q: q.mean)
    assert isinstance(best, Diagonal)
    # In pairs of opposites, so that the noise does not pull the optimum aside.
    half = jax.random.normal(noise_key, (-(-num_samples // 2), best.mean.size))
    noise = jnp.concatenate([half, -half])
    mean, scale = moments(moments_key, model.posterior(x))
    return _Seen(
        best,
        mean,
        jnp.concatenate([path, best.mean[None]]),
        noise,
        diagonal_elbo(model, x, Diagonal(mean, jnp.log(scale)), noise),
        diagonal_elbo(model, x, best, noise),
    )


@partial(jax.jit, static_argnums=5)
def _surface(
    held: Any,
    x: Array,
    best: Diagonal,
    noise: Float[Array, "S D"],
    grid: Float[Array, "G G 2"],
    chosen: tuple[int, int],
) -> Float[Array, "G G"]:
    model = held.model if isinstance(held, Constant) else held

    def at(point: Float[Array, "2"]) -> Float[Array, ""]:
        mean = best.mean.at[jnp.array(chosen)].set(point)
        return diagonal_elbo(model, x, Diagonal(mean, best.log_scale), noise)

    return jax.lax.map(jax.vmap(at), grid)


def _axes(
    points: Float[np.ndarray, "N 2"], margin: float, num_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """A square that holds the points, with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = (0.5 + margin) * max(float((high - low).max()), 1e-3)
    center = (low + high) / 2
    first, second = (np.linspace(c - half, c + half, num_points, dtype=np.float32) for c in center)
    return first, second


def _require_coordinates(given: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    usable = isinstance(given, tuple) and len(given) == 2 and given[0] != given[1]
    if (
        len(shape) != 1
        or not usable
        or not all(type(d) is int and 0 <= d < shape[0] for d in given)
    ):
        raise InputError(
            f"coordinates: expected two of the latents of a vector, which here are of shape {shape}, "
            f"such as (0, 1), got {given!r}"
        )
    return given
