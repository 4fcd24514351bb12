"""Placement of arrays on the devices of a mesh, which several processes may share."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def put(tree: T, shardings: Any) -> T:
    """Place the arrays of a tree by the given shardings, which may include devices of other processes.

    Args:
        tree: a pytree of arrays. With several processes, each process has the same values, or the arrays
            are already distributed over the devices of all processes.
        shardings: one sharding for all arrays, or a tree of shardings.

    Returns:
        The tree of the placed arrays.
    """
    if not isinstance(shardings, NamedSharding):
        return jax.tree.map(put, tree, shardings)

    def of(leaf: Any) -> jax.Array:
        if shardings.is_fully_addressable or isinstance(leaf, Tracer):
            return jax.device_put(leaf, shardings)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf if leaf.sharding == shardings else jax.device_put(leaf, shardings)
        if jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            bits = put(jax.random.key_data(leaf), replicated(shardings))
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, shardings, lambda index: value[index])

    return jax.tree.map(of, tree)


def replicated(mesh: Mesh | NamedSharding) -> NamedSharding:
    """Return the sharding that replicates a whole array on each device."""
    return NamedSharding(mesh if isinstance(mesh, Mesh) else mesh.mesh, PartitionSpec())  # pyright: ignore[reportArgumentType]


def local(tree: T) -> T:
    """Return the copies, on the first device of this process, of arrays that are replicated on every device.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> float(local(put(jnp.float32(2.0), replicated(mesh))))
    2.0
    """

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
            return leaf
        return leaf.addressable_data(0)

    return jax.tree.map(of, tree)


def from_first_process(tree: T) -> T:
    """Return the values of the first process, on the first device of every process.

    Args:
        tree: a pytree of arrays of this process, with the same shapes on all processes.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    def is_key(leaf: Any) -> bool:
        return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    bits = jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, tree)
    told = broadcast_one_to_all(jax.tree.map(np.asarray, bits))

    def back(like: Any, value: Any) -> jax.Array:
        value = jnp.asarray(value, value.dtype)
        if is_key(like):
            return jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))
        return value

    return jax.tree.map(back, tree, told)
