"""The rate-distortion curve of models trained at several betas, and a check of its consistency."""

from collections.abc import Iterable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvae.checks import require_choice, require_key, require_positive
from jaxvae.distributions import analytic_kl, log_prob, sample_with_log_prob
from jaxvae.evaluation.streams import mean_and_error, mean_of_rows, stream, weights_of
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import Batch, InputError, Model, PRNGKey

ERRORS = 3
"""The number of standard errors that a regret must exceed to count as a fault."""


class RateDistortion(NamedTuple):
    """Points of the curve by increasing beta, NumPy arrays [M], with standard errors over examples, nats."""

    beta: Float[np.ndarray, "M"]
    """The weight of the rate that each model was trained with."""
    rate: Float[np.ndarray, "M"]
    """KL(q(z|x) || p(z))."""
    rate_error: Float[np.ndarray, "M"]
    distortion: Float[np.ndarray, "M"]
    """-E log p(x|z)."""
    distortion_error: Float[np.ndarray, "M"]
    elbo: Float[np.ndarray, "M"]
    """-(distortion + rate), without the weight beta."""
    elbo_error: Float[np.ndarray, "M"]
    regret: Float[np.ndarray, "M"]
    """By how much this model's `distortion + beta rate` exceeds the least of all models at its beta; 0 is ideal."""
    regret_error: Float[np.ndarray, "M"]
    """Standard error of `regret`, from the differences between the two models on the same examples."""
    best: np.ndarray
    """The index of the model with the least `distortion + beta rate` at each beta, [M]."""

    @property
    def slope(self) -> Float[np.ndarray, "{self.beta.size}-1"]:
        """The slope `dD / dR` from each point to the next; on the frontier it lies between minus the two betas."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.diff(self.distortion) / np.diff(self.rate)

    @property
    def monotone(self) -> bool:
        """True if the rate decreases and the distortion increases from each beta to the next."""
        return bool(np.all(np.diff(self.rate) <= 0) and np.all(np.diff(self.distortion) >= 0))

    @property
    def convex(self) -> bool:
        """True if the curve is monotone, and becomes steeper from each beta to the next."""
        slope = self.slope[np.diff(self.rate) != 0]
        return self.monotone and bool(np.all(np.diff(slope) <= 0))

    @property
    def beaten(self) -> Bool[np.ndarray, "M"]:
        """True for models whose regret exceeds three standard errors, so that another model is better at their beta."""
        return self.regret > ERRORS * self.regret_error

    def faults(self) -> tuple[str, ...]:
        """Return a sentence on each model that another one beats at its own beta."""
        return tuple(
            f"beta {self.beta[i]:g}: the model of beta {self.beta[self.best[i]]:g} has "
            f"{self.regret[i]:.2f} +- {self.regret_error[i]:.2f} nats less distortion + "
            f"{self.beta[i]:g} rate; this one is not at its optimum"
            for i in np.flatnonzero(self.beaten)
        )

    def __str__(self) -> str:
        columns = zip(self.beta, self.rate, self.distortion, self.elbo, strict=True)
        rows = [f"{b:8g}{r:10.2f}{d:12.2f}{e:10.2f}" for b, r, d, e in columns]
        head = f"{'beta':>8s}{'rate':>10s}{'distortion':>12s}{'ELBO':>10s}"
        return "\n".join([head, *rows, *self.faults()])


def rate_distortion_curve(
    key: PRNGKey,
    models: Iterable[tuple[float, Model]],
    xs: Batch,
    *,
    num_samples: int = 10,
    kl: Literal["analytic", "monte_carlo"] = "analytic",
    batch_size: int = 100,
) -> RateDistortion:
    """Estimate rate and distortion of models trained at several betas, on the same examples and noise.

    The model that minimises `distortion + beta rate` lies on the frontier of its model family, where
    `dD/dR = -beta`. So at each beta the model trained with it must be the best: `regret[i] =
    D_i + beta_i R_i - min_j (D_j + beta_i R_j)` is 0, up to noise. If all regrets are 0, the curve
    is monotone and convex, and the slope between neighbours lies between minus their betas; a model
    with a positive regret was not trained to its optimum (or not on the distribution of `xs`).

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`, the same for every model.
        models: pairs `(beta, model)`, two or more, each beta once.
        xs: two examples or more [N, *event], or a batch with `x` and optionally `label` and `mask`.
        num_samples: K, samples for the distortion.
        kl: how the rate is computed: "analytic", in closed form, or "monte_carlo", from the samples, as
            for a flow.
        batch_size: examples at a time.

    Returns:
        Arrays [M] by increasing beta: rate, distortion and ELBO with their standard errors, and regrets,
        nats; `faults()` names the models that another one beats, `str` is a table.

    Raises:
        InputError: there are fewer than two models, a beta is repeated or below 0, an option is
            invalid, or the rate has no closed form.

    >>> from jaxvae.testing import draw_examples, linear_gaussian
    >>> model = linear_gaussian()
    >>> xs = draw_examples(jax.random.key(0), model, 50)
    >>> pairs = [(1.0, model.with_exact_posterior()), (4.0, model)]
    >>> rate_distortion_curve(jax.random.key(1), pairs, xs).rate.shape
    (2,)

    Source: Alemi et al. (2018), "Fixing a broken ELBO"; Higgins et al. (2017), "beta-VAE".
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    require_choice("kl", kl, ("analytic", "monte_carlo"))
    models = sorted(models, key=lambda pair: pair[0])
    beta = np.array([pair[0] for pair in models], np.float64)
    if len(beta) < 2 or not np.all(np.diff(beta) > 0) or not np.all((beta >= 0) & (beta < np.inf)):
        raise InputError(
            "models: expected two pairs (beta, model) or more, with different finite betas of at "
            f"least 0, got betas {beta.tolist()}"
        )
    options = {"batch_size": batch_size, "num_samples": num_samples, "kl": kl}
    parts = np.array(
        [stream(_rate_and_distortion, model, key, xs, **options) for _, model in models],
        np.float64,
    )  # [M, 2, N]
    rate, distortion = parts[:, 0], parts[:, 1]
    weight = weights_of(xs)
    means = partial(_means, weight=weight)
    columns = (*means(rate), *means(distortion), *means(-(distortion + rate)))
    return RateDistortion(beta, *columns, *_regrets(beta, rate, distortion, weight))


def _regrets(
    beta: Float[np.ndarray, "M"],
    rate: Float[np.ndarray, "M N"],
    distortion: Float[np.ndarray, "M N"],
    weight: Float[np.ndarray, "N"] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the regrets, their standard errors, and the index of the best model at every beta."""
    costs = [distortion + weight * rate for weight in beta]  # M times [M, N]
    best = np.array([np.argmin(mean_of_rows(cost.T, weight)) for cost in costs])
    behind = np.array(
        [cost[i] - cost[j] for i, (cost, j) in enumerate(zip(costs, best, strict=True))]
    )
    return *_means(behind, weight), best


def _rate_and_distortion(
    model: Model, key: PRNGKey, x: Array, *, num_samples: int, kl: str
) -> tuple[Array, Array]:
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)

    def one(k: Array) -> tuple[Array, Array]:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        rate = log_q - log_prob(p, z) if kl == "monte_carlo" else jnp.zeros(())
        return rate, -log_p_x_given_z(model, x, z)

    rate, distortion = jax.vmap(one)(jnp.arange(num_samples))
    return analytic_kl(q, p) if kl == "analytic" else jnp.mean(rate), jnp.mean(distortion)


def _means(
    values: Float[np.ndarray, "M N"], weight: Float[np.ndarray, "N"] | None
) -> tuple[np.ndarray, np.ndarray]:
    means, errors = zip(*(mean_and_error(row, weight) for row in values), strict=True)
    return np.array(means), np.array(errors)
