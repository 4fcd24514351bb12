"""Many runs dealt out over eight devices; run by test_parallel.py."""

import contextlib
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.runs import TrainConfig
from jaxvae.runs.many import resume_many, train_many
from jaxvae.runs.many_folder import ManyFolder
from jaxvae.runs.watch import Reporter
from jaxvae.training.many import (
    STACKED,
    ManyInMemory,
    deal_out,
    make_validations,
    run_mesh,
    stack,
    take,
)
from tests.devices.support import rejected, run_checks, same

SGD = optax.sgd(0.05)
STEP = jv.training.make_step(jv.elbo, SGD)
RUNS = 16


class Data:
    """Grey levels whose bits are drawn anew."""

    def __init__(self):
        x = np.random.default_rng(0).random((30, 6)).astype(np.float32)
        self.splits = {"train": {"x": x}, "valid": {"x": x[:7]}}

    def observe(self, key, x):
        return jax.random.bernoulli(key, x).astype(jnp.float32)


def started(runs):
    return stack(
        [
            jv.training.init(
                jax.random.key(i),
                jv.models.vae(jax.random.key(100 + i), (6,), latent_dim=2, hidden=(4,)),
                SGD,
            )
            for i in range(runs)
        ]
    )


def trained(mesh, runs=RUNS, steps=9):
    """The state of all runs after so many steps, over an epoch's end, and what validation says."""
    feed = ManyInMemory(lambda _: STEP, {}, Data(), batch_size=8, num_runs=runs, mesh=mesh)
    state = deal_out(started(runs), STACKED, mesh)
    metrics = feed.no_metrics(state)
    for begin, count in ((0, 4), (4, steps - 4)):
        state, metrics = feed.run(state, metrics, begin, count)
    return state, metrics, make_validations(lambda _: jv.elbo, {}, Data(), mesh=mesh)(state)


def hold(found, expected):
    """Every run has the numbers that it has on one device."""
    (state, metrics, valid), (of_one, metrics_of_one, valid_of_one) = jax.device_put(
        (found, expected), jax.devices()[0]
    )
    for i in range(len(of_one.key)):
        ours, theirs = take(state, metrics, i), take(of_one, metrics_of_one, i)
        numbers = [{k: float(v) for k, v in m.items()} for _, m in (ours, theirs)]
        same((ours[0], [numbers[0]]), (theirs[0], [numbers[1]]))
        for name in valid_of_one:
            np.testing.assert_allclose(valid[name][i], valid_of_one[name][i], rtol=1e-5)


def check_runs_dealt_out_have_the_numbers_of_one_device():
    mesh = run_mesh(RUNS, jax.devices())
    assert mesh.size == 8
    found, expected = trained(mesh), trained(None)
    hold(found, expected)
    for leaf in jax.tree.leaves(found[0]._replace(step=None)):
        assert leaf.shape[0] == RUNS
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [RUNS // 8] * 8
    turned = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0), found[0]._replace(key=None, step=None))
    turned = turned._replace(key=found[0].key, step=found[0].step)
    rejected(hold, (turned, *found[1:]), expected)  # the twin: each device has another's runs


def check_devices_that_do_not_divide_the_runs():
    assert [run_mesh(n, jax.devices()).size for n in (8, 6, 12, 7)] == [8, 6, 6, 7]
    assert run_mesh(11, jax.devices()) is None
    assert run_mesh(8, jax.devices()[:1]) is None


class Until(Reporter):
    """Remember what is said, and end as if killed when a step has been written down."""

    def __init__(self, step):
        self.step, self.said = step, []

    def say(self, line):
        self.said.append(line)

    def evaluation(self, record):
        if record["step"] == self.step:
            raise KeyboardInterrupt


def losses(many):
    return [[r["valid"]["loss"] for r in run.metrics()] for run in many.runs().values()]


def check_folders():
    """Written by two devices, gone on with by one, and the other way round."""
    config = TrainConfig(hidden=(8,), latent_dim=2, total_steps=6, eval_every_steps=2)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, first, then in (("a", None, 1), ("b", 1, None)):
            path, reporter = Path(folder) / name, Until(2)
            with contextlib.suppress(KeyboardInterrupt):
                train_many(config, path, seeds=2, reporter=reporter, devices=first)
            if first is None:
                assert reporter.said == ["2 runs on 2 of 8 devices, the most that divide 2 runs"]
            with contextlib.suppress(KeyboardInterrupt):
                resume_many(path, reporter=Until(6), devices=then)
            found.append(losses(ManyFolder(path)))
            assert np.shape(found[-1]) == (2, 3)
        np.testing.assert_allclose(*found, rtol=1e-5)
        assert np.abs(np.diff(found[0], axis=0)).min() > 1e-3  # the twin: the other run


if __name__ == "__main__":
    run_checks([check for name, check in list(globals().items()) if name.startswith("check_")])
