"""Optimisation of q(z) within a family for one example, with the model fixed."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient
from jax.sharding import NamedSharding
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.batching import Examples, deal_out, layout_of, map_examples, unpack
from jaxvae.binding import bind
from jaxvae.checks import known_number, require_choice, require_key, require_positive
from jaxvae.distributions import log_prob, require_one_event, sample_with_log_prob
from jaxvae.inference.families import (
    Family,
    FamilyName,
    Flowing,
    begin,
    moments,
    require_family,
    require_real_latent,
    slowed,
)
from jaxvae.log_weights import log_p_x_given_z, over_samples, require_latents
from jaxvae.types import Batch, Model, PRNGKey

Start: TypeAlias = Literal["encoder", "prior"]

CHUNK_SIZE = 100
"""Samples per chunk of the final bound, so that memory does not grow with their number."""


class FittedPosterior(NamedTuple):
    """The fitted q(z) of one example."""

    posterior: Distribution
    """q(z) over one latent."""
    bound: Float[Array, ""]
    """The ELBO of q, estimated from samples that were not used in the optimisation, nats."""
    standard_error: Float[Array, ""]
    """The standard error of `bound`, from the spread of the samples, nats."""
    history: Float[Array, "num_steps"]
    """The ELBO on the samples of each step, nats."""


class FitOptions(NamedTuple):
    """The options of the optimisation of q; hashable, so that they can be a static argument."""

    family: FamilyName
    num_steps: int
    num_samples: int
    learning_rate: float
    start: Start


def fit_posterior(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    family: FamilyName = "diagonal",
    num_steps: int = 500,
    num_samples: int = 8,
    learning_rate: float = 0.05,
    start: Start = "encoder",
    num_bound_samples: int = 1000,
) -> FittedPosterior:
    """Fit the q(z) of a family with the highest ELBO for one x, without amortisation.

    `q* = argmax_q E_q[log p(x, z) - log q(z)]`, by Adam on `num_samples` reparameterised samples per
    step, with a learning rate that decays to 0 along a cosine, so that sampling noise does not perturb
    the final q. The gradient for the normal families omits the score term ("stl"): at the optimum it
    has no variance if the family contains the exact posterior. The optimum is local; if p(z|x) has
    several modes, it can depend on `start`. A flow needs more steps than a normal to come equally close
    to its optimum.

    Args:
        key: one typed key.
        model: any object with `prior`, `likelihood` and, for start="encoder", `posterior`; `bind` a
            label or a mask to it first.
        x: one example; vmap over keys and examples, or see `fit_posteriors`.
        family: "diagonal", a normal with independent entries; "full", a normal with any covariance;
            "flow", spline couplings of even and odd entries, then the affine map of "full".
        num_steps: number of updates of q.
        num_samples: samples per step.
        learning_rate: learning rate of the first step.
        start: "encoder" or "prior": initialise q with the mean and variance of the model's q(z|x), or of
            the prior; estimated from 256 samples if they have no closed form.
        num_bound_samples: samples of the final bound.

    Returns:
        `posterior`, its `bound` with a `standard_error`, nats, and the `history` of the bound.

    Raises:
        InputError: the latent is not a vector of reals, or an option or a shape is invalid.

    >>> import jaxvae as jv
    >>> model, x = jv.testing.linear_gaussian(full=True), jnp.ones(3)
    >>> fit = fit_posterior(jax.random.key(0), model, x, family="full")
    >>> bool(jnp.allclose(fit.bound, model.log_evidence(x), atol=1e-3))
    True

    Source: Hoffman et al. (2013), "Stochastic variational inference"; Cremer, Li and Duvenaud
    (2018), "Inference suboptimality in variational autoencoders"; Roeder, Wu and Duvenaud (2017),
    "Sticking the landing".
    """
    require_key(key)
    require_positive(num_bound_samples=num_bound_samples)
    options = require_options(FitOptions(family, num_steps, num_samples, learning_rate, start))
    if jax.tree.leaves(model) != [model]:
        return _compiled(key, model, x, options, num_bound_samples)

    def of_constant(key: PRNGKey, x: Array) -> FittedPosterior:
        return _fit_and_bound(key, model, x, options, num_bound_samples)

    return jax.jit(of_constant)(key, x)  # only pytrees can be arguments of compiled code


def fit_posteriors(
    key: PRNGKey,
    model: Any,
    xs: Batch,
    *,
    family: FamilyName = "diagonal",
    num_steps: int = 500,
    num_samples: int = 8,
    learning_rate: float = 0.05,
    start: Start = "encoder",
    num_bound_samples: int = 1000,
    batch_size: int = 100,
) -> FittedPosterior:
    """Run `fit_posterior` on every example, with the memory of `batch_size` examples.

    Example i draws from `fold_in(key, i)`: the result does not depend on the batch size.

    Args:
        key: one typed key.
        model: a model for `fit_posterior`, or an object whose `given` returns one; a pytree.
        xs: examples [N, *event], or a batch: a mapping with `x` and optionally `label` and `mask`.
        family: see `fit_posterior`, also for the next five arguments.
        num_steps: number of updates of each q.
        num_samples: samples per step.
        learning_rate: learning rate of the first step.
        start: "encoder" or "prior".
        num_bound_samples: samples of each final bound.
        batch_size: examples at a time.

    Returns:
        A `FittedPosterior` whose arrays, including those inside `posterior`, have a leading axis N: vmap
        a function of one q over it.

    Raises:
        InputError: the same cases as for `fit_posterior`.

    >>> import jaxvae as jv
    >>> model = jv.testing.linear_gaussian()
    >>> fit_posteriors(jax.random.key(0), model, jnp.ones((5, 3)), num_steps=10).bound.shape
    (5,)
    """
    require_key(key)
    require_positive(num_bound_samples=num_bound_samples, batch_size=batch_size)
    options = require_options(FitOptions(family, num_steps, num_samples, learning_rate, start))
    examples = unpack(xs)
    layout = layout_of(examples.x)
    examples, model, key = deal_out(layout, examples, model, key)
    return _fit_all(key, model, examples, options, num_bound_samples, batch_size, layout)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _fit_all(
    key: PRNGKey,
    model: Any,
    examples: Examples,
    options: FitOptions,
    num_bound_samples: int,
    batch_size: int,
    layout: NamedSharding | None,
) -> FittedPosterior:
    def one(key: PRNGKey, row: Examples) -> FittedPosterior:
        plain = bind(model, row.label, row.mask)
        return _fit_and_bound(key, plain, row.x, options, num_bound_samples)

    return map_examples(one, key, examples, batch_size=batch_size, layout=layout)


def _fit_and_bound(
    key: PRNGKey, model: Model, x: Array, options: FitOptions, num_bound_samples: int
) -> FittedPosterior:
    fit_key, bound_key = jax.random.split(key)
    found, history, _ = optimise(fit_key, model, x, options)
    q = found.distribution()
    log_w = log_weights(bound_key, model, x, q, num_bound_samples)
    return FittedPosterior(q, jnp.mean(log_w), error_of_mean(log_w), history)


_compiled = jax.jit(_fit_and_bound, static_argnums=(3, 4))


def optimise(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    options: FitOptions,
    watch: Callable[[Any], Any] = lambda family: None,
) -> tuple[Family, Float[Array, "num_steps"], Any]:
    """Return the final parameters, the ELBO on the samples of each step, and `watch` of the parameters before each."""
    start_key, step_key = jax.random.split(key)
    family = started(start_key, model, x, options)
    rate = optax.cosine_decay_schedule(options.learning_rate, options.num_steps)
    # Gradients shrink by orders of magnitude during the fit; a longer memory of them would stall Adam.
    optimizer = optax.adam(rate, b2=0.99)

    def step(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], tuple[Array, Any]]:
        family, state = carry
        key = jax.random.fold_in(step_key, t)
        loss, gradient = jax.value_and_grad(_loss)(family, key, model, x, options.num_samples)
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes int and float
            updates, state = optimizer.update(gradient, state, family)
        updates = slowed(updates)
        return (optax.apply_updates(family, updates), state), (-loss, watch(family))

    start = family, optimizer.init(family)  # pyright: ignore[reportArgumentType]
    (family, _), (history, seen) = jax.lax.scan(step, start, jnp.arange(options.num_steps))
    return family, history, seen


def started(key: PRNGKey, model: Model, x: Float[Array, "*event"], options: FitOptions) -> Family:
    """Return the initial member of the family, with the moments of the encoder's q(z|x) or of the prior.

    Raises:
        InputError: the latent is not a vector of reals, or the encoder's latent differs from the prior's.
    """
    moments_key, weights_key = jax.random.split(key)
    p = model.prior()
    require_one_event(p, "model.prior()")
    require_real_latent(p)
    q = p if options.start == "prior" else model.posterior(x)
    require_latents(q, p)
    mean, scale = stop_gradient(moments(moments_key, q))
    return begin(weights_key, options.family, mean, scale)


def _loss(
    family: Family, key: PRNGKey, model: Model, x: Array, num_samples: int
) -> Float[Array, ""]:
    q, p = family.distribution(), model.prior()
    fixed = stop_gradient(q)

    def log_w(k: Array) -> Array:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        # log q depends on the parameters through z only, which omits the score term, a source of noise.
        # For a flow this would require its inverse.
        log_q = log_q if isinstance(family, Flowing) else log_prob(fixed, z)
        return log_p_x_given_z(model, x, z) + log_prob(p, z) - log_q

    return -jnp.mean(jax.vmap(log_w)(jnp.arange(num_samples)))


def log_weights(
    key: PRNGKey, model: Model, x: Float[Array, "*event"], q: Distribution, num_samples: int
) -> Float[Array, "K"]:
    """Return the log-weights `log p(x, z_k) - log q(z_k)` of K samples of q, nats; z_k draws from `fold_in(key, k)`."""
    p = model.prior()

    def log_w(k: Array) -> Array:
        z, log_q = sample_with_log_prob(q, jax.random.fold_in(key, k))
        return log_p_x_given_z(model, x, z) + log_prob(p, z) - log_q

    return over_samples(jax.vmap(log_w), jnp.arange(num_samples), CHUNK_SIZE)


def error_of_mean(values: Float[Array, "K"]) -> Float[Array, ""]:
    """Return the standard error of the mean, sd / sqrt(K); NaN for one value."""
    if values.size == 1:
        return jnp.full((), jnp.nan)
    return jnp.std(values, ddof=1) / jnp.sqrt(float(values.size))


def require_options(options: FitOptions) -> FitOptions:
    """Return the options unchanged if they are valid.

    Raises:
        InputError: an option is invalid.
    """
    require_family(options.family)
    require_positive(num_steps=options.num_steps, num_samples=options.num_samples)
    learning_rate = known_number("learning_rate", options.learning_rate, above=0)
    require_choice("start", options.start, ("encoder", "prior"))
    return options._replace(learning_rate=learning_rate)
