"""beta-TC-VAE and the decomposition of the rate in three parts, which couple the examples of a batch."""

import math
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from numpyro.distributions import Distribution, Independent

from jaxvae.batching import fill_rows
from jaxvae.checks import is_known, require_choice, require_positive, require_weight
from jaxvae.coupled.terms import (
    draw_each,
    elbo_of,
    log_or_absent,
    off_diagonal,
    ratio,
    relative,
    require_rows,
)
from jaxvae.distributions import describe, log_prob
from jaxvae.types import InputError, Model, Scalar, Terms

Weights: TypeAlias = Literal["minibatch", "stratified"]


class Decomposition(NamedTuple):
    """The rate of each example in three parts, which sum to `log_q_z_x - log_p_z` exactly, nats."""

    mutual_information: Float[Array, "B"]
    total_correlation: Float[Array, "B"]
    dimension_kl: Float[Array, "B"]


def beta_tc_vae(
    keys: Key[Array, "B"],
    model: Model,
    xs: Float[Array, "B *event"],
    *,
    dataset_size: int,
    weight: Float[Array, "B"] | None = None,
    alpha: Scalar = 1.0,
    beta: Scalar,
    gamma: Scalar = 1.0,
    weights: Weights = "minibatch",
) -> Terms:
    """The beta-TC-VAE objective, with separate weights of the three parts of the rate.

    `objective[i] = -(distortion[i] + alpha mutual_information[i] + beta total_correlation[i]
    + gamma dimension_kl[i])`, see `decompose`. The three parts sum to the rate of the same sample, so
    `alpha = beta = gamma = 1` is the bound, whatever the estimate of q(z).

    Args:
        keys: typed keys, one per example.
        model: a model whose q(z|x) and p(z) factorise over latents: `Independent` scalar densities.
        xs: B >= 2 different examples of the data set.
        dataset_size: N, the number of examples in the data set, at least B.
        weight: weights of the examples in q(z), see `log_weights`; equal if None.
        alpha: weight of the mutual information of example and latent.
        beta: weight of the total correlation.
        gamma: weight of the KL of each latent's aggregate posterior to its prior.
        weights: how log q(z) is estimated from the batch, see `log_weights`.

    Returns:
        `Terms` of [B], nats; the rate is `log_q_z_x - log_p_z` of the sample.

    Raises:
        InputError: a batch of one or larger than N, invalid weights of examples, a density that does not
            factorise, an alpha, beta or gamma below 0, or keys of another shape.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> keys = jax.random.split(jax.random.key(1), 3)
    >>> terms = beta_tc_vae(keys, model, jnp.eye(3, 4), dataset_size=100, beta=1.0)
    >>> bool(jnp.allclose(terms.objective, terms.bound, atol=1e-4))
    True

    Source: Chen, Li, Grosse and Duvenaud (2018), "Isolating sources of disentanglement in
    variational autoencoders", appendix C.
    """
    require_weight(alpha=alpha, beta=beta, gamma=gamma)
    s = draw_each(keys, model, xs, weight)
    terms, z = elbo_of(s, "monte_carlo"), s.z[:, 0]
    log_q = jax.vmap(  # every sample under every posterior
        lambda q: jax.vmap(partial(_by_latent, "model.posterior(x)", q))(z), out_axes=1
    )(s.q)
    log_p = jax.vmap(partial(_by_latent, "model.prior()"))(s.p, z)
    parts = decompose(log_q, log_p, dataset_size=dataset_size, weights=weights, weight=weight)
    # The sum of the parts is the rate, which is in the bound; this is the change due to the weights.
    change = (
        (alpha - 1) * parts.mutual_information
        + (beta - 1) * parts.total_correlation
        + (gamma - 1) * parts.dimension_kl
    )
    return terms._replace(objective=terms.bound - change)


def decompose(
    log_q: Float[Array, "B B D"],
    log_p: Float[Array, "B D"],
    *,
    dataset_size: int,
    weights: Weights = "minibatch",
    weight: Float[Array, "B"] | None = None,
) -> Decomposition:
    """Decompose the rate in three parts, with an estimate of the aggregate posterior q(z) = mean_n q(z|x_n).

    With `W = exp(log_weights)`, `q(z_i) = sum_j W[i, j] prod_d q(z_id|x_j)` and
    `q(z_id) = sum_j W[i, j] q(z_id|x_j)`:

        mutual_information[i] = log q(z_i|x_i) - log q(z_i)
        total_correlation[i]  = log q(z_i) - sum_d log q(z_id)
        dimension_kl[i]       = sum_d (log q(z_id) - log p(z_id))

    Args:
        log_q: `log_q[i, j, d] = log q(z_id | x_j)`, the sample of example i under the posterior of
            example j, nats.
        log_p: `log_p[i, d] = log p(z_id)`, nats.
        dataset_size: N.
        weights: see `log_weights`.
        weight: weights of the examples, see `log_weights`; equal if None.

    Returns:
        The three parts [B] each, nats; those of an example of weight 0 are meaningless.

    Raises:
        InputError: B is below 2 or above N, an unknown kind of weights, or an invalid weight.

    >>> log_q = jnp.log(jnp.array([[[0.5], [0.25]], [[0.25], [0.5]]]))
    >>> parts = decompose(log_q, jnp.zeros((2, 1)), dataset_size=2, weights="stratified")
    >>> [round(float(part[0]), 4) for part in parts]  # log (1/2) / (3/8), no other latent, log (3/8)
    [0.2877, 0.0, -0.9808]

    Source: Chen et al. (2018), "Isolating sources of disentanglement".
    """
    log_w = log_weights(log_q.shape[0], dataset_size, weights, weight)
    log_q, log_p = fill_rows((log_q, log_p), weight)  # the axis of samples, then that of posteriors
    log_q = jnp.swapaxes(fill_rows(jnp.swapaxes(log_q, 0, 1), weight), 0, 1)
    log_q_z = jnp.sum(log_q, axis=2)
    log_joint = jax.nn.logsumexp(log_w + log_q_z, axis=1)
    log_product = jnp.sum(jax.nn.logsumexp(log_w[:, :, None] + log_q, axis=1), axis=1)
    return Decomposition(
        jnp.diagonal(log_q_z) - log_joint,
        log_joint - log_product,
        log_product - jnp.sum(log_p, axis=1),
    )


def log_weights(
    batch_size: int,
    dataset_size: int,
    weights: Weights,
    weight: Float[Array, "B"] | None = None,
) -> Float[Array, "B B"]:
    """Return the log-weight of example j of the batch in the estimate of q(z) at the sample of example i.

    "stratified": W[i, i] = 1 / N and W[i, j] = (N - 1) / (N (B - 1)). If the other B - 1 examples are
    drawn uniformly without replacement, sum_j W[i, j] q(z|x_j) has the expectation q(z); it equals
    q(z) if the batch is the data set.
    "minibatch": W[i, j] = 1 / (N B). The expectation of the log is a lower bound on log q(z); on
    the whole data set it is log q(z) - log N.

    With weights w of the examples, of which n are positive and S is the sum, q(z) is the mixture of the
    posteriors in proportion to w. "stratified": W[i, i] = n w_i / (N S), the normalised weight of example
    i in a data set whose mean weight is that of the batch, and W[i, j] = (1 - W[i, i]) w_j / (S - w_i),
    which gives q(z) itself if the batch is the data set. "minibatch": W[i, j] = w_j / (N S). Examples of
    weight 0 are ignored, equal weights have no effect, and only the ratios of weights matter. If only
    one example has a positive weight, its W is 1 / N.

    Args:
        batch_size: B, at least 2.
        dataset_size: N, at least B, or at least n if there are weights.
        weights: "minibatch" or "stratified".
        weight: w [B]; equal if None.

    Returns:
        log W [B, B]; -inf for examples of weight 0.

    Raises:
        InputError: a size is out of its range, an unknown kind of weights, or an invalid weight.

    >>> [round(float(w), 4) for w in jnp.exp(log_weights(3, 10, "stratified")[0])]
    [0.1, 0.45, 0.45]

    Source: Chen et al. (2018), "Isolating sources of disentanglement", appendix C.1 and C.2.
    Departs from the source: with M = B - 1 other examples, its stratified weights are 1 / M for all of
    them except one, which has (N - M) / (N M). Unbiasedness fixes only their sum, (N - 1) / N; here they
    are equal, which averages over the order of the batch and so never has more variance.
    """
    require_choice("weights", weights, get_args(Weights))
    require_positive(dataset_size=dataset_size)
    require_rows(weight, batch_size, at_least=2)
    size = batch_size if weight is None else _known_rows(weight)
    if not 2 <= size <= dataset_size:
        raise InputError(
            f"dataset_size: expected at least the batch size, which is at least 2, got "
            f"{dataset_size} examples for a batch of {size}"
        )
    if weight is not None:
        return _log_weights_of_rows(jnp.asarray(weight, jnp.float32), dataset_size, weights)
    if weights == "minibatch":
        return jnp.full((batch_size, batch_size), -math.log(dataset_size * batch_size))
    other = math.log((dataset_size - 1) / (dataset_size * (batch_size - 1)))
    return jnp.where(jnp.eye(batch_size, dtype=bool), -math.log(dataset_size), other)


def _known_rows(weight: Float[Array, "B"]) -> int:
    """Return the number of positive weights; 2, the minimum, if the weights are traced."""
    return int(np.sum(np.asarray(weight) > 0)) if is_known(weight) else 2


def _log_weights_of_rows(
    weight: Float[Array, "B"], dataset_size: int, weights: Weights
) -> Float[Array, "B B"]:
    weight = relative(weight)
    size, total = len(weight), jnp.sum(weight)
    if weights == "minibatch":
        each = log_or_absent(ratio(weight, total)) - math.log(dataset_size)
        return jnp.broadcast_to(each[None], (size, size))
    count = jnp.minimum(jnp.sum(weight > 0), dataset_size)  # known ones above N are refused
    own = ratio(weight, total) * (count / dataset_size)
    others = off_diagonal(jnp.broadcast_to(weight[None], (size, size)))
    rest = (1 - own)[:, None] * ratio(others, jnp.sum(others, axis=1, keepdims=True))
    return log_or_absent(jnp.where(jnp.eye(size, dtype=bool), own[:, None], rest))


def _by_latent(role: str, distribution: Distribution, z: Array) -> Float[Array, "D"]:
    """Return the log-density of each latent separately, nats."""
    if not isinstance(distribution, Independent) or distribution.base_dist.event_shape != ():
        raise InputError(
            f"{role}: expected a density factorised over latents, such as "
            f"Normal(loc, scale).to_event(1), got {describe(distribution)}; the total correlation "
            "needs log q of each latent"
        )
    return log_prob(distribution.base_dist, z).reshape(-1)
