"""The ELBO surface of one example around its optimal q, over two coordinates of the mean."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvae.checks import known_number, require_key, require_positive
from jaxvae.evaluation.streams import Constant, hold
from jaxvae.inference.families import Diagonal, moments
from jaxvae.inference.fit_posterior import FitOptions, Start, optimise, require_options
from jaxvae.inference.refinement import diagonal_elbo
from jaxvae.types import InputError, Model, PRNGKey


class Contour(NamedTuple):
    """The surface `ELBO[N(mean, diag(scale)^2)]` over two entries of the mean, as NumPy arrays."""

    coordinates: tuple[int, int]
    """The indices of the two latents."""
    first: Float[np.ndarray, "G"]
    """Means of the first latent along the grid."""
    second: Float[np.ndarray, "G"]
    """Means of the second latent along the grid."""
    elbo: Float[np.ndarray, "G G"]
    """The ELBO [second, first], nats, with all other parameters at the optimum."""
    path: Float[np.ndarray, "T 2"]
    """Means along the optimisation, from the initial one to the optimum."""
    encoder: Float[np.ndarray, "2"]
    """Mean of the encoder's q(z|x)."""
    encoder_elbo: float
    """ELBO of the encoder's q(z|x), with its own scales and all of its means, nats."""
    best_elbo: float
    """ELBO at the optimum, on the same noise as all other values, nats."""

    @property
    def best(self) -> Float[np.ndarray, "2"]:
        """The mean at the optimum."""
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
    """Compute the ELBO surface over two means, the path of the optimisation on it, and the encoder's mean.

    The optimal diagonal normal of x is found as in `fit_posterior`. Around it the ELBO is computed on a
    grid over the means of two latents. The other means and all scales are fixed at the optimum, and the
    noise is the same at every point, so that the surface is smooth. With two latents only the scales
    are not shown. The grid contains the path, the encoder's mean and the optimum, with a margin.

    Args:
        key: one typed key.
        model: a model with `prior`, `likelihood` and `posterior`.
        x: one example.
        coordinates: the indices of two latents.
        start: the initial q of the path: "prior", to show the whole optimisation, or "encoder", which
            is closer to the optimum.
        margin: the margin around path and means, as a fraction of the larger side.
        num_points: G, the number of grid points per axis.
        num_samples: S, samples of the ELBO at each point.
        num_steps: number of updates of q, the length of the path.
        num_fit_samples: samples per update.
        learning_rate: learning rate of the first update.

    Returns:
        A `Contour`; `jaxvae.reports.figures.elbo_contours` plots it.

    Raises:
        InputError: the latent is not a vector of reals, or an option is invalid.

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
    margin = known_number("margin", margin, at_least=0)
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
    # In pairs of opposite sign, so that the noise does not shift the optimum.
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
    """Return the axes of a square grid that contains the points with a margin."""
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
