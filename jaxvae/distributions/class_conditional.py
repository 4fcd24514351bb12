"""The joint distribution of a class and a real vector, normal given the class, in one latent."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxvae.distributions.checks import as_real
from jaxvae.types import InputError, PRNGKey


class ClassConditional(dist.Distribution):
    """`q(y, z) = q(y) q(z|y)`: a class of C as a one-hot vector, then D reals, normal given the class.

    `log_prob([y, z]) = log_softmax(logits)[c] + sum_d log N(z[d]; loc[c, d], scale[c, d]^2)`, nats, where
    y is 1 at c: a density with respect to counting measure over y and Lebesgue measure over z.

    Args:
        logits: unnormalised log-probabilities of the classes [*batch, C].
        loc: means of z given each class [*batch, C, D].
        scale: standard deviations of z given each class [*batch, C, D].
        validate_args: see NumPyro.

    Raises:
        InputError: the shapes do not fit.

    >>> q = ClassConditional(jnp.array([0.0, 200.0]), jnp.array([[0.0], [5.0]]), jnp.full((2, 1), 1e-3))
    >>> [round(float(value)) for value in q.sample(jax.random.key(0))]
    [0, 1, 5]
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro reads it from the class)
        "logits": constraints.independent(constraints.real, 1),
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    # NumPyro has no constraint for this support; to a decoder the entries of y are real numbers.
    support = constraints.independent(constraints.real, 1)  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        logits: Float[Array, "*batch C"],
        loc: Float[Array, "*batch C D"],
        scale: Float[Array, "*batch C D"],
        *,
        validate_args: bool | None = None,
    ):
        shapes = jnp.shape(logits), jnp.shape(loc), jnp.shape(scale)
        if not shapes[0] or shapes[1][:-1] != shapes[0] or shapes[1] != shapes[2]:
            raise InputError(
                "logits: expected logits [C], loc [C, D] and scale [C, D], got shapes "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )
        self.logits, self.loc, self.scale = map(as_real, (logits, loc, scale))
        *batch, classes, size = shapes[1]
        super().__init__(tuple(batch), (classes + size,), validate_args=validate_args)

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return jnp.shape(self.logits)[-1]

    @property
    def label(self) -> dist.CategoricalLogits:
        """q(y), a distribution over class numbers."""
        return dist.CategoricalLogits(self.logits)

    @property
    def given_label(self) -> dist.Distribution:
        """q(z|y) for every class: a batch [*batch, C] of normals over z [D]."""
        return dist.Normal(self.loc, self.scale).to_event(1)

    def sample(self, key: PRNGKey | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """One-hot y, then z [*sample_shape, *batch, C + D]; no gradient flows through them."""
        assert key is not None
        key_y, key_z = jax.random.split(key)
        loc, scale = jnp.asarray(self.loc), jnp.asarray(self.scale)
        shape = (*sample_shape, *self.batch_shape)
        index = jax.random.categorical(key_y, self.logits, shape=shape)
        y = jax.nn.one_hot(index, self.num_classes, dtype=loc.dtype)
        noise = jax.random.normal(key_z, (*shape, loc.shape[-1]), loc.dtype)
        z = _chosen(y, loc) + _chosen(y, scale) * noise
        return jax.lax.stop_gradient(jnp.concatenate([y, z], axis=-1))

    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Log-density of one-hot y and z, nats."""
        del intermediates
        y, z = jnp.split(value, [self.num_classes], axis=-1)
        # The moments are selected before the density, so that infinities of other classes cannot enter.
        normal = dist.Normal(_chosen(y, self.loc), _chosen(y, self.scale)).to_event(1)
        return jnp.sum(y * jax.nn.log_softmax(self.logits), axis=-1) + normal.log_prob(z)

    @property
    def mean(self) -> Array:
        """The probabilities of the classes, then the mean of z [*batch, C + D]."""
        probs = jax.nn.softmax(self.logits)
        return jnp.concatenate([probs, _chosen(probs, self.loc)], axis=-1)

    @property
    def variance(self) -> Array:
        """The variance of each entry [*batch, C + D]; for z it includes the variance between classes."""
        probs = jax.nn.softmax(self.logits)
        centred = self.loc - _chosen(probs, self.loc)[..., None, :]
        of_z = _chosen(probs, self.scale**2 + centred**2)
        return jnp.concatenate([probs * (1 - probs), of_z], axis=-1)


def _chosen(y: Float[Array, "*batch C"], each: Float[Array, "*broadcast C D"]) -> Array:
    """Return the entry of class y; if y holds probabilities, the mean over classes."""
    return jnp.sum(y[..., None] * jnp.broadcast_to(each, (*y.shape, each.shape[-1])), axis=-2)
