"""A feed for training rows that stay on disk: the same batches as `InMemory`, read ahead of the steps.

The batch of step t is a function of (key, t), as with rows in memory, so the position in the data is
`state.step`, and a resumed run continues reading where it stopped. Rows are read in chunks, each the batches
of a few steps, by threads of grain, and put on the device while the previous chunk is trained on.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxvae.checks import require_positive
from jaxvae.keys import OfRun, example_keys, stream_key
from jaxvae.placement import local, replicated
from jaxvae.training.blocks import choose_block_steps, compiled, repeat_blocks, require_blocks
from jaxvae.training.feeds import (
    DataSet,
    Feed,
    InMemory,
    epoch_order,
    no_metrics,
    on,
    require_batch,
)
from jaxvae.training.metrics import Metrics
from jaxvae.training.step import Step, TrainState
from jaxvae.types import InputError, PRNGKey

CHUNK_BYTES = 2**23
CHUNK_STEPS = 64
CHUNKS_AHEAD = 2
THREADS = 2
PIECE_ROWS = 1024  # rows per read, so that reading stops soon after the feed is closed

Read: TypeAlias = Callable[[Int[np.ndarray, "n"]], Mapping[str, np.ndarray]]
Chunk: TypeAlias = dict[str, Array]
"""The batches of C steps: `index` [C, B], `x` [C, B, *event] as stored, and the other fields of the rows."""


@runtime_checkable
class OnDisk(Protocol):
    """The interface of a split that stays on disk, as in `jaxvae.data.load(..., stream=True)`."""

    def read(self, rows: Int[np.ndarray, "n"], /) -> Mapping[str, np.ndarray]:
        """Read the rows with these numbers; called from several threads."""
        ...


def make_feed(
    step: Step,
    dataset: DataSet,
    *,
    batch_size: int,
    block_steps: int = 1,
    mesh: Mesh | None = None,
) -> Feed:
    """Return the feed of a data set: `Streamed` if its training rows stay on disk, else `InMemory`.

    Args:
        step: from `make_step`; with a mesh, made for it by `jaxvae.parallel.shard`.
        dataset: from `jaxvae.data.load`.
        batch_size: B, at most the number of training rows.
        block_steps: S, as in `InMemory`.
        mesh: the devices over whose axis "data" the rows of a batch are split; one device if None.

    Raises:
        InputError: a size is not usable.
    """
    kind = Streamed if isinstance(dataset.splits["train"], OnDisk) else InMemory
    return kind(step, dataset, batch_size=batch_size, block_steps=block_steps, mesh=mesh)


class Streamed:
    """A feed of rows that stay on disk, with batches that equal those of `InMemory` to the bit.

    A chunk holds the batches of C consecutive steps, C a multiple of S: as many as fit in `chunk_bytes`,
    at least 1 and at most 64. Besides the chunk in use, two are read ahead. So the memory needed is 3 chunks on
    the device, the chunks that 2 threads are reading, and 4 bytes per row for the order of an epoch (of two
    epochs around the end of one).

    Close it, or use it in `with`, to stop its threads at once; garbage collection stops them too.

    Args:
        step: from `make_step`; with a mesh, made for it by `jaxvae.parallel.shard`.
        dataset: a data set whose train split is `OnDisk`.
        batch_size: B, at most the number of training rows.
        block_steps: S, as in `InMemory`; replaced by a divisor of it if S steps do not fit in a chunk.
        mesh: the devices, of one process or several, over whose axis "data" the rows of every batch are
            split. Each process reads the rows of its own devices, and the batches are the same for any
            number of devices.
        chunk_bytes: the largest size of the stored rows of a chunk, bytes.

    Raises:
        InputError: a size is not usable; when run, if rows cannot be read.
    """

    def __init__(
        self,
        step: Step,
        dataset: DataSet,
        *,
        batch_size: int,
        block_steps: int = 1,
        mesh: Mesh | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ):
        require_positive(batch_size=batch_size, block_steps=block_steps, chunk_bytes=chunk_bytes)
        train = dataset.splits["train"]
        require_batch(batch_size, size := len(train["x"]))
        self._read, self._size, self._batch_size = cast(OnDisk, train).read, size, batch_size
        row_bytes = sum(a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in train.values())
        fitting = max(1, min(CHUNK_STEPS, chunk_bytes // (batch_size * row_bytes)))
        self.block_steps = choose_block_steps(block_steps, most=fitting)
        self._steps = fitting // self.block_steps * self.block_steps
        self._mesh = None if mesh is None else _automatic(mesh)
        self._no_metrics = partial(no_metrics, step, dataset=dataset, batch_size=batch_size)
        run = make_run(
            step,
            dataset.observe,
            batch_size=batch_size,
            chunk_steps=self._steps,
            block_steps=self.block_steps,
            mesh=self._mesh,
        )
        self._run = compiled(run)
        self._on_device = jax.device_put if mesh is None else partial(on, self._mesh)
        self._next = -1  # the step after the last dispatch
        self._key: PRNGKey | None = None  # the array that the last dispatch returned
        self._chunk: tuple[int, Chunk] | None = None
        self._chunks: Iterator[Chunk] | None = None
        self._stop: Callable[[], Any] = lambda: None

    def no_metrics(self, state: TrainState) -> Metrics:
        """Return empty metrics, without computing anything."""
        return self._no_metrics(state)

    def longest(self, step: int) -> int:
        """Return the number of steps left in the chunk that contains `step`."""
        return self._steps - step % self._steps

    def run(
        self, state: TrainState, metrics: Metrics, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Run `count` steps of one chunk, after waiting until its rows have been read."""
        require_blocks(step, count, self.block_steps, self.longest(step))
        try:
            chunk = self._chunk_of(state, step)
        except BaseException:
            self.close()
            raise
        self._next = step + count
        blocks = self._on_device(np.int32(count // self.block_steps))
        state, metrics = self._run(state, metrics, chunk, blocks)
        self._key = state.key
        return state, metrics

    def close(self) -> None:
        """Stop reading and discard the chunks read so far; a later `run` starts reading again."""
        self._stop()
        self._chunks = self._chunk = None

    def __enter__(self) -> "Streamed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunk_of(self, state: TrainState, step: int) -> Chunk:
        number = step // self._steps
        if step != self._next or state.key is not self._key:
            self.close()
        chunks = self._chunks or self._opened(state.key, number)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = None  # freed before waiting for the next chunk, which may need its memory
            self._chunk = number, next(chunks)
        return self._chunk[1]

    def _opened(self, key: PRNGKey, number: int) -> Iterator[Chunk]:
        """Return the chunks from number `number` on, read ahead by threads."""
        import grain

        batches = Batches(key, self._size, self._batch_size)
        chunks = Chunks(self._read, batches, self._steps, self._mesh)
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=CHUNKS_AHEAD)
        iterator = iter(grain.MapDataset.source(chunks).to_iter_dataset(options))
        iterator.set_state({"next_index": number})
        self._stop = weakref.finalize(self, _stop, chunks, iterator)
        self._chunks = iterator
        return iterator


def _stop(chunks: "Chunks", iterator: Any) -> None:
    chunks.closed.set()
    iterator.close()


class Batches:
    """The row numbers of every step's batch, equal to those of `InMemory`; safe to call from several threads.

    Args:
        key: the run's key.
        size: N, the number of training rows.
        batch_size: B.
    """

    def __init__(self, key: PRNGKey, size: int, batch_size: int):
        # A private copy: the state's key is donated to the next dispatch, and may lie on several devices.
        data = np.asarray(jax.random.key_data(local(key)))
        self._key = jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(key))
        self._size, self.batch_size = size, batch_size
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, step: int) -> Int[np.ndarray, "B"]:
        """Return the row numbers of the batch of this step, in order."""
        epoch, position = divmod(step, self._size // self.batch_size)
        start = position * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def _order(self, epoch: int) -> Int[np.ndarray, "N"]:
        with self._lock:
            if epoch not in self._orders:
                kept = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
                self._orders = kept | {epoch: np.asarray(_permuted(self._key, epoch, self._size))}
            return self._orders[epoch]


_permuted = jax.jit(epoch_order, static_argnums=2)


class Chunks:
    """A grain source whose element i is a chunk on the device: the batches of steps i C to (i + 1) C - 1.

    Args:
        read: reads rows by their numbers.
        batches: the row numbers of every step's batch.
        steps: C, the steps of a chunk.
        mesh: the devices over whose axis "data" the rows are split; a process reads the rows of its own devices.
    """

    def __init__(self, read: Read, batches: Batches, steps: int, mesh: Mesh | None):
        self._read, self._batches, self._steps = read, batches, steps
        self._mesh = mesh
        self.closed = threading.Event()

    def __len__(self) -> int:
        return (2**31 - 1) // self._steps  # steps are int32

    def __getitem__(self, index: Any) -> Chunk:
        start = int(index) * self._steps
        rows = np.stack([self._batches(step) for step in range(start, start + self._steps)])
        if self._mesh is None:
            return jax.device_put(self._rows(rows))
        return self._dealt(rows, self._mesh)

    def _rows(self, index: Int[np.ndarray, "C b"]) -> dict[str, np.ndarray]:
        """Read the fields of rows [C, b], with the row numbers as `index`."""
        flat, parts = index.ravel(), []
        for start in range(0, len(flat), PIECE_ROWS):
            if self.closed.is_set():
                raise InputError("stream: the feed was closed while it was reading")
            parts.append(self._read(flat[start : start + PIECE_ROWS]))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        rows = {name: a.reshape(*index.shape, *a.shape[1:]) for name, a in joined.items()}
        return {name: a for name, a in rows.items() if name != "factors"} | {"index": index}

    def _dealt(self, index: Int[np.ndarray, "C B"], mesh: Mesh) -> Chunk:
        """Read a chunk whose batches are split over the mesh; uneven batches are padded, the step drops the padding."""
        spec = NamedSharding(mesh, PartitionSpec(None, "data"))
        index = np.pad(index, ((0, 0), (0, -index.shape[1] % mesh.shape["data"])), mode="edge")
        places = spec.addressable_devices_indices_map(index.shape)
        parts = {span: self._rows(index[:, slice(*span)]) for span in spans(places.values())}

        def of(name: str) -> Array:
            some = next(iter(parts.values()))[name]
            shape = (*index.shape, *some.shape[2:])
            return jax.make_array_from_callback(
                shape, spec, lambda place: parts[spans([place])[0]][name], dtype=some.dtype
            )

        return {name: of(name) for name in next(iter(parts.values()))}


def spans(places: Iterable[Any]) -> list[tuple[int | None, int | None]]:
    """Return the distinct ranges of batch rows (axis 1) in these index ranges of an array [C, B, ..].

    The devices of all processes together hold every row; two processes share no row unless the mesh has
    another axis besides "data".
    """
    return sorted({(place[1].start, place[1].stop) for place in places})


def make_run(
    step: Step,
    observe: Callable[[PRNGKey, Array], Array],
    *,
    batch_size: int,
    chunk_steps: int,
    block_steps: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Metrics, Chunk, Array], tuple[TrainState, Metrics]]:
    """Return the dispatch `run(state, metrics, chunk, blocks)`: S steps per block. Pure, not compiled.

    It runs the steps of the chunk from `state.step` on; one compilation serves every start and every count.
    """

    def run(
        state: TrainState, metrics: Metrics, chunk: Chunk, blocks: Int[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        observation_key = stream_key(state.key, OfRun.OBSERVATION)

        def one(carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            at = state.step % chunk_steps
            batch = {
                name: jax.lax.dynamic_index_in_dim(a, at, keepdims=False)[:batch_size]
                for name, a in chunk.items()
            }
            keys = example_keys(observation_key, state.step, batch["index"])
            state, new = step(state, batch | {"x": jax.vmap(observe)(keys, batch["x"])})
            return state, metrics.merge(new)

        carry = repeat_blocks(one, (state, metrics), blocks, block_steps)
        return carry if mesh is None else jax.lax.with_sharding_constraint(carry, replicated(mesh))

    return run


def _automatic(mesh: Mesh) -> Mesh:
    """Return the mesh with axes of type Auto (sharding chosen by XLA), unlike those of `jax.make_mesh`."""
    if "data" not in mesh.axis_names:
        raise InputError(
            f"mesh: expected one with an axis 'data', got the axes {mesh.axis_names}; name it in "
            'jax.make_mesh((jax.device_count(),), ("data",))'
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
