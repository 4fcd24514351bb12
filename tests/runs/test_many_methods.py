"""What of many runs is a run's own, by model and method: each is the single run of its configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.runs import TrainConfig
from jaxvae.runs.config import build
from jaxvae.runs.many import members
from jaxvae.runs.together import method_of, own_values
from jaxvae.training.feeds import InMemory
from jaxvae.training.many import ManyInMemory, stack, take

TINY = TrainConfig(
    hidden=(16,),
    latent_dim=3,
    batch_size=400,  # three steps an epoch
    total_steps=20,
    eval_every_steps=10,
    test_num_samples=5,
    seed=3,
)
SETTINGS = {
    "vae": {},
    "rates and warm-up": {
        "learning_rate_decay": "cosine",
        "learning_rate_warmup_steps": 4,
        "kl_warmup_steps": 10,
    },
    "few labels": {"model": "ssvae", "num_labels": 6, "batch_size": 20, "hidden": (8,)},
    "em": {"model": "ppca", "fit": "em", "binarize": "none", "hidden": None, "batch_size": 128},
}


def data(state):
    return jax.tree.map(np.array, state._replace(key=jax.random.key_data(state.key)))


def alone(one, steps):
    """State and metrics of a single run."""
    state = jv.training.init(one.config.keys()[1], one.model, one.optimizer)
    feed = InMemory(one.step, one.dataset, batch_size=one.batch_size)
    return feed.run(jax.tree.map(jnp.copy, state), feed.no_metrics(state), 0, steps)


def together(parts, steps, *, keys=lambda keys: keys):
    """The same of runs that are trained at once."""
    own, size = own_values(parts), parts[0].batch_size
    state = stack([jv.training.init(p.config.keys()[1], p.model, p.optimizer) for p in parts])
    state = state._replace(key=keys(state.key))
    feed = ManyInMemory(
        lambda own: method_of(parts[0], own).step,
        own,
        parts[0].dataset,
        batch_size=size,
        num_runs=len(parts),
    )
    state, metrics = feed.run(state, feed.no_metrics(state), 0, steps)
    return [take(state, metrics, i) for i in range(len(parts))]


def same_run(found, expected):
    (state, metrics), (of_one, metrics_of_one) = found, expected
    assert jax.tree.structure(state) == jax.tree.structure(of_one)
    for a, b in zip(jax.tree.leaves(data(state)), jax.tree.leaves(data(of_one)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        # Adam divides by the root of squared gradients, which makes much of the rounding of small ones.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, metrics_of_one[name], rtol=1e-5, err_msg=name)


def write_labelled(folder):
    """Grey levels of three classes, whose bits are drawn anew at every step, those of labelled rows too."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 6)), rng.permutation(np.arange(60) % 3)
    np.savez(folder / "labelled.npz", x=x.astype(np.uint8), y=y)
    return str(folder / "labelled.npz")


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_each_of_many_is_the_single_run(name, tmp_path):
    values = {**TINY.__dict__, **SETTINGS[name]}
    if name == "few labels":
        values["data"] = write_labelled(tmp_path)
    lists = {"learning_rates": (1e-3, 4e-3), "betas": (0.5, 2.0)} if "rates" in name else {}
    chosen = members(TrainConfig(**values), seeds=None if lists else 2, **lists)
    parts = [build(config) for _, config in chosen]
    steps = 20 if name == "vae" else 6
    expected = alone(parts[-1], steps)
    same_run(together(parts, steps)[-1], expected)
    if name == "vae":  # the twin: runs that share a key
        with jax.debug_key_reuse(False):
            shared = together(parts, steps, keys=lambda keys: jnp.stack([keys[0]] * 2))
        with pytest.raises(AssertionError):
            same_run(shared[-1], expected)
