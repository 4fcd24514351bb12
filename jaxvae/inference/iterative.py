"""Iterative amortised inference: q(z|x) optimised by a learned update network."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.lax import stop_gradient
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae import objectives
from jaxvae.checks import require_choice, require_key, require_positive
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.inference.families import Diagonal, require_real_latent
from jaxvae.inference.fit_posterior import Start
from jaxvae.inference.refinement import WithPosterior, diagonal_elbo, encoded
from jaxvae.networks import MLP, Activation
from jaxvae.types import InputError, Model, Objective, PRNGKey, Terms

Over: TypeAlias = Literal["mean", "sum", "last"]

LOG_SCALES = (-7.5, 2.5)
"""The limits of a log scale; beyond them one bad step would be irrecoverable."""

FINENESS = 10.0
"""Gradients of a magnitude up to exp(-10) are scaled linearly, larger ones enter by sign and logarithm."""


class Iterative(nnx.Module):
    """A model with q(z|x) from T updates by a network, instead of one pass of an encoder.

        g_t         = gradient of ELBO[q_t] in its parameters l_t = (mean, log_scale), on fixed noise
        f, gate     = network(l_t, g_t by sign and logarithm [, x - E[x|z = mean]])
        l_(t+1)     = sigmoid(gate) * l_t + (1 - sigmoid(gate)) * f

    The noise is drawn once, when the model is made, so that `posterior(x)` is deterministic: it is an
    encoder that uses the decoder. Every objective and evaluation accepts the model; bounds remain valid,
    since their samples of q are independent of the noise. `posteriors(x)` returns q of all iterations.
    Prior and likelihood are those of the wrapped model.

    Args:
        model: a model with `prior` and `likelihood` and, for start="encoder", a `posterior` that is a
            diagonal normal.
        update: the network, from its inputs to 4 D numbers.
        noise: fixed standard normal noise [S, D].
        num_iterations: T.
        start: the source of q_0: "encoder" or "prior".
        errors: whether `x - E[x|z = mean]` is also an input of the network.
    """

    def __init__(
        self,
        model: Model,
        update: MLP,
        noise: Float[Array, "S D"],
        *,
        num_iterations: int,
        start: Start,
        errors: bool,
    ):
        self.model, self.update = model, update
        self.noise = nnx.Variable(noise)
        self.num_iterations, self.start, self.errors = num_iterations, start, errors

    def prior(self) -> Distribution:
        """p(z)."""
        return self.model.prior()

    def likelihood(self, z: Float[Array, "D"]) -> Distribution:
        """p(x|z)."""
        return self.model.likelihood(z)

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """q_T(z|x), the last iteration."""
        return jax.tree.map(lambda rows: rows[-1], self.parameters(x)).distribution()

    def posteriors(self, x: Float[Array, "*event"]) -> Distribution:
        """Return q_0 to q_T, as a distribution with a leading axis T + 1 in its arrays."""
        return jax.vmap(Diagonal.distribution)(self.parameters(x))

    def parameters(self, x: Float[Array, "*event"]) -> Diagonal:
        """Return means and log scales of q_0 to q_T, each [T + 1, D]."""
        first = encoded(self.model, x) if self.start == "encoder" else _of_prior(self.model)

        def step(q: Diagonal, _: None) -> tuple[Diagonal, Diagonal]:
            q = self._next(x, q)
            return q, q

        _, rest = jax.lax.scan(step, first, length=self.num_iterations)
        return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)

    def _next(self, x: Array, q: Diagonal) -> Diagonal:
        at = stop_gradient((self.model, q, self.noise[...]))
        gradient = jnp.concatenate(jax.grad(diagonal_elbo, argnums=2)(at[0], x, *at[1:]))
        seen = [*q, *_by_sign_and_logarithm(gradient)]
        if self.errors:
            seen.append(stop_gradient(_error(at[0], x, at[1].mean)))
        mean, log_scale, *gates = jnp.split(self.update(jnp.concatenate(seen)), 4)
        gate, scale_gate = map(jax.nn.sigmoid, gates)
        log_scale = scale_gate * q.log_scale + (1 - scale_gate) * log_scale
        return Diagonal(gate * q.mean + (1 - gate) * mean, jnp.clip(log_scale, *LOG_SCALES))


def iterative(
    key: PRNGKey,
    model: Model,
    *,
    num_iterations: int = 5,
    hidden: tuple[int, ...] = (128, 128),
    activation: Activation = "elu",
    num_samples: int = 8,
    start: Start = "encoder",
    errors: bool = False,
) -> Iterative:
    """Return a model with a learned optimiser as inference, which replaces or continues the encoder of `model`.

    Args:
        key: one typed key, for the initial weights and the fixed noise.
        model: an `nnx.Module` with `prior`, `likelihood` and, for start="encoder", `posterior`.
        num_iterations: T, the number of updates of q.
        hidden: widths of the hidden layers of the update network.
        activation: the nonlinearity of the update network.
        num_samples: S, samples of the ELBO whose gradient is the network's input; an even number, in
            pairs of opposite sign.
        start: "encoder", start at the model's own q(z|x), whose encoder is trained jointly; "prior",
            start at the mean and variance of the prior, without the model's encoder.
        errors: whether `x - E[x|z = mean]` is also an input of the network.

    Returns:
        A model, to be trained with `iterative_elbo` or any other objective.

    Raises:
        InputError: the latent is not a vector of reals, the model is not an `nnx.Module`, or an option is
            invalid; when q is computed, if start="prior" and the prior has no known mean and variance.

    >>> import jaxvae as jv
    >>> base = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> model = iterative(jax.random.key(1), base, num_iterations=3, hidden=(16,))
    >>> model.parameters(jnp.ones(4)).mean.shape
    (4, 2)

    Source: Marino, Yue and Mandt (2018), "Iterative amortized inference"; Andrychowicz et al. (2016),
    "Learning to learn by gradient descent by gradient descent", for gradients by sign and logarithm.
    Departs from the source: noise is drawn once, not at every step, so that inference is a function
    of x; the gradient flows from each q_t into the steps before it (but not through the gradients
    that are inputs of the network); q_0 is the encoder's by default, while the source gives x itself to
    the network.
    """
    require_key(key)
    require_positive(num_iterations=num_iterations, num_samples=num_samples)
    if num_samples % 2:
        raise InputError(
            f"num_samples: expected an even number, pairs of opposites, got {num_samples}"
        )
    require_choice("start", start, ("encoder", "prior"))
    if not isinstance(model, nnx.Module):
        raise InputError(f"model: expected a flax.nnx.Module, got {type(model).__name__}")
    require_real_latent(model.prior())
    (size,) = model.prior().event_shape
    event = jax.eval_shape(lambda: _mean(model, jnp.zeros(size)))
    weights_key, noise_key = jax.random.split(key)
    inputs = 6 * size + (event.size if errors else 0)
    update = MLP(inputs, hidden, 4 * size, activation=activation, rngs=nnx.Rngs(weights_key))
    half = jax.random.normal(noise_key, (num_samples // 2, size))
    noise = jnp.concatenate([half, -half])
    return Iterative(
        model, update, noise, num_iterations=num_iterations, start=start, errors=errors
    )


def iterative_elbo(
    key: PRNGKey,
    model: Iterative,
    x: Float[Array, "*event"],
    *,
    over: Over = "mean",
    objective: Objective = objectives.elbo,
) -> Terms:
    """The objective averaged over q_1 to q_T on the same noise, so that every iteration is trained, not only the last.

    `objective = mean_t objective_t` (or their sum, or the last). `bound`, distortion and rate are those
    of q_T, the posterior of the model; for "mean" and "sum" `objective` therefore differs from `bound`.

    Args:
        key: one typed key.
        model: from `iterative`.
        x: one example.
        over: "mean", "sum" or "last".
        objective: the objective of one q, such as `functools.partial(jv.elbo, kl="monte_carlo")`.

    Returns:
        `Terms` of scalars, nats.

    Raises:
        InputError: the model is not an `Iterative`, or `over` is unknown.

    Source: Marino, Yue and Mandt (2018), "Iterative amortized inference", algorithm 1.
    """
    require_key(key)
    if not isinstance(model, Iterative):
        raise InputError(
            f"model: expected one from jv.inference.iterative, got {type(model).__name__}"
        )
    require_choice("over", over, ("mean", "sum", "last"))
    if over == "last":
        return objective(key, model, x)  # pyright: ignore[reportReturnType]
    after = jax.tree.map(lambda rows: rows[1:], model.parameters(x))

    def one(q: Diagonal) -> Any:
        return objective(key, WithPosterior(model, q.distribution()), x)

    each = jax.vmap(one)(after)
    total = jnp.mean(each.objective) if over == "mean" else jnp.sum(each.objective)
    return jax.tree.map(lambda rows: rows[-1], each)._replace(objective=total)


def _of_prior(model: Model) -> Diagonal:
    """Return the mean and log scale of the prior, without gradient."""
    p = model.prior()
    try:
        with numpyro_promotion():
            mean, variance = jnp.asarray(p.mean), jnp.asarray(p.variance)
    except NotImplementedError:
        raise InputError(
            'start: expected "encoder", since the mean and variance of the prior are not known, got '
            '"prior"'
        ) from None
    return stop_gradient(Diagonal(mean, 0.5 * jnp.log(variance)))


def _by_sign_and_logarithm(g: Float[Array, "N"]) -> tuple[Array, Array]:
    """Return `(log|g| / p, sign g)`, or `(-1, exp(p) g)` for |g| <= exp(-p), p = 10: of order 1 at any scale of g."""
    large = jnp.abs(g) > jnp.exp(-FINENESS)
    logarithm = jnp.log(jnp.where(large, jnp.abs(g), 1.0)) / FINENESS
    return jnp.where(large, logarithm, -1.0), jnp.where(large, jnp.sign(g), jnp.exp(FINENESS) * g)


def _mean(model: Model, z: Array) -> Array:
    with numpyro_promotion():
        return jnp.asarray(model.likelihood(z).mean)


def _error(model: Model, x: Array, z: Array) -> Float[Array, "E"]:
    error = (x - _mean(model, z)).reshape(-1)
    # Standardised, so that the input does not depend on the unit of x.
    return error / jnp.sqrt(jnp.mean(error**2) + 1e-12)
