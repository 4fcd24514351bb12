"""The continuous Bernoulli, a density on [0, 1] for grey levels."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Real
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from jaxvae.distributions.checks import as_real
from jaxvae.types import PRNGKey

_NEAR, _NEAR_SAMPLE = 1.0, 0.1


class ContinuousBernoulli(dist.Distribution):
    """`log p(x) = logits * x - log(expm1(logits) / logits)`, nats, for x in [0, 1].

    Exact in value and gradient at logits of 0, where it is the uniform density, and of +-200.

    Args:
        logits: the exponential rate a, [*batch].
        validate_args: see NumPyro.

    >>> p = ContinuousBernoulli(jnp.array([0.0, 200.0]))
    >>> p.mean.tolist(), [round(v, 4) for v in p.log_prob(jnp.ones(2)).tolist()]
    ([0.5, 0.9950000047683716], [0.0, 5.2983])

    Source: Loaiza-Ganem and Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error
    in variational autoencoders".
    Departs from the source: the normaliser is a centred function of the logit,
    `log(expm1(a) / a) = a / 2 + log(sinh(a / 2) / (a / 2))`; as a function of the probability it is
    unstable around 1/2. NumPyro has no continuous Bernoulli.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (NumPyro reads it from the class)
    support = constraints.unit_interval  # pyright: ignore[reportAssignmentType]
    reparametrized_params = ["logits"]  # noqa: RUF012

    def __init__(self, logits: Real[Array, "*batch"], *, validate_args: bool | None = None):
        self.logits = as_real(logits)
        super().__init__(jnp.shape(logits), (), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-density of each value, nats."""
        del intermediates
        return self.logits * (value - 0.5) - _log_sinhc(self.logits)

    def icdf(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """The quantile at q in (0, 1): `log1p(q * expm1(logits)) / logits`.

        Args:
            q: probabilities [..., *batch].
        """
        a = jnp.broadcast_to(self.logits, jnp.shape(q))
        # By p(x; a) = p(1 - x; -a) only logits below 0 are used, whose exponentials are small.
        near = jnp.abs(a) < _NEAR_SAMPLE
        slope = jnp.where(near, -1.0, -jnp.abs(a))
        up = a > 0
        part, rest = jnp.where(up, 1 - q, q), jnp.where(up, q, 1 - q)
        log = jnp.where(
            part < 0.5,
            jnp.log1p(part * jnp.expm1(slope)),
            jnp.log(rest + part * jnp.exp(slope)),
        )
        far = log / slope
        return jnp.where(
            near, _icdf_series(jnp.where(near, a, 0.0), q), jnp.where(up, 1 - far, far)
        )

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Values [*sample_shape, *batch], reparameterised by the inverse distribution function."""
        assert key is not None
        dtype = jnp.result_type(self.logits)
        # Uniforms are multiples of eps: adding eps / 2 keeps them away from 0 and 1, and centred.
        q = jax.random.uniform(key, sample_shape + self.batch_shape, dtype)
        return self.icdf(q + jnp.finfo(dtype).eps / 2)

    @property
    def mean(self) -> Array:
        """`1 / (1 - exp(-logits)) - 1 / logits`."""
        return 0.5 + _centred_mean(jnp.asarray(self.logits))

    @property
    def variance(self) -> Array:
        """`1 / logits^2 - 1 / (4 sinh(logits / 2)^2)`."""
        near, safe = _away_from_zero(jnp.asarray(self.logits))
        small = jnp.exp(-jnp.abs(safe))
        far = 1 / safe**2 - small / (1 - small) ** 2
        s = jnp.where(near, self.logits, 0.0) ** 2
        series = 1 / 12 - s * (1 / 240 - s * (1 / 6048 - s * (1 / 172800 - s * (1 / 5322240))))
        return jnp.where(near, series, far)


@jax.custom_jvp
def _log_sinhc(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(sinh(a / 2) / (a / 2))`, whose derivative is the mean minus one half."""
    near, safe = _away_from_zero(a)
    size = jnp.abs(safe)
    far = size / 2 + jnp.log(-jnp.expm1(-size) / size)
    s = jnp.where(near, a, 0.0) ** 2
    series = s * (1 / 24 - s * (1 / 2880 - s * (1 / 181440 - s * (1 / 9676800))))
    return jnp.where(near, series, far)


@_log_sinhc.defjvp
def _log_sinhc_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _log_sinhc(primals[0]), _centred_mean(primals[0]) * tangents[0]


def _centred_mean(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """`coth(a / 2) / 2 - 1 / a`."""
    near, safe = _away_from_zero(a)
    far = 0.5 / jnp.tanh(safe / 2) - 1 / safe
    small = jnp.where(near, a, 0.0)
    s = small**2
    series = small * (
        1 / 12 - s * (1 / 720 - s * (1 / 30240 - s * (1 / 1209600 - s * (1 / 47900160))))
    )
    return jnp.where(near, series, far)


def _away_from_zero(a: Array) -> tuple[Array, Array]:
    """A mask of the entries of a near 0, and a with those entries replaced by 1."""
    near = jnp.abs(a) < _NEAR
    return near, jnp.where(near, 1.0, a)


def _icdf_series(a: Array, q: Array) -> Array:
    """`K(a) / a`, K the cumulant generating function of a Bernoulli(q), as a series up to a^4."""
    w, skew = q * (1 - q), 1 - 2 * q
    third, fourth, fifth = w * skew, w * (1 - 6 * w), w * skew * (1 - 12 * w)
    return q + a * (w / 2 + a * (third / 6 + a * (fourth / 24 + a * fifth / 120)))
