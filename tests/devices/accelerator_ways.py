"""Ways to the same numbers on the accelerator at hand: `jit`, `pmap`, `shard`, rows from disk; memory in K.

Run by test_device.py. Another program may sum in another order, which leaves float32 rounding; on a CPU rows from
disk give the same bits.
"""

import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.evaluation import streams
from jaxvae.training import InMemory, Streamed, loop, make_feed
from tests.devices.support import data_mesh, leaves, rejected, run_checks, same, start, train

jax.config.update("jax_default_matmul_precision", "highest")
SGD = optax.sgd(0.05)  # Adam would turn a rounding of a gradient near 0 into a step
STEP = jv.training.make_step(jv.elbo, SGD)
MODEL = jv.models.vae(jax.random.key(0), (6,), latent_dim=2, hidden=(8,))
XS = jax.random.bernoulli(jax.random.key(1), 0.4, (13, 6)).astype(jnp.float32)


def same_bits(found, expected):
    same(found, expected)
    if jax.default_backend() == "cpu":
        for a, b in zip(leaves(found[0]), leaves(expected[0]), strict=True):
            np.testing.assert_array_equal(a, b)
        assert found[1] == expected[1]


def check_that_pmap_and_shard_on_one_device_are_jit():
    batch = {"x": XS, "weight": jnp.linspace(0.5, 2.0, len(XS))}
    expected = train(jax.jit(STEP), start(MODEL, SGD), batch, 20)
    ways = jv.parallel.pmap(STEP, devices=1), jv.parallel.shard(STEP, data_mesh(1))
    for step in ways:
        same(train(step, start(MODEL, SGD), batch, 20), expected)
    twin = jv.training.make_step(jv.elbo, optax.sgd(0.0501))
    rejected(same, train(jax.jit(twin), start(MODEL, SGD), batch, 20), expected)


def stages(feed, seed=7):
    """States and metrics at three evaluations, across the ends of epochs of 10 steps."""
    state = jv.training.init(jax.random.key(seed), MODEL, SGD)
    found = []
    for stage in loop.stages(state, feed, total_steps=25, eval_every_steps=9):
        metrics = {name: float(value) for name, value in stage.metrics.items()}
        found.append(
            (jax.tree.map(jnp.copy, stage.state), [metrics])
        )  # the next dispatch takes it back
    return found


def check_that_rows_from_disk_are_those_in_memory():
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).integers(0, 256, (48, 6), dtype=np.uint8)
        np.save(Path(folder) / "x_train.npy", rows)
        np.save(Path(folder) / "x_test.npy", rows[:4])
        memory, disk = (
            make_feed(
                STEP,
                jv.data.load(folder, valid_size=8, binarize="dynamic", stream=stream),
                batch_size=4,
            )
            for stream in (False, True)
        )
        assert isinstance(memory, InMemory)
        assert isinstance(disk, Streamed)
        expected = stages(memory)
        for found, other in zip(stages(disk), expected, strict=True):
            same_bits(found, other)
        rejected(same_bits, stages(memory, seed=8)[-1], expected[-1])
        disk.close()


def bytes_of(num_samples, **options):
    """The memory that the compiled log-likelihood takes beside its arguments."""
    programs = []

    def compile_only(*args):
        programs.append(jitted.lower(*args).compile())
        return programs[-1](*args[3:])

    jitted = streams._batch
    with mock.patch.object(streams, "_batch", compile_only):
        jv.evaluation.log_likelihood(
            jax.random.key(1), MODEL, XS, num_samples=num_samples, batch_size=len(XS), **options
        )
    return programs[0].memory_analysis().temp_size_in_bytes


def hold_memory(few, many):
    print(f"    {few:,} bytes, {many:,} bytes")
    assert 0 < many < few + 2**20


def check_that_memory_is_flat_in_k():
    hold_memory(bytes_of(100), bytes_of(5000))
    rejected(hold_memory, bytes_of(100), bytes_of(5000, chunk_size=5000))


if __name__ == "__main__":
    run_checks(
        [check for name, check in list(globals().items()) if name.startswith("check_")],
        devices=jax.device_count(),
    )
