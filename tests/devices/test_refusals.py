from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxvae as jv
from tests.support.refusals import refused

OPTIMIZER = optax.sgd(0.1)
STEP = jv.training.make_step(jv.elbo, OPTIMIZER)
COUPLED = partial(jv.coupled.info_vae, alpha=0.0, lambda_=1.0)
MESH = jax.make_mesh((1,), ("data",))


def test_more_devices_than_there_are():
    with refused("devices", str(jax.device_count()), "got 1000", "XLA_FLAGS"):
        jv.parallel.pmap(STEP, devices=1000)
    with refused("devices", "at least 1", "got 0"):
        jv.parallel.pmap(STEP, devices=0)
    with refused("devices", "got none"):
        jv.parallel.pmap(STEP, devices=[])


def test_a_mesh_without_the_axis():
    for call in (
        lambda: jv.parallel.shard(STEP, MESH, data_axis="batch"),
        lambda: jv.parallel.shard(STEP, MESH, model_axis="batch"),
        lambda: jv.parallel.place(jnp.ones((2, 3)), MESH, data_axis="batch"),
    ):
        with refused("mesh", "'batch'", "('data',)", "data_axis"):
            call()


def test_steps_that_cannot_be_mapped():
    with refused("step", "axis_name", "own_step", "jaxvae.parallel.shard"):

        def own_step(state, batch):
            return state, batch

        jv.parallel.pmap(own_step)


def test_microbatches():
    with refused("microbatches", "at least 1"):
        jv.training.make_step(jv.elbo, OPTIMIZER, microbatches=0)
    with refused("microbatches", "couples the batch", "got 2"):
        jv.training.make_step(COUPLED, OPTIMIZER, batch_coupled=True, microbatches=2)


@pytest.mark.parametrize("way", [lambda s: jv.parallel.shard(s, MESH), jv.parallel.pmap])
def test_a_batch_that_cannot_be_read_is_refused_as_by_the_bare_step(way):
    model = jv.models.vae(jax.random.key(0), (3,), latent_dim=1, hidden=(2,))
    state = jv.training.init(jax.random.key(1), model, OPTIMIZER)
    for batch, words in (({"y": jnp.ones((2, 3))}, ("x",)), (jnp.ones(3), ("(3,)",))):
        with refused("batch", *words):
            way(STEP)(state, batch)


@pytest.mark.parametrize("way", [lambda s: jv.parallel.shard(s, MESH), jv.parallel.pmap])
def test_a_mesh_of_explicit_axes_around_the_step(way):
    with jax.set_mesh(MESH), refused("mesh", "jax.set_mesh", "explicit"):
        way(STEP)(None, jnp.ones((2, 3)))


def test_a_compiled_step_is_as_good_as_a_bare_one():
    model = jv.models.vae(jax.random.key(0), (3,), latent_dim=1, hidden=(2,))
    state = jv.training.init(jax.random.key(1), model, OPTIMIZER)
    after, _ = jv.parallel.pmap(jax.jit(STEP), devices=1)(state, jnp.ones((2, 3)))
    assert int(after.step) == 1
