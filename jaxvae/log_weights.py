"""K samples of q(z|x), their log-densities and their log-weights, from which every bound and estimator is made."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num
from numpyro.distributions import (
    Delta,
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from jaxvae import bounds
from jaxvae.checks import require_key, require_positive
from jaxvae.distributions import (
    analytic_entropy,
    analytic_kl,
    describe,
    log_prob,
    require_event,
    require_one_event,
    sample,
    sample_with_log_prob,
)
from jaxvae.types import AnyArray, InputError, Model, PRNGKey, Scalar

Bound: TypeAlias = Callable[[Float[Array, "K"]], Float[Array, ""]]
KL: TypeAlias = Literal["analytic", "entropy", "monte_carlo"]
Path: TypeAlias = Literal["live", "stopped"] | Float[Array, "K"]


class Samples(NamedTuple):
    """K latents with their log-densities, each [K], in nats."""

    q: Distribution
    p: Distribution
    z: Num[Array, "K *latent"]
    log_p_x_z: Float[Array, "K"]
    log_p_z: Float[Array, "K"]
    log_q_z_x: Float[Array, "K"]
    weight: Float[Array, "K"] | None = None
    """The probability of each latent, where they are not draws of q but all of its states."""

    @property
    def log_w(self) -> Float[Array, "K"]:
        """`log p(x, z_k) - log q(z_k | x)`."""
        # Written as in `Problem.log_w`, so that the compiler merges the two.
        return self.log_p_x_z - (self.log_q_z_x - self.log_p_z)

    def mean(self, values: Float[Array, "K"]) -> Float[Array, ""]:
        """Return the expectation of a function of z under q, from its values at the latents."""
        return jnp.mean(values) if self.weight is None else jnp.sum(self.weight * values)


class Rate(NamedTuple):
    """The rate KL(q(z|x) || p(z)) as a sampled part, averaged over the samples, and one in closed form."""

    kl: KL
    sampled: Callable[[Samples], Float[Array, "K"]]
    closed: Callable[[Distribution, Distribution], Float[Array, ""]]

    def __call__(self, s: Samples) -> Float[Array, ""]:
        """Return `closed(q, p) + mean_k sampled[k]`, nats."""
        return self.closed(s.q, s.p) + s.mean(self.sampled(s))


RATES: dict[KL, Rate] = {
    "analytic": Rate("analytic", lambda s: jnp.zeros_like(s.log_p_x_z), analytic_kl),
    "entropy": Rate("entropy", lambda s: -s.log_p_z, lambda q, p: -analytic_entropy(q)),
    "monte_carlo": Rate(
        "monte_carlo", lambda s: s.log_q_z_x - s.log_p_z, lambda q, p: jnp.zeros(())
    ),
}
"""The three forms of the rate: KL in closed form, entropy in closed form, fully sampled."""


class Problem(NamedTuple):
    """What an estimator estimates: a bound of one model for one example, on K samples.

    log_w[k] = log_p_x_z[k] - beta * rate.sampled[k]
    value    = bound(log_w) - beta * rate.closed(q, p)
    """

    key: PRNGKey
    model: Model
    x: Float[Array, "*event"]
    num_samples: int
    bound: Bound
    rate: Rate = RATES["monte_carlo"]
    beta: Scalar = 1.0
    chunk_size: int | None = None
    of_weights: bool = True
    """True for a function of the log-weights, `jv.importance_weighted`; False for the ELBO in one of its forms."""

    def draw(
        self,
        *,
        encoder: Model | None = None,
        scorer: Model | None = None,
        decoder: Model | None = None,
        path: Path = "live",
        z: Float[Array, "K D"] | None = None,
    ) -> Samples:
        """Sample q(z|x) K times and evaluate the densities.

        Sample k is drawn with `fold_in(key, k)`, so the first K samples depend neither on how many
        more are drawn nor on the chunks that they are drawn in, and every call on one problem sees
        the same ones. The options change no value, only where the gradient flows:

        Args:
            encoder: whose posterior is sampled; the model by default.
            scorer: whose posterior is evaluated in log q(z|x); the encoder by default.
            decoder: whose prior and likelihood are evaluated; the model by default.
            path: whether the gradient flows through z ("live"), not at all ("stopped"), or
                multiplied by a number for each sample [K].
            z: samples drawn before, to evaluate again instead of drawing (the compiler does not
                merge two draws, but it does merge two evaluations of the same latents).

        Raises:
            InputError: shapes do not fit, or the path is wanted and q is not reparameterised.
        """
        encoder, decoder = encoder or self.model, decoder or self.model
        q, p = encoder.posterior(self.x), decoder.prior()
        require_latents(q, p)
        scored = q if scorer is None else scorer.posterior(self.x)
        scales = path if not isinstance(path, str) else None
        stopped = isinstance(path, str) and path == "stopped"
        if not stopped:
            require_rsample(q)

        def latents(k: Array) -> tuple[Array, Array | None]:
            key = jax.random.fold_in(self.key, k)
            if scorer is None and scales is None and not stopped:
                return sample_with_log_prob(q, key)
            return sample(q, key), None

        def densities(z: Array, log_q: Array | None) -> tuple[Array, ...]:
            log_q = log_prob(scored, z) if log_q is None else log_q
            return log_p_x_given_z(decoder, self.x, z), log_prob(p, z), log_q

        def some(rows: tuple[Array, Array | None, Array | None]) -> tuple[Array, ...]:
            ks, scales, z = rows
            z, log_q = jax.vmap(latents)(ks) if z is None else (z, None)
            z = jax.lax.stop_gradient(z) if stopped else z
            z = z if scales is None else scale_gradient(z, scales)
            return z, *jax.vmap(densities)(z, log_q)

        ks = jnp.arange(self.num_samples)
        return Samples(q, p, *over_samples(some, (ks, scales, z), self.chunk_size))

    def log_w(self, s: Samples) -> Float[Array, "K"]:
        """Return the log-weights that the bound is a function of, [K], nats."""
        return s.log_p_x_z - self.beta * self.rate.sampled(s)

    def value(self, s: Samples) -> Float[Array, ""]:
        """Return the value of the objective, nats."""
        log_w = self.log_w(s)
        sampled = self.bound(log_w) if s.weight is None else s.mean(log_w)
        return sampled - self.beta * self.rate.closed(s.q, s.p)


def problem(
    key: PRNGKey,
    model: Model,
    x: Float[AnyArray, "*event"],
    *,
    num_samples: int,
    bound: Bound,
    chunk_size: int | None = None,
    **options: Any,
) -> Problem:
    """Return a `Problem` whose key and sizes are checked.

    Raises:
        InputError: one of them is not usable.
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    if chunk_size is not None:
        require_positive(chunk_size=chunk_size)
    options = {"of_weights": bound is not bounds.elbo} | options
    x = jnp.asarray(x)
    return Problem(key, model, x, num_samples, bound, chunk_size=chunk_size, **options)


def draw(key: PRNGKey, model: Model, x: Float[Array, "*event"], num_samples: int) -> Samples:
    """Draw K samples of q(z|x), differentiable, with their densities; see `Problem.draw`.

    Raises:
        InputError: a shape or the key is wrong, or q is not reparameterised.
    """
    return problem(key, model, x, num_samples=num_samples, bound=jnp.mean).draw()


def over_samples(some: Callable[[Any], Any], rows: Any, chunk_size: int | None) -> Any:
    """Apply `some` to all rows at once, or to one chunk of them after another, whose activations are not kept.

    Rematerialised chunks bound the memory of the backward pass as well; value and gradient are the
    same for any chunk, dividing the rows or not.

    Args:
        some: rows [C, ...] -> results [C, ...], for any C.
        rows: a pytree of arrays with a leading axis K.
        chunk_size: the largest C; None for K.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if chunk_size is None or chunk_size >= count:
        return some(rows)
    chunks = (
        count // chunk_size
    )  # not inferred by reshape: an array of no latents has no size to infer it from
    whole, body = chunks * chunk_size, jax.checkpoint(some)
    parts = jax.tree.map(lambda a: a[:whole].reshape(chunks, chunk_size, *a.shape[1:]), rows)
    done = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), jax.lax.map(body, parts))
    if whole == count:
        return done
    rest = body(jax.tree.map(lambda a: a[whole:], rows))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)


@jax.custom_jvp
def scale_gradient(z: Float[Array, "K D"], scale: Float[Array, "K"]) -> Float[Array, "K D"]:
    """Return the latents unchanged, with gradients that are multiplied by `scale`.

    The value is z itself, not a copy computed from it, so that the compiler merges two passes over the
    same samples.
    """
    del scale
    return z


@scale_gradient.defjvp
def _scale_gradient_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, scale), (tangent, _) = primals, tangents
    return z, jax.vmap(jnp.multiply)(scale, tangent)


def log_p_x_given_z(model: Model, x: Float[AnyArray, "*event"], z: Num[Array, "*latent"]) -> Array:
    """Return `log p(x|z)` of one example given one latent, nats, with the shapes checked.

    Raises:
        InputError: `x` is not of the likelihood's event shape.
    """
    likelihood, x = model.likelihood(z), jnp.asarray(x)
    require_event(likelihood, x, "model.likelihood(z)", "x")
    # Without the barrier XLA merges the sum over the event with means over samples, and computes it once for each
    # of them: bound and distortion of a step then take 1.15 of its time (iwae50 on a CPU).
    return jax.lax.optimization_barrier(log_prob(likelihood, x))


def kl_each(q: Distribution, p: Distribution) -> Float[Array, "D"]:
    """Return KL(q(z_d|x) || p(z_d)) of every latent in closed form, nats, where both factorise.

    Raises:
        InputError: one of them does not factorise over its latents, or no closed form is known.
    """
    q_each, p_each = _factors(q), _factors(p)
    if q_each is None or p_each is None:
        raise InputError(
            "kl: expected a posterior and a prior that factorise over latents, got "
            f"{describe(q)} and {describe(p)}"
        )
    return analytic_kl(q_each, p_each)


def _factors(distribution: Distribution) -> Distribution | None:
    """Return the D distributions of single latents as a batch, or None if the distribution does not factorise."""
    if not isinstance(distribution, Independent) or distribution.base_dist.event_shape != ():
        return None
    return distribution.base_dist


def require_latents(q: Distribution, p: Distribution) -> None:
    """Refuse a posterior and a prior that are not over the same single latent, with one measure.

    Raises:
        InputError: a batch shape is not (), the event shapes differ, or one is a mass where the other is a density.
    """
    require_one_event(q, "model.posterior(x)")
    require_one_event(p, "model.prior()")
    if q.event_shape != p.event_shape:
        raise InputError(
            f"model: expected one latent shape, got {q.event_shape} from posterior(x) and "
            f"{p.event_shape} from prior()"
        )
    if is_point_mass(q) or is_point_mass(p) or q.is_discrete != p.is_discrete:
        kinds = [
            "a point mass" if is_point_mass(d) else "a mass" if d.is_discrete else "a density"
            for d in (q, p)
        ]
        raise InputError(
            f"model: expected q(z|x) and p(z) of one measure, both densities or both masses, got {kinds[0]}, "
            f"{describe(q)}, and {kinds[1]}, {describe(p)}; their ratio is no number"
        )


def is_point_mass(distribution: Distribution) -> bool:
    """Return whether a distribution, below its wrappers, has all its mass in one point."""
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def require_rsample(q: Distribution) -> None:
    """Refuse a posterior whose samples have no gradient.

    Raises:
        InputError: q is not reparameterised; the message lists the estimators for such a q.
    """
    if not q.has_rsample:
        raise InputError(
            f"gradient: expected one that needs no reparameterised samples, since {describe(q)} has "
            'none: "score", "vimco", "rws", "enumerate", "gumbel_softmax", '
            '"straight_through" or "disarm", got one that differentiates through z'
        )
