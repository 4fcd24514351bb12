"""Runs whose end is known, rows of products, masks, bits and chains of bits: by hand, NumPy and enumeration."""

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import special

import jaxvae as jv
from jaxvae.distributions import Chain, FloatBernoulli, log_prob, made_masks
from jaxvae.models.likelihoods import BernoulliLogits
from jaxvae.networks import MLP, with_precision
from jaxvae.rows import operands, rows
from jaxvae.training import InMemory, feeds, loop
from jaxvae.training.metrics import Metrics

# Runs.

XS = np.random.default_rng(0).normal(2.0, 1.0, size=(10, 3)).astype(np.float32)


class Mean(NamedTuple):
    mean: Any


def data(xs=XS):
    return SimpleNamespace(
        splits={"train": {"x": xs}, "valid": {"x": xs[:4]}}, observe=lambda key, x: x
    )


def square(key, model, x):
    return -jnp.sum((x - model.mean) ** 2) / 2


def fitted(xs=XS, total_steps=12):
    """A mean by gradient descent of rate 0.1 on all rows, and what was said at steps 6 and 12."""
    optimizer = optax.sgd(0.1)
    step = jv.training.make_step(square, optimizer)
    state = jv.training.init(jax.random.key(0), Mean(jnp.zeros(3)), optimizer)
    return jv.training.fit(
        state, step, data(xs), batch_size=len(xs), total_steps=total_steps, eval_every_steps=6
    )


def check_fit(fit):
    """`m_t = (1 - 0.9^t) mean(x)`, and the mean loss of the steps before each evaluation."""
    state, history = fit()
    xs = np.float64(XS)
    path = (1 - 0.9 ** np.arange(13))[:, None] * xs.mean(axis=0)
    np.testing.assert_allclose(state.model.mean, path[12], rtol=1e-5)
    loss = [np.sum((xs - m) ** 2) / 2 / len(xs) for m in path]
    found = [record["train"]["loss"] for record in history]
    np.testing.assert_allclose(found, [np.mean(loss[:6]), np.mean(loss[6:12])], rtol=1e-5)


def test_a_run_of_gradient_descent_is_its_geometric_series():
    check_fit(fitted)
    for twin in (partial(fitted, total_steps=18), partial(fitted, xs=XS[:9])):
        with pytest.raises(AssertionError):
            check_fit(twin)


def check_epochs():
    """Every row once in an epoch of five steps of two rows, in another order in the next."""

    def step(state, batch):
        seen = state.model.at[state.step].set(batch["index"])
        metrics = Metrics.of({"loss": jnp.zeros(2)}, None)
        return state._replace(model=seen, step=state.step + 1), metrics

    state = jv.training.TrainState(
        jnp.zeros((10, 2), jnp.int32), (), jax.random.key(0), jnp.int32(0), jnp.zeros(())
    )
    feed = InMemory(step, data(), batch_size=2)
    (stage,) = loop.stages(state, feed, total_steps=10, eval_every_steps=10)
    epochs = np.asarray(stage.state.model).reshape(2, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (2, 1)))
    assert np.any(epochs[0] != epochs[1]), "epochs repeat"


def with_replacement(key, epoch, size):
    return jax.random.randint(jax.random.fold_in(key, epoch), (size,), 0, size)


def the_same_again(key, epoch, size):
    return jax.random.permutation(jax.random.fold_in(key, 0), size)


def test_an_epoch_in_memory_is_every_row_once(monkeypatch):
    check_epochs()
    for twin in (with_replacement, the_same_again):
        monkeypatch.setattr(feeds, "epoch_order", twin)
        with pytest.raises(AssertionError):
            check_epochs()


# Products and masks.


def check_rows(product):
    """`x @ w` of NumPy, and the slopes of `sum g (x @ w)` over a batch, `g w'` and `x' g`."""
    rng = np.random.default_rng(0)
    x, w, g = rng.normal(size=(5, 4, 3)), rng.normal(size=(3, 2)), rng.normal(size=(5, 4, 2))

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def slopes(x, w):
        return jnp.sum(jnp.float32(g) * jax.vmap(product, (0, None))(x, w))

    value, (by_x, by_w) = slopes(jnp.float32(x), jnp.float32(w))
    np.testing.assert_allclose(value, np.sum(g * (x @ w)), rtol=1e-5)
    np.testing.assert_allclose(by_x, g @ w.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_w, np.einsum("bni,bno->io", x, g), rtol=1e-5, atol=1e-5)


def test_rows_are_numpys_product():
    check_rows(rows)
    for twin in (
        lambda x, w: rows(x, jax.lax.stop_gradient(w)),
        lambda x, w: rows(x[::-1], w),
        partial(rows, precision="bfloat16"),
    ):
        with pytest.raises(AssertionError):
            check_rows(twin)


def rounded(a):
    """To the eight leading bits of a float."""
    return np.float64(np.asarray(a, np.float32).astype(jnp.bfloat16))


def check_operands(function):
    """Both factors in bfloat16, their product in float32."""
    a, b = np.random.default_rng(0).normal(size=(2, 3, 3))
    left, right, options = function(jnp.float32(a), jnp.float32(b), "bfloat16")
    got = jnp.matmul(left, right, **options)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, rounded(a) @ rounded(b), rtol=1e-5, atol=1e-6)
    left, right, options = function(jnp.float32(a), jnp.float32(b), "highest")
    np.testing.assert_allclose(jnp.matmul(left, right, **options), a @ b, rtol=1e-5, atol=1e-6)


def check_precision(change):
    """A network of one hidden layer whose products alone are of rounded factors."""
    network = MLP(3, (4,), 2, activation="tanh", rngs=nnx.Rngs(jax.random.key(0)))
    x, h = np.random.default_rng(0).normal(size=3), None
    for layer in network.layers:
        h = x if h is None else np.tanh(h)
        h = rounded(h) @ rounded(layer.kernel[...]) + np.float64(layer.bias[...])
    np.testing.assert_allclose(change(network)(jnp.float32(x)), h, atol=1e-5)


def test_products_of_rounded_factors():
    check_operands(operands)
    check_precision(lambda network: with_precision(network, "bfloat16"))
    for check, twin in (
        (check_operands, lambda a, b, precision: operands(a, b, "highest")),
        (check_operands, lambda a, b, precision: (*operands(a, b, precision)[:2], {})),
        (check_precision, lambda network: network),
        (
            check_precision,
            lambda network: jax.tree.map(lambda leaf: jnp.float32(rounded(leaf)), network),
        ),
    ):
        with pytest.raises(AssertionError):
            check(twin)


def check_masks(function):
    """The product of the masks has a path to output d from the entries before it, and from context."""
    for reverse in (False, True):
        *first, last = function(4, 2, (9, 8), reverse=reverse)
        paths = np.linalg.multi_dot([*map(np.float64, first), np.float64(last)]) > 0
        before = np.triu(np.ones((4, 4), bool), 1)
        np.testing.assert_array_equal(paths[:4], before.T if reverse else before)
        assert paths[4:].all()


def test_masks_let_an_output_see_what_comes_before_it():
    check_masks(made_masks)
    for twin in (
        lambda *args, reverse: made_masks(*args),
        lambda *args, reverse: [np.ones_like(m) for m in made_masks(*args, reverse=reverse)],
        lambda *args, reverse: [m[:, ::-1] for m in made_masks(*args, reverse=reverse)],
    ):
        with pytest.raises(AssertionError):
            check_masks(twin)


# Bits.


def check_bits(log_p):
    """`log sigmoid(+-a)` and its slope in float64, where exponentials overflow and where |a| has its kink."""
    logits = np.array([-200.0, -3.0, 0.0, 1.0, 200.0])
    for bit in (0.0, 1.0):
        value, slope = jax.vmap(jax.value_and_grad(lambda a, bit=bit: log_p(a, bit)))(
            jnp.float32(logits)
        )
        sign = 2 * bit - 1
        np.testing.assert_allclose(value, -np.logaddexp(0, -sign * logits), rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(slope, sign * special.expit(-sign * logits), atol=3e-6)


def test_bits_are_scored_at_every_logit():
    check_bits(lambda a, bit: BernoulliLogits(a).log_prob(jnp.float32(bit)))

    def clipped(a, bit):
        p = jnp.clip(jax.nn.sigmoid(a), 1e-7, 1 - 1e-7)
        return bit * jnp.log(p) + (1 - bit) * jnp.log1p(-p)

    for twin in (clipped, lambda a, bit: BernoulliLogits(-a).log_prob(jnp.float32(bit))):
        with pytest.raises(AssertionError):
            check_bits(twin)


def check_chain(make):
    """`p(a) p(b|a)` of three bits, a = (z0, z1) drawn first: the table of all eight, by NumPy."""
    logits, weight = np.array([0.5, -1.0]), np.array([1.0, 2.0])
    states = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    on = special.expit(np.column_stack([np.tile(logits, (8, 1)), states[:, :2] @ weight]))
    exact = np.log(np.where(states == 1, on, 1 - on)).sum(1)
    got = make(jnp.float32(logits), jnp.float32(weight)).log_prob(jnp.float32(states))
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def chain(logits, weight, kind=Chain):
    first = FloatBernoulli(logits).to_event(1)
    given = jax.tree_util.Partial(lambda w, a: FloatBernoulli((w @ a)[None]).to_event(1), weight)
    return kind(first, [given], sizes=(2, 1))


class Forgetful(Chain):
    """A twin without what is drawn second."""

    def log_prob(self, value):
        return jax.vmap(lambda z: log_prob(self.first, z[:2]))(value)


def test_a_chain_of_bits_is_the_table_of_its_conditionals():
    check_chain(chain)
    for twin in (
        partial(chain, kind=Forgetful),
        lambda logits, weight: chain(logits, weight[::-1]),
        lambda logits, weight: chain(logits[::-1], weight),
    ):
        with pytest.raises(AssertionError):
            check_chain(twin)
