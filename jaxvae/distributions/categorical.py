"""The categorical distribution over class numbers as floats."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.util import validate_sample

from jaxvae.distributions.checks import as_real
from jaxvae.types import PRNGKey


class FloatCategorical(dist.CategoricalLogits):
    """A categorical over 0.0, 1.0, ..., C - 1 in the dtype of the logits; NumPyro's samples are integers.

    `log_prob(x) = log_softmax(logits)[..., x]`, nats, for logits [*batch, C].

    >>> p = FloatCategorical(jnp.array([0.0, 200.0, 0.0]))
    >>> float(p.sample(jax.random.key(0))), float(p.mean)
    (1.0, 1.0)
    """

    @validate_sample
    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-probability of each class number, nats."""
        del intermediates
        log_pmf = jax.nn.log_softmax(jnp.asarray(self.logits))
        index = jnp.asarray(value).astype(jnp.int32)
        shape = jnp.broadcast_shapes(index.shape, self.batch_shape)
        log_pmf = jnp.broadcast_to(log_pmf, shape + log_pmf.shape[-1:])
        index = jnp.broadcast_to(index, shape)[..., None]
        return jnp.take_along_axis(log_pmf, index, axis=-1, mode="clip")[..., 0]

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Class numbers [*sample_shape, *batch]; no gradient flows through them."""
        return super().sample(key, sample_shape).astype(as_real(jnp.asarray(self.logits)).dtype)

    @property
    def mean(self) -> Array:
        """The mean class number, meaningful if the classes are ordered, as grey levels are."""
        return self._expectation(self._numbers())

    @property
    def variance(self) -> Array:
        """The variance of the class number."""
        return self._expectation((self._numbers() - self.mean[..., None]) ** 2)

    def _numbers(self) -> Array:
        logits = jnp.asarray(self.logits)
        return jnp.broadcast_to(jnp.arange(logits.shape[-1], dtype=logits.dtype), logits.shape)

    def _expectation(self, values: Array) -> Array:
        return jnp.sum(jax.nn.softmax(jnp.asarray(self.logits)) * values, axis=-1)
