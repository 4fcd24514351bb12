"""Measures of the latents: moments of q(z|x), active units, and the rates of latents and of layers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import (
    Chain,
    describe,
    require_one_event,
    sample,
)
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.evaluation.streams import (
    key_of_draws,
    mean_and_error,
    mean_of_rows,
    stream,
    there,
    weights_of,
)
from jaxvae.log_weights import kl_each
from jaxvae.types import AnyModel, Batch, InputError, Model, PRNGKey


class ActiveUnits(NamedTuple):
    """The variance of posterior means over examples, and the latents that are active by it."""

    variance: Float[np.ndarray, "D"]
    """Variance over examples of the posterior mean of each latent."""
    active: Bool[np.ndarray, "D"]
    """True for latents whose variance exceeds the threshold."""
    count: int
    """The number of active latents."""


def active_units(
    model: AnyModel,
    xs: Batch,
    *,
    threshold: float = 0.01,
    num_samples: int | None = None,
    key: PRNGKey | None = None,
    batch_size: int = 500,
) -> ActiveUnits:
    """Find the active latents, whose posterior mean varies with x: `Var_x(E_q[z_d|x]) > threshold`.

    Args:
        model: any object with `posterior`.
        xs: examples as inputs of the model, or a batch.
        threshold: variance above which a latent counts as active.
        num_samples: for posteriors without a closed-form mean, see `posterior_moments`; the variance
            due to the sampling itself is subtracted.
        key: one typed key for these samples.
        batch_size: examples at a time.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.2.
    """
    moments = posterior_moments(model, xs, num_samples=num_samples, key=key, batch_size=batch_size)
    given = weights_of(xs)
    means, weight = there(moments.mean, given)
    variance = _variance(means, weight)
    if (
        num_samples is not None and num_samples > 1
    ):  # the mean of K samples has itself a variance of Var_q / K
        noise = mean_of_rows(moments.variance, given) / (num_samples - 1)
        variance = np.maximum(variance - noise, 0)
    active = variance > threshold
    return ActiveUnits(variance, active, int(active.sum()))


def _variance(rows: Float[np.ndarray, "n D"], weight: Float[np.ndarray, "n"]) -> np.ndarray:
    """The unbiased weighted variance of independent rows; divisor sum w - sum w^2 / sum w, n - 1 for equal weights."""
    squares = np.square(rows - np.average(rows, axis=0, weights=weight))
    divisor = np.sum(weight) - np.sum(weight**2) / np.sum(weight) if len(rows) > 1 else 1.0
    return np.tensordot(weight, squares, 1) / divisor


class Moments(NamedTuple):
    """Mean and variance of q(z|x), per example and latent."""

    mean: Float[np.ndarray, "N D"]
    variance: Float[np.ndarray, "N D"]


def posterior_moments(
    model: AnyModel,
    xs: Batch,
    *,
    num_samples: int | None = None,
    key: PRNGKey | None = None,
    batch_size: int = 500,
) -> Moments:
    """Return mean and variance of q(z|x) for every example, as NumPy arrays [N, D].

    In closed form; or, with `num_samples`, from as many samples, drawn for example i with `fold_in(key, i)`.

    Raises:
        InputError: there is no closed form and `num_samples` is not given, or it is given without a key.
    """
    if num_samples is None:
        return Moments(*stream(_moments, model, None, xs, batch_size=batch_size))
    require_positive(num_samples=num_samples)
    key = key_of_draws(key, f"for the draws of num_samples={num_samples}")
    moments = stream(
        _sample_moments, model, key, xs, batch_size=batch_size, num_samples=num_samples
    )
    return Moments(*moments)


def _moments(model: Model, _: None, x: Array) -> tuple[Array, Array]:
    q = model.posterior(x)
    require_one_event(q, "model.posterior(x)")
    try:
        with numpyro_promotion():
            return jnp.asarray(q.mean), jnp.asarray(q.variance)
    except NotImplementedError:
        raise InputError(
            f"model: expected a posterior of known mean and variance, got {describe(q)}; "
            "pass num_samples and a key to estimate them"
        ) from None


def _sample_moments(
    model: Model, key: PRNGKey, x: Array, *, num_samples: int
) -> tuple[Array, Array]:
    q = model.posterior(x)
    require_one_event(q, "model.posterior(x)")
    zs = jax.vmap(lambda k: sample(q, jax.random.fold_in(key, k)))(jnp.arange(num_samples))
    return jnp.mean(zs, axis=0), jnp.var(zs, axis=0)


def kl_per_latent(model: AnyModel, xs: Batch, *, batch_size: int = 500) -> Float[np.ndarray, "D"]:
    """The mean over examples of KL(q(z_d|x) || p(z_d)) of each latent, nats; they sum to the mean rate.

    Raises:
        InputError: posterior or prior does not factorise over latents, or there is no closed form.
    """
    kl = stream(_kl_each, model, None, xs, batch_size=batch_size)
    return mean_of_rows(kl, weights_of(xs))


def _kl_each(model: Model, _: None, x: Array) -> Array:
    return kl_each(model.posterior(x), model.prior())


class LayerKL(NamedTuple):
    """The rate of each layer of a hierarchy, as NumPy arrays."""

    mean: Float[np.ndarray, "L"]
    """Mean over examples of `E_q[log q - log p]` of each layer, nats."""
    standard_error: Float[np.ndarray, "L"]
    """The standard error of `mean` over examples, which includes the Monte Carlo error, nats."""


def kl_per_layer(
    key: PRNGKey,
    model: AnyModel,
    xs: Batch,
    *,
    num_samples: int = 1,
    batch_size: int | None = None,
) -> LayerKL:
    """Estimate the rate of each layer of a hierarchy, `E_q[log q_l - log p_l]`, nats.

    q_l is the factor of q(z|x) that draws layer l, p_l the corresponding factor of p(z). The rates sum to
    the Monte Carlo rate of `elbo(kl="monte_carlo")` under the same keys. If both factors condition on
    the layers above, as in a ladder, each rate is an expected KL and not negative; with a bottom-up
    posterior, such as q(h1|x) against p(h1|h2), a rate can be negative.

    Args:
        key: one typed key.
        model: a model with chains as prior and posterior, such as `jaxvae.models.hierarchical`.
        xs: examples as inputs of the model, [N, *event], or a batch.
        num_samples: K, the number of samples per example.
        batch_size: examples at a time; by default chosen so that batch x K is about 1,000.

    Returns:
        `mean` [L] and `standard_error` [L], starting with the layer next to x.

    Raises:
        InputError: prior and posterior are not chains of the same layers, or a size is below 1.

    Source: Soenderby et al. (2016), "Ladder variational autoencoders", on unused layers.
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    batch_size = max(1, 1000 // num_samples) if batch_size is None else batch_size
    kl = stream(_kl_layers, model, key, xs, batch_size=batch_size, num_samples=num_samples)
    mean, error = zip(*(mean_and_error(layer, weights_of(xs)) for layer in kl.T), strict=True)
    return LayerKL(np.array(mean), np.array(error))


def _kl_layers(model: Model, key: PRNGKey, x: Array, *, num_samples: int) -> Array:
    q, p = model.posterior(x), model.prior()
    if not isinstance(q, Chain) or not isinstance(p, Chain) or q.sizes != p.sizes:
        said = [f"{describe(d)}{f' of {d.sizes}' if isinstance(d, Chain) else ''}" for d in (q, p)]
        raise InputError(
            "model: expected a posterior and a prior that are chains of the same layers, got "
            f"{said[0]} and {said[1]}; for latents that factorise use kl_per_latent"
        )

    def one(k: Array) -> Array:
        z, log_q = q.sample_with_log_prob_each(jax.random.fold_in(key, k))
        return log_q - p.log_prob_each(z)

    return jnp.mean(jax.vmap(one)(jnp.arange(num_samples)), axis=0)
