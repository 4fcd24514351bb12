"""Weights of rows in objectives that couple a batch: 0 is not there, and the others as NumPy has it in float64.

False-alarm rate of every z-test: 1e-6.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import special

import jaxvae as jv
from jaxvae import coupled
from jaxvae.batching import fill_rows
from jaxvae.coupled.terms import draw_each, elbo_of, latents
from jaxvae.distributions import sample
from jaxvae.keys import OfExample, stream_key
from tests.support import oracles
from tests.support.laws import require_same
from tests.support.refusals import refused
from tests.support.statistics import assert_mean
from tests.test_coupled import EVERY, every, exact_parts, keys, linear

THERE = np.array([0, 1, 1, 0, 1, 1, 1, 0], np.float32)
UNLIKE = np.array([0, 2, 1, 0, 3, 1, 2, 0], np.float32)
SIZE = len(THERE)
MODEL = linear()[0]
ROWS = np.asarray(oracles.draw_x(MODEL.vae, 1, SIZE), np.float32)
KEYS = keys(2, SIZE)


def alike(weight):
    """1 for those that are there."""
    return jnp.where(weight > 0, 1.0, 0.0)


def with_nan(rows, weight):
    """The rows, with NaN in the place of those that are not there."""
    return np.where(weight[:, None] > 0, rows, np.nan).astype(np.float32)


def program(objectives):
    """Terms of rows, and the gradient of their weighted mean, of several objectives."""

    def of(objective, model, keys, xs, weight):
        def loss(model):
            terms = objective(keys, model, xs, **({} if weight is None else {"weight": weight}))
            w = jnp.ones(len(xs)) if weight is None else weight
            return jnp.sum(w * terms.objective) / jnp.sum(w), terms

        (mean, terms), gradient = jax.value_and_grad(loss, has_aux=True)(model)
        return {"mean": mean, "terms": terms._asdict(), "gradient": gradient}

    @jax.jit
    def call(model, keys, xs, weight=None):
        return {name: of(o, model, keys, xs, weight) for name, o in objectives.items()}

    return lambda keys, xs, weight=None: jax.device_get(call(MODEL, keys, xs, weight)), call


@pytest.fixture(scope="module")
def padded():
    """One program of every objective, of eight rows with weights."""
    return program(EVERY)


def of_those_there(found, weight):
    """What is said of the rows that are there, without the other rows of the terms."""
    return {
        name: said | {"terms": {n: v[weight > 0] for n, v in said["terms"].items()}}
        for name, said in found.items()
    }


def check_absence(objectives, call):
    """Three rows that hold NaN, the first of them the first of the batch, and the batch without them."""
    kept = THERE > 0
    expected = program(objectives)[0](KEYS[kept], ROWS[kept])
    for weight in (THERE, 3 * THERE):  # weights that are alike are none
        found = of_those_there(call(KEYS, with_nan(ROWS, weight), weight), weight)
        require_same("a row of weight 0 is not there", found, expected, 1e-5)


def test_a_row_of_weight_zero_is_not_there(padded):
    check_absence(EVERY, padded[0])


def counted(objective):
    """The twin for which copies of a row stand in the places of those that are not there."""
    return lambda keys, model, xs, weight=None: objective(keys, model, fill_rows(xs, weight))


def multiplied(objective):
    """The twin that compares all rows, and multiplies what they say by 0."""

    def twin(keys, model, xs, weight=None):
        terms = objective(keys, model, xs)
        w = jnp.ones(len(xs)) if weight is None else weight
        return terms._replace(objective=terms.objective * w)

    return twin


def permuted_by_the_first_place(keys, model, xs, weight=None):
    """FactorVAE whose permutations have the key of the first place, whether a row is there or not."""
    s = draw_each(keys, model, xs, weight, at_least=4)
    terms, z = elbo_of(s, "analytic"), latents(s)
    key = jax.vmap(lambda key: stream_key(key, OfExample.PERMUTATIONS))(keys)[0]
    ratio = jax.vmap(lambda z: model.discriminator(z)[0])(z)
    training = coupled.discriminator_log_likelihood(
        key, model.discriminator, jax.lax.stop_gradient(z), weight=weight
    )
    return terms._replace(objective=terms.bound - ratio + training)


def rejected(twin):
    with pytest.raises(AssertionError, match="is not there"):
        check_absence({"twin": twin}, program({"twin": twin})[0])


@pytest.mark.parametrize("bug", [counted, multiplied])
@every
def test_check_of_absence_rejects(objective, bug):
    rejected(bug(objective))


def test_check_of_absence_rejects_permutations_by_place():
    rejected(permuted_by_the_first_place)


def test_laws_reject_a_nan_in_any_place():
    whole = {"said": [np.ones(2), np.ones(2)]}
    with pytest.raises(AssertionError, match="law"):
        require_same("law", {"said": [np.ones(2), np.array([1.0, np.nan])]}, whole)


def check_filled(function):
    """The first row that is there in the place of NaN; the slope of a weighted sum by hand."""
    rows = jnp.asarray(with_nan(ROWS, UNLIKE))

    @jax.jit
    def both(rows):
        return function(rows, UNLIKE), jax.grad(
            lambda rows: jnp.sum(UNLIKE[:, None] * function(rows, UNLIKE) ** 2)
        )(rows)

    filled, slope = both(rows)
    there = UNLIKE[:, None] > 0
    np.testing.assert_array_equal(filled, np.where(there, ROWS, ROWS[1]))
    np.testing.assert_allclose(slope, np.where(there, 2 * UNLIKE[:, None] * ROWS, 0), rtol=1e-6)


def test_rows_that_are_not_there_are_filled():
    check_filled(fill_rows)


def test_check_of_filled_rows_rejects():
    with pytest.raises(AssertionError):
        check_filled(lambda rows, weight: rows)


def test_few_rows_that_are_there_give_finite_numbers_and_no_new_program(padded):
    call, compiled = padded
    for count in (1, 2, 3, SIZE):
        weight = np.where(np.arange(SIZE) >= SIZE - count, 0.5, 0).astype(np.float32)
        found = call(KEYS, with_nan(ROWS, weight), weight)
        for leaf in jax.tree.leaves(found):
            assert np.all(np.isfinite(leaf))
        if count == 1:  # nothing to compare: the documented values
            last = {name: said["terms"] for name, said in found.items()}
            info = last["info rbf"]
            penalty = info["bound"] + 0.5 * info["rate"] - info["objective"]
            np.testing.assert_allclose(penalty[-1], 0, atol=1e-5)
            dip = last["dip i"]["bound"] - last["dip i"]["objective"]
            np.testing.assert_allclose(dip[-1], 2.0 * 2, rtol=1e-5)
    assert compiled._cache_size() <= 1  # 0 where a long session has evicted it


# Weights that are unlike, by formulas in float64.


def mean_of_pairs(k, w, v, *, same):
    """`sum w_i v_j k_ij / sum w_i v_j`, over i != j where both are of one sample."""
    total = weight = 0.0
    for i, j in itertools.product(range(len(w)), range(len(v))):
        if not (same and i == j):
            total, weight = total + w[i] * v[j] * k(i, j), weight + w[i] * v[j]
    return total / weight


def exact_mmd2(xs, ys, w, v, variance):
    """Of the kernel "rbf"."""

    def k(a, b):
        return lambda i, j: np.exp(-np.sum((a[i] - b[j]) ** 2) / (2 * variance))

    within = mean_of_pairs(k(xs, xs), w, w, same=True) + mean_of_pairs(k(ys, ys), v, v, same=True)
    return within - 2 * mean_of_pairs(k(xs, ys), w, v, same=False)


def exact_log_weights(w, total, kind):
    """Of rows that are all there."""
    if kind == "minibatch":
        return np.log(np.broadcast_to(w / (total * w.sum()), (len(w), len(w))))
    own = len(w) * w / (total * w.sum())
    shares = np.array([(1 - own[i]) * w / (w.sum() - w[i]) for i in range(len(w))])
    np.fill_diagonal(shares, own)
    return np.log(shares)


@jax.jit
def draws(model, xs):
    """The z of q and of the prior that the objectives have."""
    z = latents(draw_each(KEYS, model, xs))
    return z, jax.vmap(lambda key: sample(model.prior(), stream_key(key, OfExample.PRIOR)))(KEYS)


def exact_penalties(weight):
    """What each objective takes from the bound at the rows that are there, in nats."""
    there = weight > 0
    w, xs = np.float64(weight[there]), np.float64(ROWS[there])
    z, prior = (np.float64(a)[there] for a in draws(MODEL, ROWS))
    mmd = exact_mmd2(z, prior, w, w, 2.0 * z.shape[1])
    p = oracles.parameters(MODEL.vae)
    of_means = np.cov(xs @ p.encoder.T + p.offset, rowvar=False, aweights=w)
    penalties = {"info rbf": np.full(len(w), (0.5 + 20.0 - 1) * mmd)}
    for name, c in {
        "dip i": of_means,
        "dip ii": of_means + np.diag(np.exp(2 * p.log_diagonal)),
    }.items():
        variances = np.diag(c)
        off = np.sum(c**2) - np.sum(variances**2)
        penalties[name] = np.full(len(w), 5.0 * off + 2.0 * np.sum((variances - 1) ** 2))
    for name in ("minibatch", "stratified"):
        parts = exact_parts(MODEL.vae, xs, z, exact_log_weights(w, 1000, name))
        penalties[f"tc {name}"] = (4.0 - 1) * parts[1]
    return penalties


def check_unlike(call):
    found = call(KEYS, with_nan(ROWS, UNLIKE), UNLIKE)
    for name, expected in exact_penalties(UNLIKE).items():
        if name not in found:
            continue
        terms = {n: v[UNLIKE > 0] for n, v in found[name]["terms"].items()}
        above = 0.5 * terms["rate"] if name.startswith("info") else 0.0
        got = terms["bound"] + above - terms["objective"]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_unlike_weights_are_those_of_numpy(padded):
    assert set(exact_penalties(UNLIKE)) == set(EVERY) - {"info imq", "factor"}
    check_unlike(padded[0])


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"info imq", "factor"}))
@pytest.mark.parametrize("change", [alike, jnp.square], ids=["alike", "squared"])
def test_check_of_unlike_weights_rejects(name, change):
    def twin(keys, model, xs, weight):
        return EVERY[name](keys, model, xs, weight=change(weight))

    with pytest.raises(AssertionError, match=name):
        check_unlike(program({name: twin})[0])


def check_functions(mmd2, covariance):
    """The two public reductions by themselves, samples of unlike sizes, NaN where nothing is."""
    rng = np.random.default_rng(3)
    xs, ys = rng.normal(size=(4, 2)), rng.normal(size=(5, 2)) + 0.4
    w, v = np.array([2.0, 0, 1, 1]), np.array([1.0, 0.5, 0, 3, 1])
    xs[1], ys[2] = np.nan, np.nan

    @jax.jit
    def both(xs, ys, w, v):
        q = jax.vmap(lambda mean: dist.Normal(mean, jnp.abs(mean)).to_event(1))(xs)
        square = partial(mmd2, bandwidth=0.9)
        slope = jax.grad(lambda xs: square(xs, ys, x_weight=w, y_weight=v))(xs)
        return square(xs, ys, x_weight=w, y_weight=v), slope, covariance(q, "ii", w)

    found, slope, c = both(*map(jnp.float32, (xs, ys, w, v)))
    exact = exact_mmd2(xs[w > 0], ys[v > 0], w[w > 0], v[v > 0], 0.9**2)
    np.testing.assert_allclose(found, exact, rtol=1e-5, err_msg="mmd2")
    assert np.all(np.isfinite(slope)), "mmd2: the slope"
    assert np.all(slope[1] == 0), "mmd2: the slope of what is not there"
    kept = xs[w > 0]
    inner = np.diag(np.average(kept**2, axis=0, weights=w[w > 0]))
    expected = np.cov(kept, rowvar=False, aweights=w[w > 0]) + inner
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-6, err_msg="covariance")


def test_mmd_and_covariance_of_unlike_weights():
    check_functions(coupled.mmd2, coupled.aggregate_covariance)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_the_unit_of_weights_changes_nothing(unit):
    """Their products pass what float32 holds."""
    xs, w = jnp.float32(ROWS[:4]), jnp.float32([2.0, 0.5, 1, 1])

    @jax.jit
    def found(w):
        q = jax.vmap(lambda mean: dist.Normal(mean, 1.0).to_event(1))(xs)
        mmd = coupled.mmd2(xs, xs[::-1] + 0.5, x_weight=w, y_weight=w)
        log_w = [coupled.log_weights(4, 9, kind, w) for kind in ("stratified", "minibatch")]
        return mmd, coupled.aggregate_covariance(q, "ii", w), log_w

    for a, b in zip(*(jax.tree.leaves(found(v)) for v in (w * unit, w)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def of_copies(q, form, weight):
    """The twin whose divisor counts copies."""
    c, inner = (coupled.aggregate_covariance(q, f, weight) for f in ("i", "ii"))
    total = jnp.sum(weight)
    return inner - c + c * (total - jnp.sum(weight**2) / total) / (total - 1)


@pytest.mark.parametrize(
    ("what", "twin"),
    [
        ("covariance", of_copies),
        ("covariance", lambda q, form, weight: coupled.aggregate_covariance(q, form)),
        ("mmd2", lambda xs, ys, x_weight, y_weight, **o: coupled.mmd2(xs, ys, **o)),
        (
            "mmd2",
            lambda xs, ys, x_weight, y_weight, **o: coupled.mmd2(
                xs, ys, x_weight=x_weight, y_weight=alike(y_weight), **o
            ),
        ),
    ],
)
def test_check_of_mmd_and_covariance_rejects(what, twin):
    functions = {"mmd2": coupled.mmd2, "covariance": coupled.aggregate_covariance, what: twin}
    with pytest.raises(AssertionError, match=what):
        check_functions(**functions)


def check_data_set(log_weights):
    """On the whole data set, in which rows may be missing, q(z) is the mixture of the weights."""
    w = np.array([2.0, 0, 1, 1, 0.5, 0])
    for kind, scale in (("stratified", 1), ("minibatch", 1 / 4)):
        found = np.exp(np.float64(log_weights(6, 4, kind, jnp.float32(w))))
        np.testing.assert_allclose(found[w > 0], np.tile(scale * w / w.sum(), (4, 1)), rtol=1e-6)


def test_weights_of_the_aggregate_are_exact_on_the_data_set():
    check_data_set(coupled.log_weights)


def test_check_of_the_data_set_rejects():
    with pytest.raises(AssertionError):
        check_data_set(lambda *args: coupled.log_weights(*args[:-1], alike(args[-1])))


# FactorVAE: the expected score over all ways to draw the latents of the second half.

POINTS = np.random.default_rng(2).normal(size=(8, 2))
POINTS[[0, 5]] = np.nan


def discriminator(z):
    """A logit in which the latents meet."""
    return 2 * z[0] * z[1] + z[0] - 0.5


def check_discriminator(function, weight):
    there = POINTS[weight > 0]
    joint, second = there[:3], there[3:]
    w, v = np.split(weight[weight > 0], 2)
    true = np.average(special.log_expit(discriminator(joint.T)), weights=w)
    mixed = np.array([discriminator((a[0], b[1])) for a in second for b in second])
    false = np.average(special.log_expit(-mixed), weights=np.outer(v, v).reshape(-1))
    z, given = jnp.float32(POINTS), jnp.float32(weight)
    call = jax.jit(jax.vmap(lambda key: function(key, discriminator, z, weight=given)))
    scores = np.float64(call(keys(4, 4000)))
    assert_mean(scores, (true + false) / 2, rounding=1e-6, what="log-likelihood")


DRAWN = np.array([0, 2, 1, 1, 3, 0, 1, 2.0])
PERMUTED = np.array([0, 2, 1, 1, 3, 0, 3, 3.0])


def test_the_discriminator_is_scored_on_latents_by_their_weights():
    check_discriminator(coupled.discriminator_log_likelihood, DRAWN)
    check_discriminator(coupled.discriminator_log_likelihood, PERMUTED)


@pytest.mark.parametrize("which", [slice(0, 4), slice(4, 8)], ids=["first half", "second half"])
def test_check_of_the_discriminator_rejects(which):
    def twin(key, discriminator, z, *, weight):
        weight = weight.at[which].set(alike(weight[which]))
        return coupled.discriminator_log_likelihood(key, discriminator, z, weight=weight)

    with pytest.raises(AssertionError, match="log-likelihood"):
        check_discriminator(twin, DRAWN)


# Words.


@every
def test_weights_that_cannot_be_used_are_refused(objective):
    call = partial(objective, KEYS, MODEL, ROWS)
    with refused("weight", "at least", "1 of 8"):
        call(weight=jnp.eye(SIZE)[0])
    with refused("weight", "(8,)", "(7,)"):
        call(weight=jnp.ones(7))
    with refused("weight", "finite", "at least 0"):
        call(weight=jnp.full(SIZE, -1.0))


def test_fewer_examples_than_rows_may_be_a_data_set():
    options = {"dataset_size": 5, "weights": "stratified"}
    with refused("dataset_size", "5 examples", "batch of 6"):
        coupled.log_weights(8, **options, weight=jnp.float32([0, 1, 1, 0, 1, 1, 1, 1]))
    assert coupled.log_weights(8, **options, weight=jnp.float32(THERE)).shape == (8, 8)


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_an_objective_of_yours_without_weights_is_refused_some(name):
    def own(keys, model, xs):
        return coupled.dip_vae(keys, model, xs, lambda_off_diagonal=1.0, lambda_diagonal=1.0)

    optimizer = optax.sgd(0.1)
    step = jv.training.make_step(own, optimizer, batch_coupled=True)
    state = jv.training.init(jax.random.key(0), MODEL, optimizer)
    with refused("batch", "weight=[B]", "leave out the rows"):
        step(state, {"x": jnp.asarray(ROWS), name: jnp.asarray(THERE)})
