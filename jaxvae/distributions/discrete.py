"""Distributions of discrete latents as vectors of floats, which are valid inputs of a decoder."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Real
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from jaxvae.distributions.checks import as_real
from jaxvae.types import InputError, PRNGKey


class FloatBernoulli(dist.BernoulliLogits):
    """A Bernoulli over bits 0.0 and 1.0 in the dtype of the logits; NumPyro's samples are integers.

    `log_prob(z) = z * log_sigmoid(logits) + (1 - z) * log_sigmoid(-logits)`, nats, whose gradient
    is also correct at a logit of exactly 0.

    >>> bits = FloatBernoulli(jnp.array([200.0, -200.0])).sample(jax.random.key(0))
    >>> bits.tolist(), str(bits.dtype)
    ([1.0, 0.0], 'float32')
    """

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Bits [*sample_shape, *batch_shape]; no gradient flows through them."""
        assert key is not None
        bits = jax.random.bernoulli(key, self.mean, shape=sample_shape + self.batch_shape)
        return bits.astype(as_real(jnp.asarray(self.logits)).dtype)

    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each bit, nats."""
        del intermediates
        value, logits = jnp.asarray(value), as_real(jnp.asarray(self.logits))
        bit = value.astype(logits.dtype)
        return bit * jax.nn.log_sigmoid(logits) + (1 - bit) * jax.nn.log_sigmoid(-logits)


def sum_of_classes(value: Array, log_pmf: Array) -> Array:
    """`sum_c value[c] * log_pmf[c]` with 0 * -inf = 0, so that an impossible class of value 0 adds nothing."""
    value = value.astype(log_pmf.dtype)
    possible = jnp.where(value == 0, 0, log_pmf)
    return jnp.sum(value * possible, axis=-1)


class OneHotCategorical(dist.Distribution):
    """D independent one-hot vectors of C classes each, side by side in one vector.

    `log_prob(z) = sum_d sum_c z[d * C + c] * log_softmax(logits[d])[c]`, nats.

    Args:
        logits: unnormalised log-probabilities [*batch, D, C]; the event shape is [D * C].
        validate_args: see NumPyro.

    Raises:
        InputError: `logits` has fewer than two axes.

    >>> q = OneHotCategorical(jnp.array([[200.0, 0.0, 0.0], [0.0, 0.0, 200.0]]))
    >>> q.sample(jax.random.key(0)).tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """

    # -inf, an impossible class, is allowed here because compiled code, which validates nothing, allows it too.
    arg_constraints = {"logits": constraints.less_than(float("inf"))}  # noqa: RUF012 (NumPyro reads it from the class)
    support = constraints.independent(constraints.boolean, 1)  # pyright: ignore[reportAssignmentType]

    def __init__(self, logits: Real[Array, "*batch D C"], *, validate_args: bool | None = None):
        if jnp.ndim(logits) < 2:
            raise InputError(
                "logits: expected [D, C], D variables of C classes, got shape "
                f"{jnp.shape(logits)}; reshape one variable to [1, C]"
            )
        self.logits = as_real(logits)
        *batch, variables, classes = jnp.shape(logits)
        super().__init__(tuple(batch), (variables * classes,), validate_args=validate_args)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """One-hot vectors [*sample_shape, *batch, D * C]; no gradient flows through them."""
        assert key is not None
        shape = (*sample_shape, *self.logits.shape[:-1])
        index = jax.random.categorical(key, self.logits, shape=shape)
        one_hot = jax.nn.one_hot(index, self.logits.shape[-1], dtype=self.logits.dtype)
        return one_hot.reshape(sample_shape + self.shape())

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each vector, nats."""
        del intermediates
        return sum_of_classes(value, self._flat(jax.nn.log_softmax(self.logits)))

    @property
    def mean(self) -> Array:
        """The probabilities of the classes [*batch, D * C]."""
        return self._flat(jax.nn.softmax(self.logits))

    @property
    def variance(self) -> Array:
        """The variance of each entry [*batch, D * C]."""
        return self.mean * (1 - self.mean)

    def _flat(self, values: Array) -> Array:
        return values.reshape(self.shape())
