"""Streamed batches dealt out over eight devices; run by test_streamed.py in a process of its own."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxvae as jv
from jaxvae.placement import put, replicated
from jaxvae.training import InMemory, loop, streamed
from tests.devices.support import data_mesh, rejected, run_checks

ROWS = 61


def dataset(stream):
    return jv.data.load(FOLDER, valid_size=0, binarize="dynamic", stream=stream)


def save():
    folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    np.save(folder / "x_train.npy", rng.integers(0, 256, (ROWS, 5), dtype=np.uint8))
    np.save(folder / "x_test.npy", rng.integers(0, 256, (9, 5), dtype=np.uint8))
    return folder


FOLDER = save()


class Mean(NamedTuple):
    """A model of a few floats."""

    mean: Any


def objective(key, model, x):
    return -jnp.sum((x + 0.1 * jax.random.normal(key, x.shape) - model.mean) ** 2)


OPTIMIZER = optax.sgd(1e-2)
STEP = jv.training.make_step(objective, OPTIMIZER)


def train(feed, state):
    *_, last = loop.stages(state, feed, total_steps=30, eval_every_steps=30)
    return jax.tree.leaves((last.state.model, dict(last.metrics)))


def check_numbers_on_devices():
    """Of a batch that divides the devices and of one that does not; on the mesh of a run, and on any."""
    run_mesh = jv.parallel.data_mesh()
    assert run_mesh is not None
    state = jv.training.init(jax.random.key(1), Mean(jnp.zeros(5)), OPTIMIZER)
    for batch_size, mesh in ((16, run_mesh), (13, data_mesh(8))):
        expected = train(InMemory(STEP, dataset(False), batch_size=batch_size), state)
        on_mesh = put(state, replicated(mesh)) if mesh is run_mesh else state
        options = {"batch_size": batch_size, "mesh": mesh, "chunk_bytes": 7 * 80}
        with streamed.Streamed(jv.parallel.shard(STEP, mesh), dataset(True), **options) as feed:
            found = train(feed, on_mesh)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=1e-5)


def chunk(batch_size, mesh, key=None):
    train_rows = dataset(True).splits["train"]
    key = jax.random.key(1) if key is None else key
    batches = streamed.Batches(key, ROWS, batch_size)
    return streamed.Chunks(train_rows.read, batches, 5, mesh)[2]


def check_chunks_are_the_same_rows():
    for batch_size in (16, 13):
        expected = chunk(batch_size, None)
        mesh = streamed._automatic(data_mesh(8))
        found = chunk(batch_size, mesh)
        for name, array in found.items():
            assert array.sharding.spec == PartitionSpec(None, "data"), name
            assert {s.data.shape[1] for s in array.addressable_shards} == {2}, name
            np.testing.assert_array_equal(np.asarray(array)[:, :batch_size], expected[name])


def check_the_key_may_lie_on_many_devices():
    mesh = data_mesh(8)
    key = put(jax.random.key(1), replicated(mesh))
    np.testing.assert_array_equal(chunk(16, None, key)["index"], chunk(16, None)["index"])


def parts_make_the_batch(spans):
    """Processes of two devices each read every row of a batch, and none of them twice."""
    mesh = streamed._automatic(data_mesh(8))
    places = NamedSharding(mesh, PartitionSpec(None, "data")).devices_indices_map((5, 16))
    rows = jnp.arange(16)
    read = []
    for process in range(4):
        own = [places[device] for device in jax.devices()[2 * process : 2 * process + 2]]
        read.append(np.concatenate([rows[slice(*span)] for span in spans(own)]))
        assert len(read[-1]) == 4, "a quarter each"
    np.testing.assert_array_equal(np.concatenate(read), rows)


def check_parts():
    parts_make_the_batch(streamed.spans)

    def overlapping(places):
        return [
            (max(0, start - 1), stop - 1 if start else stop)
            for start, stop in streamed.spans(places)
        ]

    def all_from_the_first(places):
        return [(start % 4, (stop - 1) % 4 + 1) for start, stop in streamed.spans(places)]

    rejected(lambda: parts_make_the_batch(overlapping))
    rejected(lambda: parts_make_the_batch(all_from_the_first))


def check_copies_of_a_row_range_are_read_once():
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    places = NamedSharding(mesh, PartitionSpec(None, "data")).devices_indices_map((5, 16))
    assert streamed.spans(places.values()) == [(0, 4), (4, 8), (8, 12), (12, 16)]


if __name__ == "__main__":
    run_checks(
        [
            check_numbers_on_devices,
            check_chunks_are_the_same_rows,
            check_the_key_may_lie_on_many_devices,
            check_parts,
            check_copies_of_a_row_range_are_read_once,
        ]
    )
