"""Mixtures of diagonal normals, with the densities of all components computed together."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Real
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from jaxvae.distributions.checks import as_real
from jaxvae.types import InputError, PRNGKey


class DiagonalNormalMixture(dist.Distribution):
    """`p(z) = sum_c w[c] N(z; loc[c], diag(scale[c]^2))`, `w = softmax(log_weights)`.

    `log_prob(z) = logsumexp_c(log w[c] + sum_d log N(z[d]; loc[c, d], scale[c, d]))`, nats. Terms that
    depend only on a component are computed once, even if many z are mapped over. The component of a
    sample is drawn, so that no gradient flows through the sample.

    Args:
        log_weights: unnormalised log-weights [C].
        loc: means [C, D].
        scale: standard deviations [C, D].
        validate_args: see NumPyro.

    Raises:
        InputError: the shapes are not [C], [C, D] and [C, D].

    >>> two = DiagonalNormalMixture(jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)))
    >>> float(two.mean[0]), float(two.variance[0])
    (0.0, 2.0)
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro reads it from the class)
        "log_weights": constraints.independent(constraints.real, 1),
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        log_weights: Real[Array, "C"],
        loc: Real[Array, "C D"],
        scale: Real[Array, "C D"],
        *,
        validate_args: bool | None = None,
    ):
        shapes = [jnp.shape(a) for a in (log_weights, loc, scale)]
        if len(shapes[1]) != 2 or shapes != [shapes[1][:1], shapes[1], shapes[1]]:
            raise InputError(
                "mixture: expected log_weights [C], loc [C, D] and scale [C, D], got shapes "
                f"{', '.join(map(str, shapes))}; jax.vmap over a batch of mixtures"
            )
        self.log_weights, self.loc, self.scale = map(as_real, (log_weights, loc, scale))
        super().__init__((), shapes[1][1:], validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Log-density, nats: [...] of values [..., D]."""
        del intermediates
        return jnp.vectorize(self._score, signature="(d)->()")(value)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Values [*sample_shape, D]; no gradient flows through them."""
        assert key is not None
        component_key, noise_key = jax.random.split(key)
        index = jax.random.categorical(component_key, self.log_weights, shape=sample_shape)
        noise = jax.random.normal(noise_key, self.shape(sample_shape), jnp.result_type(self.loc))
        return jax.lax.stop_gradient(self.loc[index] + self.scale[index] * noise)

    @property
    def mean(self) -> Array:
        """The weighted mean of the means [D]."""
        return jax.nn.softmax(self.log_weights) @ self.loc

    @property
    def variance(self) -> Array:
        """The variance within components plus the variance between them [D]."""
        between = jnp.square(self.loc - self.mean[None])
        return jax.nn.softmax(self.log_weights) @ (jnp.square(self.scale) + between)

    def log_joint(self, z: Float[Array, "D"]) -> Float[Array, "C"]:
        """`log w[c] + log N(z; loc[c], diag(scale[c]^2))` of every component, nats."""
        log_root = math.log(2 * math.pi) / 2
        log_normaliser = jnp.sum(jnp.log(self.scale), -1) + self.loc.shape[1] * log_root
        constant = jax.nn.log_softmax(self.log_weights) - log_normaliser
        return constant + _exponents(z, self.loc, 1 / self.scale)

    def _score(self, z: Float[Array, "D"]) -> Float[Array, ""]:
        return jax.nn.logsumexp(self.log_joint(z))


def _from_differences(
    z: Float[Array, "D"], loc: Float[Array, "C D"], precision_root: Float[Array, "C D"]
) -> Float[Array, "C"]:
    """`-sum_d ((z[d] - loc[c, d]) * precision_root[c, d])^2 / 2`, from differences, accurate for every z."""
    # Components are the last axis: vector units run along it, and it is the longest.
    scaled = (z[:, None] - loc.T) * precision_root.T
    return -jnp.sum(jnp.square(scaled), 0) / 2


_exponents = jax.custom_jvp(_from_differences)
"""The exponents of the components, whose gradients in z and loc are matrix products.

Differentiating the differences would store arrays of [B, K, C, D] under `vmap`, ten or forty times the densities,
and move them through memory several times. So the derivative in z and loc is that of the expanded square: its
rounding error is 1e-7 of the distances between components, as is that of z itself. For the derivative in the
precisions that error would be 1e-7 of the squared distances, so it is taken from the differences, which the
backward pass computes again.
"""


@_exponents.defjvp
def _exponents_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    z, loc, precision_root = primals
    # Centred, so that rounding is relative to the distances between components, not to their distances from 0.
    centre, precision = jnp.mean(loc, 0), jnp.square(precision_root)

    def multiplied_out(z: Array, loc: Array) -> Array:
        z, loc = z - centre, loc - centre[None]
        constant = jnp.sum(jnp.square(loc) * precision, -1)
        linear, square = _product(z, loc * precision), _product(jnp.square(z), precision)
        return linear - (square + constant) / 2

    @jax.checkpoint
    def of_precision(precision_root: Array) -> Array:
        return _from_differences(z, loc, precision_root)

    moved = jax.jvp(multiplied_out, (z, loc), tangents[:2])[1]
    scaled = jax.jvp(of_precision, (precision_root,), tangents[2:])[1]
    return _exponents(*primals), moved + scaled


def _product(z: Float[Array, "D"], matrix: Float[Array, "C D"]) -> Float[Array, "C"]:
    """The product in full float32, also on hardware that would round to bfloat16 or TF32."""
    return jnp.matmul(z, matrix.T, precision=jax.lax.Precision.HIGHEST)
