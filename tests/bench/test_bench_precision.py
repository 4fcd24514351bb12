"""Products as they are multiplied: bfloat16 operands and float32 sums, in every workload and alone."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.lax import dot_general_p

import jaxvae as jv
from jaxvae.bench import WORKLOADS, flop_of, products_of, workloads
from jaxvae.bench.alone import compile_alone, inputs, once
from jaxvae.bench.ceiling import prepare_ceiling, square_product
from jaxvae.bench.workloads import LAYERS, draw_rows
from jaxvae.networks import with_precision
from tests.support.refusals import unchecked

BF16, F32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
PARTS = ("vae", "conv_vae", "ssvae", "hierarchical")


def dtypes(products):
    return {(p.left[1], p.right[1], p.output[1]) for p in products}


@pytest.fixture
def traced(monkeypatch):
    """The products of a workload's step as it is prepared; nothing is compiled."""

    def job(model, objective, batch_size, rows):
        optimizer = optax.adam(1e-3)
        step = jv.training.make_step(objective, optimizer)
        state = jax.eval_shape(lambda: jv.training.init(jax.random.key(1), model, optimizer))
        return products_of(step, state, rows[:batch_size])

    monkeypatch.setattr(workloads, "training_job", job)
    rows = draw_rows(100)

    def products(name, precision):
        with unchecked():  # products in the place of a job
            return WORKLOADS[name].prepare(2, rows, precision)

    return products


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_products_have_the_dtypes_of_the_program(traced, name):
    half, full = traced(name, "bfloat16"), traced(name, "float32")
    assert dtypes(half) == {(BF16, BF16, F32)}
    assert dtypes(full) == {(F32, F32, F32)}  # the twin that was never told
    assert flop_of(half) == flop_of(full) > 0
    asked = {dict(product.params)["precision"] for product in traced(name, "highest")}
    assert asked == {"highest"}


def test_evaluation_follows_too(monkeypatch):
    seen = []
    evaluation_job = workloads.evaluation_job

    def seeing(model, *rest):
        seen.append(model)
        return evaluation_job(model, 2, *rest[1:])

    monkeypatch.setattr(workloads, "evaluation_job", seeing)
    WORKLOADS["evaluation"].prepare(2, draw_rows(4), "bfloat16")
    assert {layer.precision for layer in seen[0].decoder.layers} == {"bfloat16"}


def test_products_alone_are_those_of_the_step_in_bfloat16():
    model, _ = LAYERS["vae"]._replace(width=6, latent_dim=2).build(jax.random.key(0))
    model = with_precision(model, "bfloat16")
    found = products_of(jax.vmap(lambda x: model.posterior(x).mean), draw_rows(3))
    rights, pairs = inputs(found, jax.random.key(1))
    assert products_of(partial(once, found), rights, pairs) == found
    assert {array.dtype for array in (*rights, *(left for left, _ in pairs))} == {BF16}
    assert {after.dtype for _, after in pairs} == {F32}
    compile_alone(found, jax.random.key(2))(2)
    widened = Counter({p._replace(left=(p.left[0], F32)): n for p, n in found.items()})
    twin = inputs(widened, jax.random.key(1))  # the twin that reads float32 from memory
    assert {left.dtype for left, _ in twin[1]} == {F32}


def test_what_the_result_is_asked_to_be_is_kept():
    """A product of bfloat16 by bfloat16 to float32 that is written out, not by a layer."""
    x, w = jnp.ones((3, 4), BF16), jnp.ones((4, 5), BF16)
    (product,) = products_of(partial(jnp.matmul, preferred_element_type=jnp.float32), x, w)
    assert product.primitive is dot_general_p
    assert (product.left[1], product.right[1], product.output) == (BF16, BF16, ((3, 5), F32))
    assert product.apply(x, w).dtype == F32
    (narrow,) = products_of(jnp.matmul, x, w)  # the twin that sums in bfloat16
    assert narrow != product
    assert narrow.apply(x, w).dtype == BF16


@pytest.mark.parametrize(
    ("precision", "dtype", "asked"),
    [("float32", F32, None), ("bfloat16", BF16, "bfloat16"), ("highest", F32, "highest")],
)
def test_the_large_product(precision, dtype, asked):
    found = square_product(precision, 24)
    (product,) = found
    assert (product.left, product.right) == (((24, 24), dtype), ((24, 24), dtype))
    assert product.output == ((24, 24), F32)
    assert dict(product.params)["precision"] == asked
    assert flop_of(found) == 2 * 24**3
    multiplications = 24**3  # the twin that does not count the additions
    assert flop_of(found) != multiplications


def test_the_large_product_runs():
    ceiling = prepare_ceiling("bfloat16", 24)
    ceiling.run(2)
    assert ceiling.record() == {"size": 24, "dtype": "bfloat16", "flop": 2 * 24**3}
