"""The integral of a density from its draws, relative to a fitted density that integrates to one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.testing.normaliser.drawn import (
    ROUGH,
    TOLERANCE,
    Drawn,
    Sum,
    UnknownError,
    repeated,
    unconstrained,
)
from jaxvae.testing.normaliser.points import LARGEST_TABLE
from jaxvae.testing.statistics import normal_quantile, standard_error

_DIMENSIONS = 64
_NARROW = 0.85
"""The factor on the fitted variance: a proposal narrower than the density has bounded weights."""


def by_draws(d: Drawn, false_alarm: float) -> Sum:
    """Estimate `1 / E_p[r(x) / p(x)]`, with r fitted to one half of the draws and evaluated on the other."""
    if d.distribution.is_discrete:
        raise UnknownError(
            f"its support has more than {LARGEST_TABLE:,} points, and its values depend on each other"
        )
    u, transform = unconstrained(d)
    log_p = d.log_prob
    if transform is not None:
        with numpyro_promotion():
            slope = jax.vmap(transform.log_abs_det_jacobian)(jnp.asarray(u), jnp.asarray(d.values))
        log_p = log_p + np.asarray(slope, np.float64).reshape(len(u), -1).sum(axis=1)
    u = u.reshape(len(u), -1).astype(np.float64)
    if u.shape[1] > _DIMENSIONS:
        raise UnknownError(f"more than {_DIMENSIONS} values that depend on each other")
    half = len(u) // 2
    log_r = _proposal(u[:half])(u[half:])
    weights = np.exp(log_r - log_p[half:])
    mean = float(weights.mean())
    if not np.isfinite(mean):
        return Sum(np.nan, TOLERANCE, "the mean of r / p over draws, which is no number")
    if mean == 0:
        raise UnknownError("no draw lies where a mixture of Gaussians fitted to draws does")
    relative = float(standard_error(weights)) / mean
    limit = normal_quantile(false_alarm / 2) * relative
    if limit > ROUGH:
        raise UnknownError(f"{half:,} draws tell the integral to {limit:.1g} nats alone")
    # The log of the mean has a bias of half its relative variance, small within the limits above.
    return Sum(-np.log(mean), TOLERANCE + limit, f"the mean of r / p over {half:,} draws")


def _proposal(u: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a density r narrower than draws [n, D], and return its log-density; repeated values are point masses.

    Combinations of point masses with too few draws are left out: r must lie within p but need not cover it.
    """
    from sklearn.mixture import GaussianMixture

    masses = repeated(u)
    patterns, which = np.unique(u[:, masses], axis=0, return_inverse=True)
    counts = np.bincount(which.ravel(), minlength=len(patterns))
    enough = counts >= max(50, 10 * (~masses).sum())
    if not enough.any():
        raise UnknownError("too few draws of each of the masses")
    fitted = {}
    for i in np.flatnonzero(enough):
        rows = u[which.ravel() == i][:, ~masses]
        components = 8 if len(rows) >= 800 * rows.shape[1] else 1
        mixture = GaussianMixture(components, random_state=0).fit(rows)
        mixture.precisions_cholesky_ = mixture.precisions_cholesky_ / np.sqrt(_NARROW)
        fitted[i] = np.log(counts[i] / counts[enough].sum()), mixture

    def log_density(u: np.ndarray) -> np.ndarray:
        found = np.full(len(u), -np.inf)
        for i, (log_share, mixture) in fitted.items():
            here = np.all(u[:, masses] == patterns[i], axis=1)
            if here.any():
                found[here] = log_share + mixture.score_samples(u[here][:, ~masses])
        return found

    return log_density
