"""q(z|x) refined by gradient steps on its own parameters, starting from the encoder's: semi-amortised."""

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
from jaxvae.sampling import log_likelihood, require_latents
from jaxvae.types import InputError, Model, Objective, PRNGKey, Terms

Metric: TypeAlias = Literal["euclidean", "natural"]
Through: TypeAlias = Literal["all", "first_order"]


class WithPosterior(NamedTuple):
    """A model whose q(z|x) is given: what any objective needs to judge a q found by other means."""

    model: Model
    q: Distribution

    def prior(self) -> Distribution:
        """p(z)."""
        return self.model.prior()

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """The q that was given, whatever x."""
        del x
        return self.q

    def likelihood(self, z: Float[Array, "D"]) -> Distribution:
        """p(x|z)."""
        return self.model.likelihood(z)


def diagonal_elbo(
    model: Model, x: Float[Array, "*event"], q: Diagonal, noise: Float[Array, "S D"]
) -> Float[Array, ""]:
    """The ELBO of a diagonal normal on given noise, a deterministic function of its parameters, nats.

    `mean_s [log p(x|z_s) + log p(z_s)] + H(q)`, `z_s = mean + exp(log_scale) * noise[s]`, the entropy
    in closed form.
    """
    p = model.prior()

    def log_joint(e: Array) -> Array:
        z = q.mean + jnp.exp(q.log_scale) * e
        return log_likelihood(model, x, z) + log_prob(p, z)

    entropy = jnp.sum(q.log_scale) + 0.5 * q.mean.size * (1 + jnp.log(2 * jnp.pi))
    return jnp.mean(jax.vmap(log_joint)(noise)) + entropy


def encoded(model: Model, x: Float[Array, "*event"]) -> Diagonal:
    """The parameters of the encoder's q(z|x).

    Raises:
        InputError: it is no diagonal normal, or not over the same reals as the prior.
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
    """The encoder's q(z|x) after gradient steps of its own mean and log scale up the ELBO of this x.

        velocity <- momentum * velocity + gradient of ELBO[q]
        parameters <- parameters + step_size * velocity

    Args:
        key: one typed key; step t draws from `fold_in(key, t)`.
        model: any object with `prior`, `posterior`, a diagonal normal, and `likelihood`.
        x: one example.
        num_refinements: T, how many steps.
        step_size: of each; with the natural gradient 1 is Newton's for the mean of a normal posterior,
            0.1 to 0.5 a good start; with the plain one it must lie below about twice the smallest
            variance of p(z|x).
        num_samples: S, of the ELBO of each step.
        momentum: from 0 to below 1.
        metric: "euclidean", the plain gradient; "natural", that divided by q's Fisher information,
            `1 / scale^2` for the mean and 2 for the log scale, so that a step is in units of q itself.
        through: what a gradient of the result sees: "all", the steps and what they depend on, second
            derivatives of the decoder included; "first_order", the encoder's parameters as if the
            steps were constants.

    Returns:
        q(z), a diagonal normal.

    Raises:
        InputError: q(z|x) is no diagonal normal, or an option is not usable.

    >>> import jaxvae as jv
    >>> model, x = jv.testing.linear_gaussian(), jnp.ones(3)
    >>> q = refine(jax.random.key(0), model, x, num_refinements=5, step_size=0.1)
    >>> q.event_shape
    (2,)

    Source: Kim et al. (2018), "Semi-amortized variational autoencoders", algorithm 1.
    Departs from the source: gradients are not clipped; the natural gradient is another way to steps
    that do not diverge.
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
    """An objective at the refined q instead of the encoder's: a start by the encoder, the rest by steps.

    `objective(key', model with q_T, x)`, where q_T is the result of `refine`. Its samples are not those
    of the steps, so its bound is an honest one.

    Args:
        key: one typed key.
        model: any object with `prior`, `posterior`, a diagonal normal, and `likelihood`.
        x: one example.
        num_refinements: T; see `refine`, as for the next five.
        step_size: of each step.
        num_samples: S, of the ELBO of each step.
        momentum: from 0 to below 1.
        metric: "euclidean" or "natural".
        through: "all" trains encoder and decoder end to end; "first_order" costs no second
            derivatives.
        objective: what is evaluated at q_T, such as `functools.partial(jv.iwae, num_samples=5)`.

    Returns:
        What the objective returns: `Terms` of scalars, nats, for the ELBO.

    Raises:
        InputError: q(z|x) is no diagonal normal, or an option is not usable.

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
