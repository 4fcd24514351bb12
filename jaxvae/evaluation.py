"""What a model is worth: likelihoods and latent use. Takes models and examples, never runs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvae import objectives
from jaxvae.batching import Examples, fold_each, map_examples, unpack
from jaxvae.binding import bind, require_labels
from jaxvae.distributions import (
    Chain,
    analytic_kl,
    describe,
    log_prob,
    require_one_event,
    sample,
    sample_with_log_prob,
)
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.sampling import kl_each, require_latents
from jaxvae.sampling import log_likelihood as log_p_x_given_z
from jaxvae.types import (
    Batch,
    InputError,
    Model,
    Objective,
    PRNGKey,
    Terms,
    require_key,
    require_positive,
)


class LogLikelihood(NamedTuple):
    """Importance-weighted estimates of log p(x), one an example, as NumPy arrays."""

    estimate: Float[np.ndarray, "N"]
    """log mean_k w[k], nats: in expectation a lower bound on log p(x)."""
    standard_error: Float[np.ndarray, "N"]
    """Of `estimate`, from the spread of the weights (delta method), nats."""
    ess: Float[np.ndarray, "N"]
    """Effective sample size, (sum w)^2 / sum w^2, from 1 to K."""

    def mean(self) -> tuple[float, float]:
        """The mean over examples and its standard error, nats.

        The error is that of a sample of examples from a population, sd / sqrt(N); it contains the
        Monte Carlo error, which `standard_error` gives by itself.
        """
        return mean_and_error(self.estimate)


def mean_and_error(values: Float[np.ndarray, "N"]) -> tuple[float, float]:
    """Mean and standard error sd / sqrt(N) in float64; the error of one value is NaN."""
    values = np.asarray(values, np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    return float(values.mean()), float(spread / np.sqrt(len(values)))


class _Sums(NamedTuple):
    """Running sums of w and w^2 relative to exp(peak), for one example."""

    peak: Float[Array, ""]
    first: Float[Array, ""]
    second: Float[Array, ""]

    def add(self, log_w: Float[Array, "K"]) -> "_Sums":
        peak = jnp.maximum(self.peak, jnp.max(log_w))
        safe = jnp.where(jnp.isfinite(peak), peak, 0.0)
        old, new = jnp.exp(self.peak - safe), jnp.exp(log_w - safe)
        return _Sums(peak, self.first * old + jnp.sum(new), self.second * old**2 + jnp.sum(new**2))


def log_likelihood(
    key: PRNGKey,
    model: Model,
    xs: Batch,
    *,
    num_samples: int,
    chunk_size: int = 100,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> LogLikelihood:
    """Importance-weighted log-likelihood of every example, in memory that does not grow with K.

    `estimate = log mean_k w[k]`, `w[k] = p(x, z_k) / q(z_k|x)`, `z_k ~ q(z|x)`. The example is
    encoded once; the samples stream in chunks through running sums of w and w^2. Sample k of
    example i draws from `fold_in(fold_in(key, i), k)`: the estimate depends neither on the batch
    nor on the chunk, and whatever does not divide is still counted.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior` and `likelihood`.
        xs: examples as the model sees them, [N, *event]; or a batch, a mapping with `x` and, where
            there are any, `label` and `mask`.
        num_samples: K.
        chunk_size: samples at a time.
        batch_size: examples at a time; by default so many that batch x chunk is about 1,000.
        on_progress: called after every batch with the number of examples that are done.

    Returns:
        `estimate` [N] and its `standard_error` [N], nats; `ess` [N].

    Raises:
        InputError: a size is below 1, or the shapes do not fit the model.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.1; standard error by the delta method,
    Owen (2013), "Monte Carlo theory, methods and examples".
    """
    require_key(key)
    require_positive(num_samples=num_samples, chunk_size=chunk_size)
    if batch_size is None:
        batch_size = max(1, 1000 // min(chunk_size, num_samples))
    chunk_size = min(chunk_size, num_samples)
    result = _stream(
        _log_likelihood,
        model,
        key,
        xs,
        batch_size=batch_size,
        on_progress=on_progress,
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    return LogLikelihood(*result)


def _log_likelihood(
    model: Model, key: PRNGKey, x: Array, *, num_samples: int, chunk_size: int
) -> tuple[Array, Array, Array]:
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)

    def log_w(k: Array) -> Array:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        value = log_p_x_given_z(model, x, z) + log_prob(p, z) - log_q
        return jnp.where(k < num_samples, value, -jnp.inf)

    def chunk(sums: _Sums, start: Array) -> tuple[_Sums, None]:
        return sums.add(jax.vmap(log_w)(start + jnp.arange(chunk_size))), None

    zero = jnp.zeros(())
    starts = jnp.arange(0, num_samples, chunk_size)
    (peak, first, second), _ = jax.lax.scan(chunk, _Sums(-jnp.inf + zero, zero, zero), starts)
    estimate = peak + jnp.log(first) - jnp.log(float(num_samples))
    ess = first**2 / second
    # var(mean w) / mean(w)^2 = (K / ess - 1) / (K - 1)
    relative_variance = jnp.maximum(num_samples / ess - 1, 0) / max(num_samples - 1, 1)
    error = jnp.sqrt(relative_variance) if num_samples > 1 else jnp.full((), jnp.nan)
    return estimate, error, ess


def terms(
    key: PRNGKey,
    model: Model,
    xs: Batch,
    *,
    objective: Objective = objectives.elbo,
    batch_size: int = 500,
) -> Terms:
    """The terms of an objective for every example, as NumPy arrays [N], nats.

    Row i draws from `fold_in(key, i)`: the result does not depend on the batch size.

    Raises:
        InputError: the shapes do not fit the model.
    """
    require_key(key)
    return _stream(_terms, model, key, xs, batch_size=batch_size, objective=objective)


def _terms(model: Model, key: PRNGKey, x: Array, *, objective: Objective) -> Any:
    return objective(key, model, x)


class ActiveUnits(NamedTuple):
    """How much each latent follows the data."""

    variance: Float[np.ndarray, "D"]
    """Variance over examples of the posterior mean of each latent."""
    active: Bool[np.ndarray, "D"]
    """Which of them exceed the threshold."""
    count: int
    """How many do."""


def active_units(
    model: Model,
    xs: Batch,
    *,
    threshold: float = 0.01,
    num_samples: int | None = None,
    batch_size: int = 500,
) -> ActiveUnits:
    """Latents whose posterior mean moves with x: `Var_x(E_q[z_d|x]) > threshold`.

    Args:
        model: any object with `posterior`.
        xs: examples as the model sees them, or a batch.
        threshold: variance above which a latent counts as active.
        num_samples: for posteriors without a closed-form mean, see `posterior_moments`; what the
            draws themselves add to the variance is subtracted.
        batch_size: examples at a time.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.2.
    """
    moments = posterior_moments(model, xs, num_samples=num_samples, batch_size=batch_size)
    means = np.asarray(moments.mean, np.float64)
    variance = means.var(axis=0, ddof=1 if len(means) > 1 else 0)
    if num_samples is not None and num_samples > 1:  # the mean of K draws varies by Var_q / K itself
        noise = np.mean(moments.variance, axis=0, dtype=np.float64) / (num_samples - 1)
        variance = np.maximum(variance - noise, 0)
    active = variance > threshold
    return ActiveUnits(variance, active, int(active.sum()))


class Moments(NamedTuple):
    """Mean and variance of q(z|x), per example and latent."""

    mean: Float[np.ndarray, "N D"]
    variance: Float[np.ndarray, "N D"]


def posterior_moments(
    model: Model, xs: Batch, *, num_samples: int | None = None, batch_size: int = 500
) -> Moments:
    """Mean and variance of q(z|x) for every example, as NumPy arrays [N, D].

    In closed form; or, with `num_samples`, those of so many draws, the same at every call.

    Raises:
        InputError: there is no closed form and `num_samples` is not given.
    """
    key = jax.random.key(0)
    if num_samples is None:
        return Moments(*_stream(_moments, model, key, xs, batch_size=batch_size))
    require_positive(num_samples=num_samples)
    moments = _stream(
        _sample_moments, model, key, xs, batch_size=batch_size, num_samples=num_samples
    )
    return Moments(*moments)


def _moments(model: Model, _: PRNGKey, x: Array) -> tuple[Array, Array]:
    q = model.posterior(x)
    require_one_event(q, "model.posterior(x)")
    try:
        with numpyro_promotion():
            return jnp.asarray(q.mean), jnp.asarray(q.variance)
    except NotImplementedError:
        raise InputError(
            f"model: expected a posterior of known mean and variance, got {describe(q)}; "
            "pass num_samples to estimate them"
        ) from None


def _sample_moments(
    model: Model, key: PRNGKey, x: Array, *, num_samples: int
) -> tuple[Array, Array]:
    q = model.posterior(x)
    require_one_event(q, "model.posterior(x)")
    zs = jax.vmap(lambda k: sample(q, jax.random.fold_in(key, k)))(jnp.arange(num_samples))
    return jnp.mean(zs, axis=0), jnp.var(zs, axis=0)


def kl_per_latent(model: Model, xs: Batch, *, batch_size: int = 500) -> Float[np.ndarray, "D"]:
    """Mean over examples of KL(q(z_d|x) || p(z_d)), nats; they sum to the mean rate.

    Raises:
        InputError: posterior or prior does not factorise over latents, or there is no closed form.
    """
    no_draws = jax.random.key(0)
    kl = _stream(_kl_each, model, no_draws, xs, batch_size=batch_size)
    return np.asarray(kl, np.float64).mean(axis=0)


def _kl_each(model: Model, _: PRNGKey, x: Array) -> Array:
    return kl_each(model.posterior(x), model.prior())


def _stream(
    function: Callable[..., Any],
    model: Model,
    key: PRNGKey,
    xs: Batch,
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Any:
    """`function(model, fold_in(key, i), xs[i], **options)` for every row, as NumPy arrays.

    A batch is a dispatch. The same function and options are compiled once for all calls.

    The last batch is filled up with copies of the last row, so that one compilation serves all.
    """
    require_positive(batch_size=batch_size)
    examples = unpack(xs)
    size = len(examples.x)
    is_pytree = jax.tree.leaves(model) != [model]
    held = model if is_pytree else _Constant(model)
    batch_size = min(batch_size, size)

    parts = []
    named_options = tuple(sorted(options.items()))
    for start in range(0, size, batch_size):
        index = jnp.minimum(jnp.arange(start, start + batch_size), size - 1)
        batch = _batch(function, named_options, held, key, examples, index)
        parts.append(jax.block_until_ready(batch))
        if on_progress:
            on_progress(min(start + batch_size, size))
    return jax.tree.map(lambda *rows: np.concatenate(jax.device_get(rows))[:size], *parts)


@jax.tree_util.register_static
class _Constant:
    """A model that is no pytree: a constant for the compiler."""

    def __init__(self, model: Model):
        self.model = model


@partial(jax.jit, static_argnums=(0, 1))
def _batch(
    function: Callable[..., Any],
    options: tuple[tuple[str, Any], ...],
    held: Model | _Constant,
    key: PRNGKey,
    examples: Examples,
    index: Array,
) -> Any:
    model = held.model if isinstance(held, _Constant) else held

    def one(key: PRNGKey, row: Examples) -> Any:
        return function(bind(model, row.label, row.mask), key, row.x, **dict(options))

    rows = jax.tree.map(lambda column: column[index], examples)
    return jax.vmap(one)(fold_each(key, index), rows)


class LayerKL(NamedTuple):
    """What each layer of a hierarchy costs, as NumPy arrays."""

    mean: Float[np.ndarray, "L"]
    """Mean over examples of `E_q[log q - log p]` of each layer, nats."""
    standard_error: Float[np.ndarray, "L"]
    """Of `mean`, over examples, the Monte Carlo error within it."""


def kl_per_layer(
    key: PRNGKey,
    model: Model,
    xs: Batch,
    *,
    num_samples: int = 1,
    batch_size: int | None = None,
) -> LayerKL:
    """Which layers of a hierarchy carry the rate: `E_q[log q_l - log p_l]` of each, nats.

    q_l is the factor of q(z|x) that draws layer l, p_l the factor of p(z) that does. They sum to the
    Monte Carlo rate of `elbo(kl="monte_carlo")` under the same keys. Where both condition on the
    layers above, as in a ladder, each is an expected KL and not negative; where q climbs, as q(h1|x)
    against p(h1|h2), one of them can be.

    Args:
        key: one typed key.
        model: with chains as prior and posterior, such as `jaxvae.models.hierarchical`.
        xs: examples as the model sees them, [N, *event], or a batch.
        num_samples: K, samples of each example.
        batch_size: examples at a time; by default so many that batch x K is about 1,000.

    Returns:
        `mean` [L] and `standard_error` [L], the layer next to x first.

    Raises:
        InputError: prior and posterior are not chains of the same layers, or a size is below 1.

    Source: Soenderby et al. (2016), "Ladder variational autoencoders", on layers that go unused.
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    batch_size = max(1, 1000 // num_samples) if batch_size is None else batch_size
    kl = _stream(_kl_layers, model, key, xs, batch_size=batch_size, num_samples=num_samples)
    mean, error = zip(*map(mean_and_error, kl.T), strict=True)
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


class Classification(NamedTuple):
    """How often the most probable class is the true one."""

    accuracy: float
    standard_error: float
    """Of the accuracy, sqrt(a (1 - a) / N)."""
    confusion: Int[np.ndarray, "C C"]
    """How many examples of class [i] were taken for class [j]."""


def classification(
    model: Any, xs: Batch, labels: Int[np.ndarray, "N"], *, batch_size: int = 500
) -> Classification:
    """Accuracy of `argmax_y q(y|x)`, for a model with `label_posterior`.

    Args:
        model: such as `models.ssvae`, with `label_posterior(x)` of one example having `logits` [C].
        xs: examples as the model sees them, [N, *event].
        labels: their classes, integers from 0 to C - 1.
        batch_size: examples at a time.

    Returns:
        Accuracy from 0 to 1 with its standard error, and the confusion matrix [C, C].

    Raises:
        InputError: the model has no `label_posterior`, or the labels do not fit.
    """
    if not hasattr(model, "label_posterior"):
        raise InputError(
            "model: expected one with label_posterior, such as models.ssvae, got "
            f"{type(model).__name__}"
        )
    no_draws = jax.random.key(0)
    logits = _stream(_label_logits, model, no_draws, xs, batch_size=batch_size)
    classes = logits.shape[-1]
    labels = require_labels(labels, classes)
    if len(labels) != len(logits):
        raise InputError(f"labels: expected {len(logits)}, one an example, got {len(labels)}")
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    accuracy = float(np.trace(confusion) / len(labels))
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(labels)))
    return Classification(accuracy, error, confusion)


def _label_logits(model: Any, _: PRNGKey, x: Array) -> Array:
    return model.label_posterior(x).logits


class Reliance(NamedTuple):
    """How much a decoder makes of its latents."""

    rate: Float[np.ndarray, "N"]
    """KL(q(z|x) || p(z)) of every example, nats: what z costs."""
    drop: Float[np.ndarray, "N"]
    """E log p(x|z) lost by taking z from q of another example, nats: what z is worth to the decoder."""
    mean_rate: tuple[float, float]
    """Mean and standard error over examples, nats."""
    mean_drop: tuple[float, float]
    """Mean and standard error over examples, nats; neighbours share an example, which the error counts."""
    verdict: Literal["ignored", "used", "undecided"]
    """By whether the drop lies below or above the threshold by three standard errors, or neither."""

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
    """Does the decoder use z, or model x by itself? What z costs beside what it is worth.

    `drop[i] = mean_k (log p(x_i|z_k) - log p(x_i|z'_k))`, `z_k ~ q(z|x_i)`, `z'_k ~ q(z|x_j)`, where j is
    the next example, and the first after the last: about 0 where the decoder ignores z, and exactly 0
    where z has no weight in it. Both are drawn from the same noise. A rate without a drop is wasted;
    a rate near 0 is posterior collapse.

    A decoder strong enough to model x alone, such as an autoregressive one, tends to both. Remedies:
    raise beta from 0 to 1 early in training (`jaxvae.training.linear_warmup`), let each latent have
    some nats for free (`free_bits` of `jaxvae.elbo`) or hold the rate at a `capacity`, or weaken the
    decoder: fewer and narrower layers, `decoder="markov"` of a low order, or one that factorises.

    Args:
        key: one typed key; example i draws from `fold_in(key, i)`.
        model: any object with `prior`, `posterior` and `likelihood`, or with `given`, which returns one.
        xs: two examples or more [N, *event], in an order that says nothing; or a batch, a mapping
            with `x` and, where there are any, `label` and `mask`, which go with their x.
        num_samples: K.
        kl: how the rate is computed: in closed form, or from the samples, as for a flow.
        threshold: how many nats of drop count as use.
        batch_size: examples at a time.

    Returns:
        `rate` [N] and `drop` [N], their means with standard errors, and the verdict; `str` says it all.

    Raises:
        InputError: there are fewer than two examples, an option or a shape is not usable, or no
            closed form of the rate is known.

    Source: Bowman et al. (2016), "Generating sentences from a continuous space", for the collapse
    and warm-up; Kingma et al. (2016), "Improved variational inference with inverse autoregressive
    flow", for free bits. Departs from the source: they look at the rate alone, which says what the
    encoder puts into z, not what the decoder takes from it.
    """
    require_key(key)
    require_positive(num_samples=num_samples, batch_size=batch_size)
    if kl not in ("analytic", "monte_carlo"):
        raise InputError(f'kl: expected "analytic" or "monte_carlo", got {kl!r}')
    examples = unpack(xs)
    if len(examples.x) < 2:
        raise InputError("xs: expected two examples or more, to exchange their latents, got one")
    held = model if jax.tree.leaves(model) != [model] else _Constant(model)
    pairs = jax.tree.map(lambda column: jnp.stack([column, jnp.roll(column, -1, 0)], 1), examples)
    rate, drop = jax.device_get(_reliance(held, key, pairs, num_samples, kl, batch_size))
    mean, error = drop_of = _mean_and_error_of_neighbours(drop)
    verdict = "undecided"
    if abs(mean - threshold) >= 3 * error:
        verdict = "used" if mean > threshold else "ignored"
    return Reliance(rate, drop, mean_and_error(rate), drop_of, verdict)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _reliance(
    held: Any, key: PRNGKey, pairs: Examples, num_samples: int, kl: str, batch_size: int
) -> tuple[Array, Array]:
    model = held.model if isinstance(held, _Constant) else held

    def one(key: PRNGKey, pair: Examples) -> tuple[Array, Array]:
        own = jax.tree.map(lambda column: column[0], pair)
        bound = bind(model, own.label, own.mask)

        def draw(row: Examples) -> tuple[Array, Array]:
            q = bind(model, row.label, row.mask).posterior(row.x)
            require_latents(q, bound.prior())
            return jax.vmap(lambda k: sample_with_log_prob(q, jax.random.fold_in(key, k)))(ks)

        ks = jnp.arange(num_samples)
        z, log_q = jax.vmap(draw)(pair)  # [2, K, ..]: of its own and of the other example
        log_p = jax.vmap(jax.vmap(lambda z: log_p_x_given_z(bound, own.x, z)))(z)
        drop = jnp.mean(log_p[0] - log_p[1])
        if kl == "analytic":
            return analytic_kl(bound.posterior(own.x), bound.prior()), drop
        return jnp.mean(log_q[0] - jax.vmap(lambda z: log_prob(bound.prior(), z))(z[0])), drop

    return map_examples(one, key, pairs, batch_size=batch_size)


def _mean_and_error_of_neighbours(values: Float[np.ndarray, "N"]) -> tuple[float, float]:
    """Mean and standard error in a ring where neighbours are dependent, positively at worst."""
    values = np.asarray(values, np.float64)
    mean, _ = mean_and_error(values)
    rest = values - mean
    variance = (rest @ rest + 2 * max(rest @ np.roll(rest, -1), 0)) / (len(rest) - 1)
    return mean, float(np.sqrt(variance / len(rest)))
