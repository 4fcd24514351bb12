"""The numbers of one device on two processes with two devices each; see hosts.py."""

from functools import cache, partial

import jax
import numpy as np

import jaxvae as jv
from jaxvae import hosts
from jaxvae.placement import local
from tests.devices.numbers import RAGGED, SGD, STATE, STEP, STEPS, XS
from tests.devices.support import rejected, same, train

LONG = 200


def on_both(way, step, state, batch, num_steps):
    """A run on the devices of both processes, its last state brought back to this one's."""
    last, history = train(way(step), state, batch, num_steps)
    return local(last), history


@cache
def over_mesh(step):
    return jv.parallel.shard(step, jv.parallel.data_mesh())


@cache
def of_one():
    return train(jax.jit(STEP), STATE, RAGGED, LONG)


def hold(way, state=STATE):
    """20 steps to 1e-5 and 200 to 1e-3 on rows that 4 devices do not divide, with their noise."""
    expected = of_one()
    result = on_both(way, STEP, state, RAGGED, LONG)
    first = slice(0, STEPS)
    same((STATE, result[1][first]), (STATE, expected[1][first]))
    same(result, expected, rtol=1e-3)


def check_there_are_two_processes():
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    rows = jv.parallel.place(np.zeros((8, 3), np.float32), jv.parallel.data_mesh())
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, 3)] * 2


def check_noise_and_losses():
    hold(over_mesh)


def check_that_other_noise_on_a_process_is_rejected():
    """The twin: the second process has another key, though both say that they share one."""
    own = STATE._replace(key=jax.random.fold_in(STATE.key, jax.process_index()))
    rejected(hold, over_mesh, own)


def check_a_step_that_couples_the_batch():
    objective = partial(jv.coupled.info_vae, alpha=0.5, lambda_=10.0)
    step = jv.training.make_step(objective, SGD, batch_coupled=True)
    result = on_both(over_mesh, step, STATE, XS[:13], 3)
    same(result, train(jax.jit(step), STATE, XS[:13], 3))


def check_what_is_said():
    assert hosts.gather(f"from {jax.process_index()}") == ["from 0", "from 1"]


CHECKS = [check for name, check in list(globals().items()) if name.startswith("check_")]
