"""What every model keeps with every bound: one table, one set of checks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae.batching import over_batch
from jaxvae.binding import bind
from jaxvae.distributions import sample
from jaxvae.keys import example_keys
from jaxvae.training.checkpoints import Checkpoints
from tests.support.contracts import CONTRACTS, examples_of
from tests.support.slow import slow_but

OPTIMIZER = optax.sgd(0.1)


def compiled(objectives, traces):
    """Mean gradients and terms of a batch for every objective, as one program."""

    @jax.jit
    def terms_and_gradients(model, keys, examples):
        traces.append(None)

        def of(objective):
            def mean(model):
                terms = over_batch(objective, keys, model, examples)
                return jnp.mean(terms.objective), terms

            return jax.grad(mean, has_aux=True)(model)

        return {name: of(objective) for name, objective in objectives.items()}

    return terms_and_gradients


FAST = ("vae", "conditional_vae", "factor_analysis", "ssvae")


@pytest.mark.parametrize("name", slow_but(CONTRACTS, *FAST))
def test_a_model_keeps_its_contract(name):
    contract = CONTRACTS[name]
    model, examples, objectives = contract.make(), examples_of(contract), contract.objectives()
    keys, traces = example_keys(jax.random.key(5), 0, examples.index), []
    call = compiled(objectives, traces)
    found = call(model, keys, examples)
    # One compilation serves two models of the same structure.
    call(jax.tree.map(jnp.copy, model), keys, examples)
    assert len(traces) == 1
    if "dreg" in found:  # an estimator bends the gradient, never the value
        same_terms(found["dreg"][1], found["iwae"][1])
    # Every parameter is reached.
    for which, (gradient, _) in found.items():
        for path, leaf in jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)):
            assert np.all(np.isfinite(leaf)), which + jax.tree_util.keystr(path)
            assert np.any(np.asarray(leaf) != 0), which + jax.tree_util.keystr(path)


EAGER = ("vae", "conditional_vae", "ssvae")  # plain, with a label, with discrete latents


@pytest.mark.slow
@pytest.mark.parametrize("name", EAGER)  # of all models: tests/laws
def test_a_batch_is_its_examples_and_compiled_is_what_is_run_line_by_line(name):
    contract = CONTRACTS[name]
    model, examples, objective = (
        contract.make(),
        examples_of(contract),
        contract.objectives()["iwae"],
    )
    keys = example_keys(jax.random.key(5), 0, examples.index)
    batched = jax.jit(partial(over_batch, objective))(keys, model, examples)
    row = jax.tree.map(lambda column: column[1], examples)
    one = objective(keys[1], bind(model, row.label, row.mask), row.x)
    same_terms(jax.tree.map(lambda column: column[1], batched), one)


def same_terms(found, expected):
    for name, a, b in zip(found._fields, found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", slow_but(CONTRACTS, *FAST))
def test_a_model_is_saved_and_restored(name, tmp_path):
    model = CONTRACTS[name].make()
    state = jv.training.init(jax.random.key(0), model, OPTIMIZER)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state, loss=None)
        blank = state._replace(model=jax.tree.map(jnp.zeros_like, model))
        restored = checkpoints.restore(0, blank).model
    for (path, was), now in zip(
        jax.tree.leaves_with_path(model), jax.tree.leaves(restored), strict=True
    ):
        np.testing.assert_array_equal(was, now, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "name", slow_but(CONTRACTS, *set(CONTRACTS) - {"gaussian_mixture", "flow_prior_vae"})
)
def test_shapes_follow_the_protocol(name):
    contract = CONTRACTS[name]
    examples = examples_of(contract)
    row = jax.tree.map(lambda column: column[0], examples)
    model = bind(contract.make(), row.label, row.mask)
    assert isinstance(model, jv.Model)
    prior, q = model.prior(), model.posterior(row.x)
    p = model.likelihood(sample(prior, jax.random.key(0)))
    assert prior.batch_shape == q.batch_shape == p.batch_shape == ()
    assert prior.event_shape == q.event_shape
    assert p.event_shape == row.x.shape
    assert q.has_rsample == contract.path


def test_every_model_of_the_command_line_has_a_contract():
    from typing import get_args

    from jaxvae.runs.models import ModelName

    assert {name.split(",")[0].split(" of ")[0] for name in CONTRACTS} == set(get_args(ModelName))
