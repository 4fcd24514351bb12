"""K samples of q(z|x) and their log-densities: what every bound and every estimator is made from."""

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
Penalty: TypeAlias = Callable[[Distribution, Distribution], Float[Array, ""]]
KL: TypeAlias = Literal["analytic", "entropy", "monte_carlo"]
Path: TypeAlias = Literal["live", "stopped"] | Float[Array, "K"]


class Samples(NamedTuple):
    """K latents with their log-densities, each [K], in nats."""

    q: Distribution
    p: Distribution
    z: Float[Array, "K D"]
    log_p_x_z: Float[Array, "K"]
    log_p_z: Float[Array, "K"]
    log_q_z_x: Float[Array, "K"]
    weight: Float[Array, "K"] | None = None
    """Where the latents are not draws of q but all that there are: their probabilities."""

    @property
    def log_w(self) -> Float[Array, "K"]:
        """`log p(x, z_k) - log q(z_k | x)`."""
        return self.log_p_x_z + (self.log_p_z - self.log_q_z_x)

    def mean(self, values: Float[Array, "K"]) -> Float[Array, ""]:
        """The expectation of a function of z under q, from its values at the latents."""
        return jnp.mean(values) if self.weight is None else jnp.sum(self.weight * values)


class Problem(NamedTuple):
    """What an estimator is to estimate: a bound of one model for one example, on K samples.

    Its value is `bound(log_w) - beta * exact`, nats. `kl` says what of the rate is sampled:

    - "monte_carlo": `log_w = log_p_x_z + beta * (log_p_z - log_q_z_x)`, nothing exact;
    - "entropy": `log_w = log_p_x_z + beta * log_p_z`, and `exact = -H(q)`;
    - "analytic": `log_w = log_p_x_z`, and `exact = penalty(q, p)`, by default KL(q || p).
    """

    key: PRNGKey
    model: Model
    x: Float[Array, "*event"]
    num_samples: int
    bound: Bound
    kl: KL = "monte_carlo"
    beta: Scalar = 1.0
    penalty: Penalty = analytic_kl
    chunk_size: int | None = None

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
        """The sampled part of the log-weights, [K]."""
        if self.kl == "analytic":
            return s.log_p_x_z
        if self.kl == "entropy":
            return s.log_p_x_z + self.beta * s.log_p_z
        return s.log_p_x_z + self.beta * (s.log_p_z - s.log_q_z_x)

    def exact(self, s: Samples) -> Float[Array, ""]:
        """What of the rate is not sampled, nats."""
        if self.kl == "analytic":
            return self.penalty(s.q, s.p)
        return -analytic_entropy(s.q) if self.kl == "entropy" else jnp.zeros(())

    def value(self, s: Samples) -> Float[Array, ""]:
        """`bound(log_w) - beta * exact`, nats."""
        sampled = self.bound(self.log_w(s)) if s.weight is None else s.mean(self.log_w(s))
        return sampled - self.beta * self.exact(s)


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
    """A `Problem` whose key and sizes are checked.

    Raises:
        InputError: one of them is not usable.
    """
    require_key(key)
    require_positive(num_samples=num_samples)
    if chunk_size is not None:
        require_positive(chunk_size=chunk_size)
    x = jnp.asarray(x)
    return Problem(key, model, x, num_samples, bound, chunk_size=chunk_size, **options)


def draw(key: PRNGKey, model: Model, x: Float[Array, "*event"], num_samples: int) -> Samples:
    """K samples of q(z|x), differentiable, with their densities; see `Problem.draw`.

    Raises:
        InputError: a shape or the key is wrong, or q is not reparameterised.
    """
    return problem(key, model, x, num_samples=num_samples, bound=jnp.mean).draw()


def over_samples(some: Callable[[Any], Any], rows: Any, chunk_size: int | None) -> Any:
    """`some` of all rows at once, or of chunks of them, whose activations are not kept.

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
    """The latents themselves, whose gradients are multiplied by `scale`.

    Their value is z and not a copy computed from it, so that the compiler sees two passes over the
    same samples as one.
    """
    del scale
    return z


@scale_gradient.defjvp
def _scale_gradient_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, scale), (tangent, _) = primals, tangents
    return z, jax.vmap(jnp.multiply)(scale, tangent)


def log_p_x_given_z(model: Model, x: Float[AnyArray, "*event"], z: Num[Array, "*latent"]) -> Array:
    """`log p(x|z)` of one example under one latent, nats, with the shapes checked.

    Raises:
        InputError: `x` is not of the likelihood's event shape.
    """
    likelihood, x = model.likelihood(z), jnp.asarray(x)
    require_event(likelihood, x, "model.likelihood(z)", "x")
    # Without the barrier XLA merges the sum over the event with means over samples, and computes it once for each
    # of them: bound and distortion of a step then take 1.15 of its time (iwae50 on a CPU).
    return jax.lax.optimization_barrier(log_prob(likelihood, x))


def kl_each(q: Distribution, p: Distribution) -> Float[Array, "D"]:
    """KL(q(z_d|x) || p(z_d)) of every latent in closed form, nats, where both factorise.

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
    """The D distributions of one latent each, as a batch, or None where there are none."""
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
    """Whether a distribution has all its mass in one point, under whatever wrappers."""
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def require_rsample(q: Distribution) -> None:
    """Refuse a posterior whose samples have no gradient.

    Raises:
        InputError: q is not reparameterised; the message lists what does without.
    """
    if not q.has_rsample:
        raise InputError(
            f"gradient: expected one that needs no reparameterised samples, since {describe(q)} has "
            'none: "score", "vimco", "rws", "enumerate", "gumbel_softmax", '
            '"straight_through" or "disarm", got one that differentiates through z'
        )
