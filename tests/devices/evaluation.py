"""Evaluation, AIS and EM of rows that lie on eight devices; run by test_parallel.py.

What a device computes is read off its compiled program: one of eight computes about an eighth.
"""

import sys
from contextlib import ExitStack
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxvae as jv
from jaxvae.evaluation import streams
from tests.devices.support import data_mesh, rejected, run_checks

MANY = jax.random.bernoulli(jax.random.key(1), 0.4, (960, 12)).astype(jnp.float32)
XS = MANY[:48]
SHARE = 6
PLACED = jv.parallel.place(XS, data_mesh(8))
MODEL = jv.models.vae(jax.random.key(0), (12,), latent_dim=3, hidden=(16,))
KEY = jax.random.key(2)
EM = sys.modules["jaxvae.inference.em"]
COMPILED = [
    (streams, "_batch", slice(3, None)),
    (sys.modules["jaxvae.inference.fit_posterior"], "_fit_all", slice(3)),
    (sys.modules["jaxvae.evaluation.reliance"], "_reliance", slice(3)),
]
"""Module, compiled function, and which of its arguments are arrays."""


class Counted:
    """A compiled function that adds up the flop that one device computes in its calls."""

    def __init__(self, function, arrays):
        self.function, self.arrays = function, arrays
        self.program, self.flop = None, 0.0

    def __call__(self, *args):
        if self.program is None:
            self.program = self.function.lower(*args).compile()
        self.flop += self.program.cost_analysis()["flops"]
        return self.program(*args[self.arrays])


def counted(evaluate, xs):
    """What is found, and the flop of one device."""
    functions = []
    with ExitStack() as stack:
        for module, name, arrays in COMPILED:
            functions.append(Counted(getattr(module, name), arrays))
            stack.enter_context(mock.patch.object(module, name, functions[-1]))
        found = evaluate(xs)
    return found, sum(function.flop for function in functions)


def hold(evaluate, placed=PLACED):
    """On eight devices the numbers of one, and nearly an eighth of its work for each."""
    expected, flop_of_one = counted(evaluate, XS)
    found, flop = counted(evaluate, placed)
    same(found, expected)
    nearly_an_eighth(flop, flop_of_one)


def nearly_an_eighth(flop, flop_of_one):
    print(f"    a device of eight has 1/{flop_of_one / flop:.2f} of the flop")
    assert 6.5 * flop < flop_of_one < 8.5 * flop


def same(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


def log_likelihood(xs):
    found = jv.evaluation.log_likelihood(
        KEY, MODEL, xs, num_samples=70, chunk_size=30, batch_size=SHARE
    )
    return found.estimate, found.standard_error, found.ess


def ais(xs):
    """In batches of one size: chains amplify the rounding, which depends on it."""
    sizes = {"num_chains": 4, "num_temperatures": 20, "num_leapfrog": 2, "batch_size": SHARE}
    return jv.evaluation.ais(KEY, MODEL, xs, **sizes)


def fitted(xs):
    options = {"num_steps": 5, "num_bound_samples": 20}
    return jv.inference.fit_posteriors(KEY, MODEL, xs, **options).bound


def relied_on(xs):
    found = jv.evaluation.reliance_on_latents(KEY, MODEL, xs)
    return found.rate, found.drop


def check_log_likelihood():
    hold(log_likelihood)


def check_ais():
    hold(ais)


def check_fitted_posteriors():
    hold(fitted)


def check_reliance():
    hold(relied_on)


def check_em():
    """Of pPCA; its programs at more rows are counted and not run, since the M-step is the same on each."""
    start = jv.models.ppca(jax.random.key(3), (12,), latent_dim=2)
    step = EM._make_step(start)
    fit = partial(jv.inference.em, start, num_steps=2, tolerance=None)
    same(fit(PLACED), fit(XS))
    nearly_an_eighth(*(flop_of(step, start, (), xs, jnp.ones(960)) for xs in both(MANY)))
    everywhere = NamedSharding(data_mesh(8), PartitionSpec())
    copies = jax.device_put(MANY, everywhere)  # the twin: all rows on every device
    flop = (
        flop_of(step, start, (), copies, jnp.ones(960)),
        flop_of(step, start, (), MANY, jnp.ones(960)),
    )
    rejected(nearly_an_eighth, *flop)


def check_em_step():
    """Of a mixture, under `shard`."""
    start = jv.models.gaussian_mixture(jax.random.key(3), (12,), num_components=3)
    state = jv.training.init(jax.random.key(4), start, optax.identity())
    bare = jv.training.make_em_step(start)
    steps = jax.jit(jv.parallel.shard(bare, data_mesh(8))), jax.jit(bare)
    (after, metrics), (of_one, metrics_of_one) = (
        jax.block_until_ready(step(state, xs)) for step, xs in zip(steps, both(MANY), strict=True)
    )
    same(
        (dict(metrics), jax.tree.leaves(after.model)),
        (dict(metrics_of_one), jax.tree.leaves(of_one.model)),
    )
    nearly_an_eighth(
        *(flop_of(step, state, xs) for step, xs in zip(steps, both(MANY), strict=True))
    )
    program = steps[0].lower(state, both(MANY)[0]).compile().as_text()
    assert "all-gather" not in program  # only sums leave a device


def both(xs):
    """Placed on eight devices, and on one."""
    return jv.parallel.place(xs, data_mesh(8)), xs


def flop_of(step, *args):
    return step.lower(*args).compile().cost_analysis()["flops"]


def noise_and_sum(model, key, x):
    del model
    return jax.random.normal(key) + jnp.sum(x)


def noise_of(xs, batch_size=10, model=MODEL, **options):
    return streams.stream(noise_and_sum, model, KEY, xs, batch_size=batch_size, **options)


def check_sizes():
    """Whatever the batch, and however many rows a device has; progress ends with all of them."""
    expected = noise_of(XS)
    for count, batch_size in ((8, 1), (8, 4), (8, 100), (4, 5), (1, 7)):
        done = []
        placed = jv.parallel.place(XS, data_mesh(count))
        same(noise_of(placed, batch_size, on_progress=done.append), expected)
        assert done[-1] == len(XS)


def check_layouts():
    """Axes of make_mesh's own kind, two axes, rows replicated or cut along the event; a model on one device."""
    expected = noise_of(XS)
    both = jax.make_mesh((2, 4), ("a", "b"))
    for mesh, spec in (
        (data_mesh(8), ("data",)),
        (both, (("a", "b"),)),
        (both, (("b", "a"),)),
        (both, ("a", "b")),
        (jv.batching.layout_of(PLACED).mesh, ()),
        (jv.batching.layout_of(PLACED).mesh, (None,)),
    ):
        same(noise_of(jax.device_put(XS, NamedSharding(mesh, PartitionSpec(*spec)))), expected)
    same(noise_of(PLACED, model=jax.device_put(MODEL, jax.devices()[1])), expected)


def check_labels_and_values_not_observed():
    model = jv.models.conditional_vae(
        jax.random.key(0), (12,), num_classes=3, latent_dim=2, hidden=(8,)
    )
    mask = jax.random.bernoulli(jax.random.key(5), 0.8, XS.shape).astype(jnp.float32)
    batch = {"x": XS, "label": jnp.arange(len(XS)) % 3, "mask": mask}
    expected = jv.evaluation.terms(KEY, model, batch)
    for placed in (jv.parallel.place(batch, data_mesh(8)), batch | {"x": PLACED}):
        same(jv.evaluation.terms(KEY, model, placed), expected)


# Broken twins.


def check_that_twins_are_rejected():
    with mock.patch.object(streams, "layout_of", return_value=None):  # gathers rows, all on each
        rejected(hold, log_likelihood)
    shuffled = jv.parallel.place(XS[::-1], data_mesh(8))  # other rows
    rejected(lambda: same(noise_of(shuffled), noise_of(XS)))
    streams._batch.clear_cache()
    expected, fold_each = noise_of(XS), streams.fold_each
    streams._batch.clear_cache()
    with mock.patch.object(streams, "fold_each", lambda k, i: fold_each(k, i % SHARE)):
        rejected(lambda: same(noise_of(PLACED), expected))  # the noise of the first device on each
    streams._batch.clear_cache()
    same(noise_of(PLACED), noise_of(XS))


if __name__ == "__main__":
    run_checks([check for name, check in list(globals().items()) if name.startswith("check_")])
