"""The types that all modules share: the model protocols, `Terms`, batches, and `InputError`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Real
from numpyro.distributions import Distribution

AnyArray: TypeAlias = Array | np.ndarray
"""An array of JAX or of NumPy, where either will do."""

Label: TypeAlias = int | np.integer | Integer[AnyArray, ""]
"""One class, which may be traced."""

Values: TypeAlias = ArrayLike | Sequence[Any]
"""Numbers in an array or in lists."""

Scalar: TypeAlias = float | np.number | Real[AnyArray, ""]
"""One real number, which may be traced."""

PRNGKey: TypeAlias = Key[Array, ""]
"""One typed key, made by `jax.random.key(seed)`."""

Batch: TypeAlias = Array | np.ndarray | Mapping[str, Array] | Mapping[str, np.ndarray]
"""`[B, *event]`, or a mapping with `x` and, where there are any, `label` [B], `mask` [B] or [B, *event],
`index` [B] and `weight` [B]; see `jaxvae.batching.unpack`."""


class InputError(ValueError):
    """Input that cannot be used. The message names it, says what was expected and what came, and what to do."""


@runtime_checkable
class Model(Protocol):
    """A latent-variable model of one example: p(z), q(z|x) and p(x|z).

    An object with these three methods is a model if they are pure functions of its arrays and their argument, with
    densities that integrate to 1; `jaxvae.testing.check_model` looks. A `flax.nnx.Module` is one that can be trained.
    No argument carries a batch axis, and no method draws randomness: batching is `jax.vmap`
    outside, and sampling belongs to the objectives, which hold the key.
    """

    def prior(self) -> Distribution:
        """p(z), over one latent."""
        ...

    def posterior(self, x: Float[Array, "*event"], /) -> Distribution:
        """q(z|x), over one latent, for one example."""
        ...

    def likelihood(self, z: Float[Array, "D"], /) -> Distribution:
        """p(x|z), over one example: event shape `*event`, no batch shape."""
        ...


@runtime_checkable
class Conditional(Protocol):
    """A model of x given a label y."""

    def given(self, y: Label, /) -> Model:
        """Return the plain model p(x, z|y), q(z|x, y) with y bound."""
        ...


AnyModel: TypeAlias = Model | Conditional
"""A model of x, or of x given a label that comes with each example of a batch."""


class Terms(NamedTuple):
    """The results of an objective for one example; every field is a scalar in nats.

    `objective` is what training ascends and what a gradient estimator bends; `bound` is the honest
    lower bound on log p(x). `distortion` is -E log p(x|z) and `rate` is KL(q(z|x) || p(z)) or its
    estimate, neither of them weighted, so for the ELBO `bound == -(distortion + rate)`.
    """

    objective: Float[Array, ""]
    bound: Float[Array, ""]
    distortion: Float[Array, ""]
    rate: Float[Array, ""]


Objective: TypeAlias = Callable[..., Terms | Float[Array, ""]]
"""`(key, model, x) -> Terms`, or a scalar to ascend, for one example."""
