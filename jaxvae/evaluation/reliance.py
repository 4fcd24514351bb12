"""The decoder's reliance on the latents."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from jaxvae.batching import Examples, deal_out, layout_of, map_examples, unpack
from jaxvae.binding import bind
from jaxvae.checks import require_choice, require_key, require_positive
from jaxvae.compiling import jit_quickly
from jaxvae.distributions import (
    analytic_kl,
    log_prob,
    sample_with_log_prob,
)
from jaxvae.evaluation.streams import Constant, hold, mean_and_error, there, weights_of
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import Batch, InputError, PRNGKey


class Reliance(NamedTuple):
    """Measures of a decoder's use of its latents."""

    rate: Float[np.ndarray, "N"]
    """KL(q(z|x) || p(z)) of every example, nats: the cost of z."""
    drop: Float[np.ndarray, "N"]
    """The decrease in E log p(x|z) if z is from q of another example, nats: the value of z to the decoder."""
    mean_rate: tuple[float, float]
    """Mean of `rate` and its standard error over examples, nats."""
    mean_drop: tuple[float, float]
    """Mean of `drop` and its standard error, nats, which allows for neighbours that share an example."""
    verdict: Literal["ignored", "used", "undecided"]
    """Whether `mean_drop` is below ("ignored") or above ("used") the threshold by three standard errors, or neither."""

    def __str__(self) -> str:
        (rate, rate_error), (drop, drop_error) = self.mean_rate, self.mean_drop
        return (
            f"the decoder's use of z: {self.verdict}; z of another example costs {drop:.2f} +- "
            f"{drop_error:.2f} nats of log p(x|z), the rate is {rate:.2f} +- {rate_error:.2f} nats"
        )


def reliance_on_latents(
    key: PRNGKey,
    model: Any,
    xs: Batch,
    *,
    num_samples: int = 10,
    kl: Literal["analytic", "monte_carlo"] = "analytic",
    threshold: float = 0.1,
    batch_size: int = 100,
) -> Reliance:
    """Measure whether the decoder uses z, by the loss of log-likelihood under the z of another example.

    `drop[i] = mean_k (log p(x_i|z_k) - log p(x_i|z'_k))`, `z_k ~ q(z|x_i)`, `z'_k ~ q(z|x_j)`, where j is
    the next example (for the last example the first one): about 0 if the decoder ignores z, and exactly 0
    if it does not depend on z. Both z are drawn from the same noise. A rate without a drop is wasted;
    a rate near 0 is posterior collapse.

    A decoder that can model x without z, such as an autoregressive one, tends to both. Remedies:
    raise beta from 0 to 1 early in training (`jaxvae.training.linear_warmup`), exempt some nats of each
    latent from the penalty (`free_bits` of `jaxvae.elbo`) or hold the rate at a `capacity`, or weaken
    the decoder: fewer and narrower layers, `decoder="markov"` of a low order, or a factorised decoder.

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`.
        model: any object with `prior`, `posterior` and `likelihood`, or with `given`, which returns one.
        xs: two examples or more [N, *event], in random order; or a batch: a mapping with `x` and
            optionally `label` and `mask`, which stay with their x.
        num_samples: K.
        kl: how the rate is computed: "analytic", in closed form, or "monte_carlo", from the samples, as
            for a flow.
        threshold: the drop that counts as use of z, nats.
        batch_size: examples at a time.

    Returns:
        `rate` [N] and `drop` [N], their means with standard errors, and the verdict; `str` is a summary.

    Raises:
        InputError: there are fewer than two examples, an option or a shape is invalid, or the rate has
            no closed form.

    Source: Bowman et al. (2016), "Generating sentences from a continuous space", for the collapse
    and warm-up; Kingma et al. (2016), "Improved variational inference with inverse autoregressive
    flow", for free bits. Departs from the source: they report the rate alone, which measures the
    information that the encoder puts into z, not what the decoder uses of it.
    """
    require_key(key)
    require_positive(num_samples=num_samples, batch_size=batch_size)
    require_choice("kl", kl, ("analytic", "monte_carlo"))
    examples = unpack(xs)
    held, weight = hold(model), weights_of(xs)
    after = next_there(len(examples.x), weight)
    pairs = _with_next(examples, jnp.asarray(after))
    layout = layout_of(examples.x)
    pairs, held, key = deal_out(layout, pairs, held, key)
    rate, drop = jax.device_get(_reliance(held, key, pairs, num_samples, kl, batch_size, layout))
    mean, error = drop_of = _mean_and_error_of_neighbours(drop, weight)
    verdict = "undecided"
    if abs(mean - threshold) >= 3 * error:
        verdict = "used" if mean > threshold else "ignored"
    return Reliance(rate, drop, mean_and_error(rate, weight), drop_of, verdict)


def next_there(size: int, weight: Float[np.ndarray, "N"] | None) -> Int[np.ndarray, "N"]:
    """Return for each row the next row of positive weight; the first one follows the last.

    Raises:
        InputError: there are fewer than two rows of positive weight.
    """
    rows = np.arange(size) if weight is None else np.flatnonzero(weight > 0)
    if len(rows) < 2:
        raise InputError("xs: expected two examples or more, to exchange their latents, got one")
    return rows[np.searchsorted(rows, np.arange(size), side="right") % len(rows)]


@jit_quickly
def _with_next(examples: Examples, after: Int[Array, "N"]) -> Examples:
    """Return each row stacked with row `after` of it, [N, 2, ...]."""
    return jax.tree.map(lambda column: jnp.stack([column, column[after]], 1), examples)


@partial(jit_quickly, static_argnums=(3, 4, 5, 6))
def _reliance(
    held: Any,
    key: PRNGKey,
    pairs: Examples,
    num_samples: int,
    kl: str,
    batch_size: int,
    layout: NamedSharding | None,
) -> tuple[Array, Array]:
    model = held.model if isinstance(held, Constant) else held

    def one(key: PRNGKey, pair: Examples) -> tuple[Array, Array]:
        own = jax.tree.map(lambda column: column[0], pair)
        bound = bind(model, own.label, own.mask)

        def draw(row: Examples) -> tuple[Array, Array]:
            q = bind(model, row.label, row.mask).posterior(row.x)
            require_latents(q, bound.prior())
            return jax.vmap(lambda k: sample_with_log_prob(q, jax.random.fold_in(key, k)))(ks)

        ks = jnp.arange(num_samples)
        z, log_q = jax.vmap(draw)(pair)  # [2, K, ..]: from this example and from the other one
        log_p = jax.vmap(jax.vmap(lambda z: log_p_x_given_z(bound, own.x, z)))(z)
        drop = jnp.mean(log_p[0] - log_p[1])
        if kl == "analytic":
            return analytic_kl(bound.posterior(own.x), bound.prior()), drop
        return jnp.mean(log_q[0] - jax.vmap(lambda z: log_prob(bound.prior(), z))(z[0])), drop

    return map_examples(one, key, pairs, batch_size=batch_size, layout=layout)


def _mean_and_error_of_neighbours(
    values: Float[np.ndarray, "N"], weight: Float[np.ndarray, "N"] | None
) -> tuple[float, float]:
    """Mean and standard error of values in a ring with dependent neighbours; a negative covariance counts as 0."""
    mean, _ = mean_and_error(values, weight)
    values, weight = there(values, weight)
    rest = (values - mean) * weight / weight.mean()
    variance = (rest @ rest + 2 * max(rest @ np.roll(rest, -1), 0)) / (len(rest) - 1)
    return mean, float(np.sqrt(variance / len(rest)))
