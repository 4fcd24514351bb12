"""Data parallelism: the pure training step on several devices, with the results of one device.

The noise of an example is a function of its global index, and losses and gradients are sums over
examples divided by one global count, so neither depends on how the rows are split over devices.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvae.batching import fill_absent, unpack
from jaxvae.checks import require_positive
from jaxvae.hosts import initialize
from jaxvae.placement import put, replicated
from jaxvae.training.metrics import Metrics
from jaxvae.training.step import Step, TrainState, in_multiples
from jaxvae.types import Batch, InputError

__all__ = ["data_mesh", "initialize", "place", "pmap", "shard"]

T = TypeVar("T")

AXIS = "data"
"""The mapped axis of `pmap`."""


def shard(
    step: Step,
    mesh: Mesh,
    *,
    data_axis: str = "data",
    model_axis: str | None = None,
    min_sharded_size: int = 2**16,
    donate: bool = False,
) -> Step:
    """Return the step on a mesh of devices: `jit` of the global batch, its rows split over `data_axis`.

    XLA sees the whole batch, so every step works, including batch-coupled ones and EM, with a batch of
    any size: XLA pads an uneven batch, and leaves the padding out of every sum.

        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        step = jv.parallel.shard(jv.training.make_step(jv.elbo, optimizer), mesh)
        state, metrics = step(state, batch)

    Args:
        step: from `jaxvae.training.make_step`, or any pure `(state, batch) -> (state, metrics)`.
        mesh: from `jax.make_mesh`; all its devices are used.
        data_axis: the axis of the mesh over which the rows are split.
        model_axis: the axis of the mesh over which large arrays of the model and of the optimiser's state are
            split, each along its largest axis that the devices divide; by default every device has all of them.
            It may be `data_axis` itself (fully sharded data parallelism).
        min_sharded_size: the number of values from which an array is large.
        donate: whether the returned state reuses the buffers of the state passed in, which saves the
            memory of one state; the state passed in is then invalid.

    Returns:
        A step with the same signature and results. It takes a state of `step`, in any placement, and
        the global batch; its results have the same shapes as those of `step`, and lie on the mesh.

    Raises:
        InputError: the mesh has no such axis; when called inside `jax.set_mesh` with explicit axes.

    >>> import optax, jaxvae as jv
    >>> optimizer = optax.adam(1e-3)
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> state = jv.training.init(jax.random.key(1), model, optimizer)
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
    >>> step = shard(jv.training.make_step(jv.elbo, optimizer), mesh)
    >>> state, metrics = step(state, jnp.ones((5, 4)))
    >>> int(state.step), float(metrics.count)
    (1, 5.0)
    """
    mesh = _automatic(mesh, data_axis, *([] if model_axis is None else [model_axis]))
    require_positive(min_sharded_size=min_sharded_size)
    everywhere = replicated(mesh)

    def layout(tree: Any) -> Any:
        def of(leaf: Any) -> NamedSharding:
            if model_axis is None or jnp.size(leaf) < min_sharded_size:
                return everywhere
            return NamedSharding(
                mesh, _largest(jnp.shape(leaf), mesh.shape[model_axis], model_axis)
            )

        return jax.tree.map(of, tree)

    @partial(jax.jit, donate_argnums=(0,) if donate else ())
    def compiled(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # Inside a compiled function, unlike for its arguments, the devices need not divide the rows.
        rows = NamedSharding(mesh, PartitionSpec(data_axis))
        state, metrics = step(state, jax.lax.with_sharding_constraint(batch, rows))
        return jax.lax.with_sharding_constraint((state, metrics), layout((state, metrics)))

    def sharded(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _require_no_explicit_mesh()
        return compiled(put(state, layout(state)), _dealt(batch, mesh, data_axis))

    return sharded


def pmap(step: Step, *, devices: Sequence[Any] | int | None = None) -> Step:
    """Return the step on several devices of one process, by `jax.pmap`.

    Each device computes its share of the rows. Sums and counts are added over the devices
    (`jax.lax.psum`), never means, so ragged and weighted batches are right. A batch that the devices do
    not divide is padded with rows of weight 0.

    Args:
        step: from `jaxvae.training.make_step`. A batch-coupled step is refused; use `shard` for it.
        devices: the devices, or the number of devices to take from `jax.devices()`; all by default.

    Returns:
        A step with the same signature and results. It takes a state of `step`, in any placement, and
        the global batch. The state and metrics that it returns have the same shapes as those of `step`,
        without an axis of devices; they lie on every device, and stay there in the next call.

    Raises:
        InputError: there are too few devices, or the step takes no `axis_name`; when called, if
            it couples the batch, or inside `jax.set_mesh` with explicit axes.

    >>> import optax, jaxvae as jv
    >>> optimizer = optax.adam(1e-3)
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> state = jv.training.init(jax.random.key(1), model, optimizer)
    >>> step = pmap(jv.training.make_step(jv.elbo, optimizer))
    >>> state, metrics = step(state, jnp.ones((5, 4)))
    >>> int(state.step), float(metrics.count)
    (1, 5.0)
    """
    found = _require_devices(devices)
    if hasattr(step, "lower"):  # a jitted step: it could not take the axis name, which is no array
        step = inspect.unwrap(step)
    if "axis_name" not in inspect.signature(step).parameters:
        raise InputError(
            "step: expected one from jaxvae.training.make_step, which takes axis_name, got "
            f"{getattr(step, '__qualname__', type(step).__name__)}; use jaxvae.parallel.shard"
        )
    mesh = Mesh(found, (AXIS,))
    mapped = jax.pmap(
        partial(cast(Any, step), axis_name=AXIS),
        AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=found,
    )

    @jax.jit
    def cut(batch: Batch) -> dict[str, Any]:
        rows = in_multiples(fill_absent(unpack(batch)), len(found))._asdict()
        return {
            name: a.reshape(len(found), -1, *a.shape[1:])
            for name, a in rows.items()
            if a is not None
        }

    def parallel(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _require_no_explicit_mesh()
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        parts = cut(_dealt(batch, mesh, AXIS))
        return mapped(state, jax.device_put(parts, NamedSharding(mesh, PartitionSpec(AXIS))))

    return parallel


def data_mesh(devices: int | None = None) -> Mesh | None:
    """Return a mesh with the single axis `"data"`, for `shard`; it has devices of every process.

    Args:
        devices: the number of devices to take from `jax.devices()`; all by default.

    Returns:
        The mesh; None for one device of one process, for which `step` itself does the same.

    Raises:
        InputError: there are too few devices, or the processes cannot all contribute the same number.

    >>> data_mesh(1) is None
    True
    """
    processes = jax.process_count()
    wanted = jax.device_count() if devices is None else devices
    if processes == 1:
        found = first_devices(wanted)
        return None if wanted == 1 else Mesh(np.array(found), ("data",))
    first_devices(wanted)
    if wanted % processes:
        raise InputError(
            f"devices: expected a multiple of {processes}, the number of processes, got {wanted}"
        )
    of_each = [
        [device for device in jax.devices() if device.process_index == i] for i in range(processes)
    ]
    if min(map(len, of_each)) < wanted // processes:
        raise InputError(
            f"devices: expected at most {min(map(len, of_each)) * processes}, as every process takes "
            f"part with as many, got {wanted}"
        )
    found = [device for each in of_each for device in each[: wanted // processes]]
    return Mesh(np.array(found), ("data",))


def place(xs: T, mesh: Mesh, *, data_axis: str = "data") -> T:
    """Split rows over the devices of a mesh, such as more rows than fit on one device.

    A sharded step takes them as they are placed. So do the functions of `jaxvae.evaluation`, with the same
    results as for rows on one device, and `jaxvae.inference.em`: each device computes its own rows, and
    `batch_size` is the number of rows at a time on each device.

    Args:
        xs: [N, *event], or a batch with other entries [N, ...]; N a multiple of the devices on the axis.
        mesh: from `jax.make_mesh`.
        data_axis: the axis of the mesh over which the rows are split.

    Returns:
        The same values, each device holding its share of the rows.

    Raises:
        InputError: the mesh has no such axis, or the rows do not divide its devices.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> place(jnp.ones((6, 2)), mesh).sharding.spec
    P('data',)
    """
    mesh = _automatic(mesh, data_axis)
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] % mesh.shape[data_axis]:
            raise InputError(
                f"xs: expected rows in a multiple of {mesh.shape[data_axis]}, the devices on the axis "
                f"{data_axis}, got shape {jnp.shape(leaf)}; leave some out, or place the rest apart"
            )
    return _dealt(xs, mesh, data_axis)


def _dealt(batch: T, mesh: Mesh, data_axis: str) -> T:
    """Put each array on the devices: its rows split if the devices divide them, else all of it on each."""

    def of(leaf: Any) -> NamedSharding:
        divides = jnp.ndim(leaf) > 0 and jnp.shape(leaf)[0] % mesh.shape[data_axis] == 0
        return NamedSharding(mesh, PartitionSpec(data_axis) if divides else PartitionSpec())

    return put(batch, jax.tree.map(of, batch))


def _largest(shape: tuple[int, ...], devices: int, name: str) -> PartitionSpec:
    """Return the spec that splits the largest axis that `devices` divides; no axis if there is none."""
    dividing = [i for i, n in enumerate(shape) if n % devices == 0]
    if not dividing:
        return PartitionSpec()
    largest = max(dividing, key=lambda i: shape[i])
    return PartitionSpec(*[name if i == largest else None for i in range(len(shape))])


def _automatic(mesh: Mesh, *axes: str) -> Mesh:
    """Return the mesh with axes of type Auto (sharding chosen by XLA), unlike those of `jax.make_mesh`."""
    for axis in axes:
        if axis not in mesh.axis_names:
            raise InputError(
                f"mesh: expected one with an axis {axis!r}, got the axes {mesh.axis_names}; name it "
                'in jax.make_mesh((jax.device_count(),), ("data",)), or pass data_axis'
            )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _require_no_explicit_mesh() -> None:
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        raise InputError(
            "mesh: expected no jax.set_mesh with explicit axes around the step, whose layers do not "
            "carry them; pass the mesh to jaxvae.parallel.shard alone"
        )


def _require_devices(devices: Sequence[Any] | int | None) -> list[Any]:
    if jax.process_count() > 1:
        raise InputError(
            f"pmap: expected one process, got {jax.process_count()}; use jaxvae.parallel.shard"
        )
    if not isinstance(devices, int):
        found = list(jax.devices() if devices is None else devices)
        if not found:
            raise InputError("devices: expected at least one device, got none")
        return found
    return first_devices(devices)


def first_devices(devices: int) -> list[Any]:
    """Return the first `devices` of `jax.devices()`.

    Raises:
        InputError: there are fewer devices.
    """
    require_positive(devices=devices)
    if devices > jax.device_count():
        raise InputError(
            f"devices: expected at most {jax.device_count()}, the number of {jax.default_backend()} "
            f"devices, got {devices}; on a CPU start with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
        )
    return jax.devices()[:devices]
