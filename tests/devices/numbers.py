"""The numbers of one device on 1, 2, 4 and 8, by both ways; run by test_parallel.py."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from tests.devices.support import data_mesh, rejected, run_checks, same, start, train

STEPS = 20
ROWS = 13  # divides by none of 2, 4 and 8


def noisy(key, model, x):
    """The ELBO; in the place of its rate a draw of the same key."""
    terms = jv.elbo(key, model, x)
    return terms._replace(rate=jax.random.normal(jax.random.fold_in(key, 1)) + 10)


SGD = optax.sgd(0.05)
STEP = jv.training.make_step(noisy, SGD)
MODEL = jv.models.vae(jax.random.key(0), (6,), latent_dim=2, hidden=(4,))
STATE = start(MODEL, SGD)
XS = jax.random.bernoulli(jax.random.key(1), 0.4, (16, 6)).astype(jnp.float32)
RAGGED = {
    "x": XS[:ROWS],
    "index": 3 * jnp.arange(ROWS) + 1,
    "weight": jnp.linspace(0.5, 2.0, ROWS),
    "mask": jnp.ones(ROWS).at[2].set(0.0),
}
TAIL = {"x": XS[:3]}  # fewer rows than devices, counted from 0


@cache
def expected():
    step = jax.jit(STEP)
    return train(step, STATE, RAGGED, STEPS), train(step, STATE, TAIL, 2)


@cache
def sharded(step, count):
    return jv.parallel.shard(step, data_mesh(count))


@cache
def pmapped(step, count):
    return jv.parallel.pmap(step, devices=count)


def hold(way, count):
    """20 steps on a ragged, weighted, masked batch, with its noise, are those of one device."""
    same(train(way(STEP, count), STATE, RAGGED, STEPS), expected()[0])


def check_shard():
    for count in (1, 2, 4, 8):
        hold(sharded, count)


def check_pmap():
    for count in (1, 2, 4, 8):
        hold(pmapped, count)


def check_one_compilation_and_small_batches():
    for way in (sharded, pmapped):
        chex.clear_trace_counter()
        step = way(chex.assert_max_traces(STEP, n=2), 8)  # one for each size of the batch
        state, _ = train(step, STATE, RAGGED, 3)
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
        assert len(state.step.devices()) == 8
        same(train(step, STATE, TAIL, 2), expected()[1])


def check_state_and_batch_placed_on_explicit_axes():
    mesh = data_mesh(8)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    dealt = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state, xs = jax.device_put(STATE, everywhere), jax.device_put(XS, dealt)
    expected = train(jax.jit(STEP), STATE, XS, 2)
    for way, count in ((sharded, 8), (pmapped, 8), (pmapped, 2)):
        same(train(way(STEP, count), state, xs, 2), expected)


def check_a_run_goes_on_with_fewer_devices():
    for way in (sharded, pmapped):
        state, history = STATE, []
        for step in (way(STEP, 8), way(STEP, 2), way(STEP, 1), jax.jit(STEP)):
            state, more = train(step, state, RAGGED, STEPS // 4)
            history += more
        same((state, history), expected()[0])


def check_microbatches():
    step = jv.training.make_step(noisy, SGD, microbatches=4)
    for each in (jax.jit(step), sharded(step, 8), pmapped(step, 2)):
        same(train(each, STATE, RAGGED, STEPS), expected()[0])


def check_microbatches_need_less_memory():
    xs = jnp.zeros((512, 6))  # and wide layers: a batch itself is held whole, whatever their number
    state = start(jv.models.vae(jax.random.key(0), (6,), latent_dim=2, hidden=(64,)), SGD)

    def temporary_bytes(microbatches):
        step = jax.jit(jv.training.make_step(noisy, SGD, microbatches=microbatches))
        return step.lower(state, xs).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < temporary_bytes(1) / 3


# Broken twins.


def mean_of_means(step, count):
    """Gradients and losses as means of the devices' means: what `pmean` of a bare step does."""
    del step
    mean = optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda g, s, params=None: (jax.lax.pmean(g, "data"), s)
    )
    bare = jv.training.make_step(noisy, optax.chain(mean, SGD))

    def local(state, batch, *, axis_name):
        state, metrics = bare(
            state._replace(opt_state=(optax.EmptyState(), *[state.opt_state])), batch
        )
        means = {name: jax.lax.pmean(value, axis_name) for name, value in metrics.items()}
        return state._replace(opt_state=state.opt_state[1]), means

    return pmapped(local, count)


def same_noise(step, count):
    """Keys by the position on the device, not in the batch."""

    def local(state, batch, *, axis_name):
        index = jnp.arange(batch["x"].shape[0])
        return step(state, batch | {"index": index}, axis_name=axis_name)

    return pmapped(local, count)


def check_that_twins_are_rejected():
    rejected(hold, mean_of_means, 4)
    rejected(hold, same_noise, 4)
    same(train(mean_of_means(STEP, 4), STATE, {"x": XS}, 2), train(jax.jit(STEP), STATE, XS, 2))
    noise = [
        train(way(STEP, 4), STATE, {"x": XS}, 1)[1][0]["rate"] for way in (pmapped, same_noise)
    ]
    assert np.abs(noise[0] - noise[1]) > 1e-3


if __name__ == "__main__":
    run_checks([check for name, check in list(globals().items()) if name.startswith("check_")])
