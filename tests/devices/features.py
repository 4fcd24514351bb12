"""Models, objectives and layouts on eight devices; run by test_parallel.py."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from tests.devices.support import data_mesh, run_checks, same, start, train
from tests.support.refusals import refused

ADAM = optax.adam(1e-2)
XS = jax.random.bernoulli(jax.random.key(1), 0.4, (13, 6)).astype(jnp.float32)
MODEL = jv.models.vae(jax.random.key(0), (6,), latent_dim=2, hidden=(4,))
STEP = jv.training.make_step(jv.elbo, ADAM)


def hold(step, model, batch, *, ways=("shard", "pmap"), num_steps=3, optimizer=ADAM):
    """The numbers of one device on eight."""
    state = start(model, optimizer)
    expected = train(jax.jit(step), state, batch, num_steps)
    for way in ways:
        many = jv.parallel.pmap(step) if way == "pmap" else jv.parallel.shard(step, data_mesh(8))
        same(train(many, state, batch, num_steps), expected)


def check_convolutions_with_values_not_observed():
    model = jv.models.conv_vae(jax.random.key(0), (6, 6), latent_dim=2, channels=(2,))
    xs = jax.random.bernoulli(jax.random.key(1), 0.4, (10, 6, 6)).astype(jnp.float32)
    mask = jax.random.bernoulli(jax.random.key(2), 0.8, xs.shape).astype(jnp.float32)
    hold(STEP, model, {"x": xs, "mask": mask})


def check_labels():
    model = jv.models.conditional_vae(
        jax.random.key(0), (6,), num_classes=3, latent_dim=2, hidden=(4,)
    )
    hold(STEP, model, {"x": XS, "label": jnp.arange(13) % 3})


def check_few_labels():
    model = jv.models.ssvae(jax.random.key(0), (6,), num_classes=2, latent_dim=2, hidden=(4,))
    objective = partial(
        jv.semi_supervised.semi_supervised,
        labelled_x=XS[:4],
        labelled_y=jnp.array([0, 1, 1, 0]),
    )
    hold(jv.training.make_step(objective, ADAM), model, XS)


def check_a_batch_that_is_coupled():
    objective = partial(jv.coupled.info_vae, alpha=0.5, lambda_=10.0)
    step = jv.training.make_step(objective, ADAM, batch_coupled=True)
    hold(step, MODEL, {"x": XS, "weight": 0.5 * jnp.float32(jnp.arange(13) % 3)}, ways=("shard",))
    with refused("step", "couples the batch", "jaxvae.parallel.shard"):
        jv.parallel.pmap(step)(start(MODEL, ADAM), XS)


def check_expectation_maximisation():
    model = jv.models.ppca(jax.random.key(0), (6,), latent_dim=2)
    step = jv.training.make_em_step(model)
    hold(step, model, XS, ways=("shard",), optimizer=optax.identity())
    with refused("step", "make_step", "jaxvae.parallel.shard"):
        jv.parallel.pmap(step)


def check_a_running_mean():
    objective = partial(jv.iwae, num_samples=2, gradient="score")
    hold(jv.training.make_step(objective, ADAM, baseline_decay=0.9), MODEL, XS)


def check_parameters_dealt_out():
    """Large arrays lie in parts, those of the optimiser too; the numbers stay."""
    state = start(MODEL, ADAM)
    expected = train(jax.jit(STEP), state, XS, 3)
    both = jax.make_mesh((2, 4), ("data", "model"))
    for mesh, model_axis in ((both, "model"), (data_mesh(8), "data")):
        step = jv.parallel.shard(
            STEP, mesh, model_axis=model_axis, min_sharded_size=16, donate=True
        )
        result = train(step, jax.tree.map(jnp.copy, state), XS, 3)
        same(result, expected)
        for leaf in jax.tree.leaves(result[0]):
            large = leaf.size >= 16 and any(n % mesh.shape[model_axis] == 0 for n in leaf.shape)
            assert leaf.sharding.is_fully_replicated != large, leaf.sharding


def check_evaluation_of_rows_that_are_placed():
    xs = jnp.concatenate([XS, XS[:3]])
    placed = jv.parallel.place(xs, data_mesh(8))
    assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 6)] * 8
    for evaluate in (
        lambda xs: jv.evaluation.log_likelihood(jax.random.key(1), MODEL, xs, num_samples=7),
        lambda xs: jv.evaluation.kl_per_latent(MODEL, xs),
    ):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), evaluate(placed), evaluate(xs))
    with refused("xs", "multiple of 8", "(13, 6)"):
        jv.parallel.place(XS, data_mesh(8))


@dataclass
class Data:
    """A data set of the loop."""

    splits: dict = field(default_factory=lambda: {"train": {"x": np.asarray(XS)}})

    def observe(self, key, x):
        return x * (1 - 0.1 * jax.random.uniform(key, x.shape))


def check_the_loop():
    """A parallel step in the place of the bare one, inside a dispatch of many steps."""
    state = start(MODEL, ADAM)
    run = partial(jv.training.fit, dataset=Data(), batch_size=6, total_steps=6, eval_every_steps=2)
    expected, history = run(state, STEP)
    for step in (jv.parallel.shard(STEP, data_mesh(8)), jv.parallel.pmap(STEP)):
        result, records = run(state, step)
        same((result, [r["train"] for r in records]), (expected, [r["train"] for r in history]))


if __name__ == "__main__":
    run_checks([check for name, check in list(globals().items()) if name.startswith("check_")])
