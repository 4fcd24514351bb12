"""Semi-amortised inference: gradient steps on the parameters of q(z|x), from those of the encoder."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae import objectives
from jaxvae.checks import require_choice, require_key, require_number, require_positive
from jaxvae.distributions import describe, log_prob
from jaxvae.inference.families import Diagonal, family_of, require_real_latent
from jaxvae.log_weights import log_p_x_given_z, require_latents
from jaxvae.types import InputError, Model, Objective, PRNGKey, Terms

Metric: TypeAlias = Literal["euclidean", "natural"]
Through: TypeAlias = Literal["all", "first_order"]


class WithPosterior(NamedTuple):
    """A model with a given q, with which any objective can be evaluated at that q."""

    model: Model
    q: Distribution

    def prior(self) -> Distribution:
        """p(z)."""
        return self.model.prior()

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """The given q, for every x."""
        del x
        return self.q

    def likelihood(self, z: Float[Array, "D"]) -> Distribution:
        """p(x|z)."""
        return self.model.likelihood(z)


def diagonal_elbo(
    model: Model, x: Float[Array, "*event"], q: Diagonal, noise: Float[Array, "S D"]
) -> Float[Array, ""]:
    """The ELBO of a diagonal normal on given noise, a deterministic function of its parameters, nats.

    `mean_s [log p(x|z_s) + log p(z_s)] + H(q)`, `z_s = mean + exp(log_scale) * noise[s]`, with the
    entropy in closed form.
    """
    p = model.prior()

    def log_joint(e: Array) -> Array:
        z = q.mean + jnp.exp(q.log_scale) * e
        return log_p_x_given_z(model, x, z) + log_prob(p, z)

    entropy = jnp.sum(q.log_scale) + 0.5 * q.mean.size * (1 + jnp.log(2 * jnp.pi))
    return jnp.mean(jax.vmap(log_joint)(noise)) + entropy


def encoded(model: Model, x: Float[Array, "*event"]) -> Diagonal:
    """Return the parameters of the encoder's q(z|x).

    Raises:
        InputError: q(z|x) is not a diagonal normal, or not over the same real vectors as the prior.
    """
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)
    require_real_latent(p)
    if family_of(q) != "diagonal":
        raise InputError(
            "model: expected a posterior that is a diagonal normal, whose mean and scale the steps "
            f"are on, got {describe(q)}; jv.inference.fit_posterior fits other families"
        )
    return Diagonal(jnp.asarray(q.mean), 0.5 * jnp.log(jnp.asarray(q.variance)))


def refine(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    num_refinements: int,
    step_size: float,
    num_samples: int = 1,
    momentum: float = 0.0,
    metric: Metric = "euclidean",
    through: Through = "all",
) -> Distribution:
    """Return the encoder's q(z|x) after gradient ascent of the ELBO of this x in its mean and log scale.

        velocity <- momentum * velocity + gradient of ELBO[q]
        parameters <- parameters + step_size * velocity

    Args:
        key: one typed key; step t draws from `fold_in(key, t)`.
        model: any object with `prior`, `posterior`, a diagonal normal, and `likelihood`.
        x: one example.
        num_refinements: T, the number of steps.
        step_size: the size of each step. With the natural gradient, 1 is Newton's step for the mean of a
            normal posterior, and 0.1 to 0.5 are good first choices; with the plain gradient it must be
            below about twice the smallest variance of p(z|x).
        num_samples: S, samples of the ELBO in each step.
        momentum: a number from 0 to below 1.
        metric: "euclidean", the plain gradient; "natural", the gradient divided by q's Fisher information,
            `1 / scale^2` for the mean and 2 for the log scale, so that a step is relative to q's scale.
        through: the path of gradients of the result: "all", through the steps and everything they depend
            on, including second derivatives of the decoder; "first_order", to the encoder's parameters
            alone, with the steps as constants.

    Returns:
        q(z), a diagonal normal.

    Raises:
        InputError: q(z|x) is not a diagonal normal, or an option is invalid.

    >>> import jaxvae as jv
    >>> model, x = jv.testing.linear_gaussian(), jnp.ones(3)
    >>> q = refine(jax.random.key(0), model, x, num_refinements=5, step_size=0.1)
    >>> q.event_shape
    (2,)

    Source: Kim et al. (2018), "Semi-amortized variational autoencoders", algorithm 1.
    Departs from the source: gradients are not clipped; the natural gradient is another means against
    divergence.
    """
    require_key(key)
    _require_steps(num_refinements, step_size, num_samples, momentum, metric, through)
    start = encoded(model, x)

    def step(carry: tuple[Diagonal, Diagonal], t: Array) -> tuple[tuple[Diagonal, Diagonal], None]:
        q, velocity = carry
        noise = jax.random.normal(jax.random.fold_in(key, t), (num_samples, q.mean.size))
        gradient = jax.grad(diagonal_elbo, argnums=2)(model, x, q, noise)
        if metric == "natural":
            gradient = Diagonal(jnp.exp(2 * q.log_scale) * gradient.mean, 0.5 * gradient.log_scale)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient)
        if through == "first_order":
            velocity = stop_gradient(velocity)
        return (jax.tree.map(lambda a, v: a + step_size * v, q, velocity), velocity), None

    still = jax.tree.map(jnp.zeros_like, start)
    (q, _), _ = jax.lax.scan(step, (start, still), jnp.arange(num_refinements))
    return q.distribution()


def semi_amortised(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    num_refinements: int,
    step_size: float,
    num_samples: int = 1,
    momentum: float = 0.0,
    metric: Metric = "euclidean",
    through: Through = "all",
    objective: Objective = objectives.elbo,
) -> Terms | Float[Array, ""]:
    """Evaluate an objective at the refined q instead of the encoder's q.

    `objective(key', model with q_T, x)`, where q_T is the result of `refine`. Its samples are independent
    of those of the steps, so that its bound is valid.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior`, a diagonal normal, and `likelihood`.
        x: one example.
        num_refinements: T; see `refine`, also for the next five arguments.
        step_size: the size of each step.
        num_samples: S, samples of the ELBO in each step.
        momentum: a number from 0 to below 1.
        metric: "euclidean" or "natural".
        through: "all" trains encoder and decoder end to end; "first_order" needs no second
            derivatives.
        objective: the objective at q_T, such as `functools.partial(jv.iwae, num_samples=5)`.

    Returns:
        The result of the objective: `Terms` of scalars, nats, for the ELBO.

    Raises:
        InputError: q(z|x) is not a diagonal normal, or an option is invalid.

    >>> import jaxvae as jv
    >>> model, x, key = jv.testing.linear_gaussian(), jnp.ones(3), jax.random.key(0)
    >>> steps = {"num_refinements": 20, "step_size": 0.3, "metric": "natural", "num_samples": 100}
    >>> bool(semi_amortised(key, model, x, **steps).bound > jv.elbo(key, model, x).bound)
    True

    Source: Kim et al. (2018), "Semi-amortized variational autoencoders".
    Departs from the source: the derivatives of the steps are exact, not finite differences; see
    `refine`.
    """
    require_key(key)
    steps_key, objective_key = jax.random.split(key)
    q = refine(
        steps_key,
        model,
        x,
        num_refinements=num_refinements,
        step_size=step_size,
        num_samples=num_samples,
        momentum=momentum,
        metric=metric,
        through=through,
    )
    return objective(objective_key, WithPosterior(model, q), x)


def _require_steps(
    num_refinements: int,
    step_size: float,
    num_samples: int,
    momentum: float,
    metric: Any,
    through: Any,
) -> None:
    require_positive(num_refinements=num_refinements, num_samples=num_samples)
    require_number("step_size", step_size, above=0)
    require_number("momentum", momentum, at_least=0, below=1)
    require_choice("metric", metric, ("euclidean", "natural"))
    require_choice("through", through, ("all", "first_order"))
