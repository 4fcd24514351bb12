"""DIP-VAE, which couples the examples of a batch by the covariance of their latents."""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from numpyro.distributions import Distribution, Independent

from jaxvae.batching import fill_rows
from jaxvae.checks import require_choice, require_weight
from jaxvae.coupled.terms import draw_each, elbo_of, pairs, ratio, relative, weighted_mean
from jaxvae.distributions import describe
from jaxvae.objectives import KL
from jaxvae.types import InputError, Model, Scalar, Terms

Form: TypeAlias = Literal["i", "ii"]


def dip_vae(
    keys: Key[Array, "B"],
    model: Model,
    xs: Float[Array, "B *event"],
    *,
    weight: Float[Array, "B"] | None = None,
    lambda_off_diagonal: Scalar,
    lambda_diagonal: Scalar,
    form: Form = "i",
    kl: KL = "analytic",
) -> Terms:
    """The DIP-VAE objective, which penalises the deviation of the latents' covariance over the batch from identity.

    `objective[i] = bound[i] - lambda_off_diagonal sum_{d != e} C[d, e]^2
    - lambda_diagonal sum_d (C[d, d] - 1)^2`, with C from `aggregate_covariance`. The identity is the
    covariance of a standard normal prior.

    Args:
        keys: typed keys, one per example.
        model: a model whose q(z|x) has a mean and, for form "ii", a covariance in closed form.
        xs: B >= 2 examples.
        weight: weights of the examples in the covariance, see `aggregate_covariance`; equal if None.
        lambda_off_diagonal: weight of the squared covariances, nats.
        lambda_diagonal: weight of the squared differences of the variances from 1, nats.
        form: "i", the covariance of the means of q(z|x); "ii", the covariance of z.
        kl: how the rate is computed, "analytic" or "monte_carlo".

    Returns:
        `Terms` of [B], nats.

    Raises:
        InputError: a batch of one, invalid weights of examples, an unknown form, a lambda below 0, a
            posterior without the moments in closed form, or keys of another shape.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> keys = jax.random.split(jax.random.key(1), 3)
    >>> terms = dip_vae(keys, model, jnp.ones((3, 4)), lambda_off_diagonal=1.0, lambda_diagonal=0.5)
    >>> bool(jnp.allclose(terms.bound - terms.objective, 1.0))  # equal examples: two variances of 0
    True

    Source: Kumar, Sattigeri and Balakrishnan (2018), "Variational inference of disentangled latent
    concepts from unlabeled observations".
    """
    require_weight(lambda_off_diagonal=lambda_off_diagonal, lambda_diagonal=lambda_diagonal)
    s = draw_each(keys, model, xs, weight)
    terms = elbo_of(s, kl)
    covariance = aggregate_covariance(s.q, form, weight)
    variances = jnp.diagonal(covariance)
    off_diagonal = jnp.sum((covariance - jnp.diag(variances)) ** 2)
    diagonal = jnp.sum((variances - 1) ** 2)
    penalty = lambda_off_diagonal * off_diagonal + lambda_diagonal * diagonal
    return terms._replace(objective=terms.bound - penalty)


def aggregate_covariance(
    q: Distribution, form: Form, weight: Float[Array, "B"] | None = None
) -> Float[Array, "D D"]:
    """Covariance over a batch of posteriors: of their means (form "i"), or of their samples (form "ii").

    `C = cov_i(mean_i)` with the divisor B - 1, and for form "ii" `C + mean_i covariance_i`.

    With weights the means are weighted, and the divisor in `C = sum_i w_i (mean_i - m) (mean_i - m)^T / c`
    is `c = sum w - sum w^2 / sum w`, unbiased for independent, identically distributed examples. Examples
    of weight 0 are ignored; equal weights have no effect; only the ratios of weights matter. An example of
    weight 2 counts twice in every sum, but not in c, since it is one independent example. With only one
    example of positive weight, C is 0.

    Args:
        q: posteriors of B >= 2 examples, a `jax.vmap` of `model.posterior`.
        form: "i" or "ii".
        weight: weights of the examples; equal if None.

    Returns:
        The covariance [D, D], in squares of the latents' unit.

    Raises:
        InputError: an unknown form, or q has no moments in closed form.

    >>> import numpyro.distributions as dist
    >>> means = jnp.array([[0.0], [2.0]])
    >>> q = jax.vmap(lambda mean: dist.Normal(mean, 3.0).to_event(1))(means)
    >>> float(aggregate_covariance(q, "i")[0, 0]), float(aggregate_covariance(q, "ii")[0, 0])
    (2.0, 11.0)

    Source: Kumar et al. (2018), "Variational inference of disentangled latent concepts", section 2,
    the law of total covariance; Gough (2009), "GNU Scientific Library reference
    manual", weighted samples, for the divisor with weights.
    Departs from the source: the unbiased divisor B - 1; its code has B.
    """
    require_choice("form", form, get_args(Form))
    means = fill_rows(jax.vmap(_mean)(q), weight)
    centred = means - weighted_mean(means, weight)[None]
    if weight is None:
        covariance = centred.T @ centred / (len(means) - 1)
    else:
        w = relative(jnp.asarray(weight, means.dtype))
        # sum_i sum_{j != i} w_i w_j is (sum w)^2 - sum w^2, without the cancellation.
        divisor = ratio(jnp.sum(pairs(w)), jnp.sum(w))
        covariance = ratio((w[:, None] * centred).T @ centred, divisor)
    if form == "i":
        return covariance
    return covariance + weighted_mean(jax.vmap(_covariance)(q), weight)


def _mean(q: Distribution) -> Float[Array, "D"]:
    try:
        return jnp.asarray(q.mean).reshape(-1)
    except NotImplementedError:
        raise InputError(_no_moment("mean", q)) from None


def _covariance(q: Distribution) -> Float[Array, "D D"]:
    if isinstance(q, Independent) and q.base_dist.event_shape == ():
        return jnp.diag(jnp.asarray(q.variance).reshape(-1))
    covariance = getattr(q, "covariance_matrix", None)
    if covariance is None:
        raise InputError(_no_moment("covariance", q))
    return covariance


def _no_moment(moment: str, q: Distribution) -> str:
    return (
        f"model.posterior(x): expected a {moment} in closed form, as of Normal(loc, scale)"
        f".to_event(1) or MultivariateNormal, got {describe(q)}"
    )
