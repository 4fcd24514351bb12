"""Names that every other module shares: the model protocol, `Terms`, batches, and `InputError`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key
from numpyro.distributions import Distribution

PRNGKey: TypeAlias = Key[Array, ""]
"""One typed key, made by `jax.random.key(seed)`."""

Batch: TypeAlias = Array | np.ndarray | Mapping[str, Array] | Mapping[str, np.ndarray]
"""`[B, *event]`, or a mapping with `x` and, where there are any, `label` [B], `mask` [B] or [B, *event],
`index` [B] and `weight` [B]; see `jaxvae.batching.unpack`."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what, why, and what to do instead."""


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


class Terms(NamedTuple):
    """What an objective says of one example; every field is a scalar in nats.

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


def require_key(key: PRNGKey, name: str = "key") -> None:
    """Refuse anything but one typed key.

    Raises:
        InputError: `key` is an int, None, a legacy uint32 key, an "rbg" key, or an array of keys.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of {dtype}"
        raise InputError(f"{name}: expected a key made by jax.random.key(seed), got {got}")
    if "rbg" in (kind := str(jax.random.key_impl(key))):
        raise InputError(
            f'{name}: expected a key whose draws do not depend on what is mapped over, got one of "{kind}", which '
            "under vmap draws from one key for all; set jax_default_prng_impl to threefry2x32"
        )
    if key.shape != ():
        raise InputError(
            f"{name}: expected one key, got an array of keys of shape {key.shape}; "
            "vmap the function over keys, or pass one of them"
        )


def is_known(value: Any) -> bool:
    """Whether a number can be looked at: Python's, NumPy's or JAX's, not one that is traced."""
    return not isinstance(value, Tracer)


def require_weight(**values: float | Float[Array, ""]) -> None:
    """Refuse a weight that is not one finite number of at least 0; one that is traced is a schedule's.

    Raises:
        InputError: naming the weight.
    """
    for name, value in values.items():
        _require_number(name, value, "of at least 0", lambda number: number >= 0)


def require_above_zero(**values: float | Float[Array, ""]) -> None:
    """Refuse what is not one finite number above 0; one that is traced is a schedule's.

    Raises:
        InputError: naming the argument.
    """
    for name, value in values.items():
        _require_number(name, value, "above 0", lambda number: number > 0)


def _require_number(name: str, value: Any, kind: str, allowed: Callable[[float], bool]) -> None:
    """Refuse what is not one finite real number, Python's, NumPy's or JAX's, that is allowed."""
    expected = f"{name}: expected a finite number {kind}"
    if not hasattr(value, "dtype") and not isinstance(value, int | float):
        raise InputError(f"{expected}, got {value!r}")
    if np.shape(value) != ():
        raise InputError(f"{expected}, got an array of shape {np.shape(value)}")
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise InputError(f"{expected}, got a complex one, {value!r}")
    if is_known(value) and not (allowed(float(value)) and float(value) < float("inf")):
        raise InputError(f"{expected}, got {value!r}")


def require_positive(**values: int) -> None:
    """Refuse counts below one, naming the argument.

    Raises:
        InputError: a value is not an integer of at least 1.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: expected an integer of at least 1, got {value!r}")
