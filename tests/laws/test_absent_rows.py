"""A row of weight 0 is not there: in everything that evaluation says of many rows. Twins count it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae import evaluation
from jaxvae.evaluation import information, likelihood, streams
from jaxvae.testing import draw_examples, linear_gaussian
from tests.support.contracts import CONTRACTS
from tests.support.refusals import refused
from tests.support.slow import slow_but

KEY = jax.random.key(0)
MODEL = linear_gaussian()
XS = np.asarray(draw_examples(jax.random.key(1), MODEL, 6))
WEIGHT = np.float32([2, 1, 1, 0.5, 0, 0])
PAIRS = ((1.0, MODEL), (4.0, MODEL.with_exact_posterior()))


def of_layers(xs):
    contract = CONTRACTS["hierarchical"]
    return evaluation.kl_per_layer(
        KEY, contract.make(), xs | {"x": (xs["x"][:, :1] > np.zeros(6)) * 1.0}
    )


def said_of_likelihood(xs):
    found = evaluation.log_likelihood(KEY, MODEL, xs, num_samples=30)
    return found.mean(), found.monte_carlo_error(), found.unreliable(0.4)


def said_of_gaps(xs):
    options = {"num_steps": 3, "num_samples": 20, "log_evidence": "exact"}
    found = evaluation.gaps(KEY, MODEL, xs, **options)
    return found.mean("total"), found.mean("best", "diagonal"), str(found).split("\n")[1:]


def said_of_information(xs):
    found = evaluation.mutual_information(KEY, MODEL, xs)
    return found.mean, found.ceiling, found.per_latent


def said_of_surgery(xs):
    found = evaluation.elbo_surgery(KEY, MODEL, xs)
    return found.distortion, found.rate, found.marginal_kl, found.marginal_kl_per_latent


def said_of_reliance(xs):
    found = evaluation.reliance_on_latents(KEY, MODEL, xs)
    return found.mean_rate, found.mean_drop, found.verdict


def said_of_chains(xs):
    """Two rows at a time: in batches of other sizes the rounding differs, which chains amplify."""
    options = {"num_chains": 2, "num_temperatures": 3, "batch_size": 2}
    return evaluation.ais(KEY, MODEL, xs, **options).mean()


SAID = {
    "log_likelihood": said_of_likelihood,
    "ais": said_of_chains,
    "active_units": partial(evaluation.active_units, MODEL),
    "active_units, drawn": partial(evaluation.active_units, MODEL, num_samples=4, key=KEY),
    "kl_per_latent": partial(evaluation.kl_per_latent, MODEL),
    "gaps": said_of_gaps,
    "rate_distortion_curve": partial(evaluation.rate_distortion_curve, KEY, PAIRS),
    "mutual_information": said_of_information,
    "elbo_surgery": said_of_surgery,
    "reliance_on_latents": said_of_reliance,
    "aggregate_mmd": partial(evaluation.aggregate_mmd, KEY, MODEL, num_permutations=9),
}
"""Name -> from a batch to all that is said of its rows together."""
FAST = ("log_likelihood", "active_units", "mutual_information", "reliance_on_latents")


def with_absent(count=6):
    """The batch whose last rows are not there, and hold NaN."""
    x = XS[:count].copy()
    x[4:] = np.nan
    return {"x": x, "weight": WEIGHT[:count]}


def same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def check_absence(said):
    same(said(with_absent()), said(with_absent(4)))


def check_alike(said):
    """Weights that are alike are no weights."""
    rows = XS[:4]
    same(said({"x": rows, "weight": np.full(4, 3.0, np.float32)}), said({"x": rows}))


@pytest.mark.parametrize("name", slow_but(SAID, *FAST))
def test_a_row_of_weight_zero_is_not_there(name):
    check_absence(SAID[name])


@pytest.mark.parametrize("name", slow_but(SAID, *FAST))
def test_weights_that_are_alike_are_none(name):
    check_alike(SAID[name])


def test_a_row_draws_by_its_index_wherever_it_lies():
    """Rows 5 and 2 alone, with their indices, have the numbers that they have among all."""

    def said(xs):
        return evaluation.log_likelihood(KEY, MODEL, xs, num_samples=30).estimate

    whole, chosen = said(XS), np.array([5, 2], np.int32)
    alone = said({"x": XS[chosen], "index": chosen})
    np.testing.assert_allclose(alone, whole[chosen], rtol=1e-6)
    by_position = said(XS[chosen])
    assert np.abs(by_position - alone).min() > 1e-3


def test_the_twin_that_counts_absent_rows_is_rejected():
    def counted(xs):
        found = evaluation.log_likelihood(KEY, MODEL, xs, num_samples=30)
        return found._replace(weight=None).mean()

    with pytest.raises(AssertionError):
        check_absence(counted)


def test_the_twin_that_exchanges_latents_with_absent_rows_is_rejected(monkeypatch):
    twin = lambda size, weight: np.roll(np.arange(size), -1)  # noqa: E731
    monkeypatch.setattr("jaxvae.evaluation.reliance.next_there", twin)
    with pytest.raises(AssertionError):
        check_absence(said_of_reliance)


def test_the_twin_that_mixes_absent_posteriors_in_is_rejected(monkeypatch):
    monkeypatch.setattr("jaxvae.evaluation.aggregate.weights_of", lambda xs: None)
    with pytest.raises(AssertionError):
        check_absence(said_of_information)


# Weighted means against what they are by definition.


def test_a_row_of_weight_two_is_two_in_every_mean():
    values, weight = np.array([1.0, 4.0, 2.0]), np.array([2.0, 1.0, 1.0])
    mean, error = evaluation.mean_and_error(values, weight)
    assert mean == evaluation.mean_and_error([1.0, 1.0, 4.0, 2.0])[0]
    # Not two rows in the error: they tell no more than one.
    assert error > evaluation.mean_and_error([1.0, 1.0, 4.0, 2.0])[1]


def test_the_error_of_a_weighted_mean_is_the_spread_of_such_means():
    rng, repeats = np.random.default_rng(0), 4000
    weight = rng.choice([0.0, 0.5, 1.0, 3.0], size=(repeats, 60))
    found = np.array(
        [
            evaluation.mean_and_error(v, w)
            for v, w in zip(rng.normal(size=(repeats, 60)), weight, strict=True)
        ]
    )
    np.testing.assert_allclose(np.std(found[:, 0]), np.sqrt(np.mean(found[:, 1] ** 2)), rtol=0.05)


def test_the_variance_of_weighted_means_has_no_bias():
    rng, weight = np.random.default_rng(0), np.array([3.0, 1.0, 1.0, 0.5])
    from jaxvae.evaluation.latents import _variance

    rows = rng.normal(size=(20_000, 4, 1))
    found = np.array([_variance(r, weight)[0] for r in rows])
    assert abs(found.mean() - 1) < 5 * found.std() / np.sqrt(len(found))


def test_weighted_information_is_that_of_the_rows_with_duplicates():
    """q(z) of weights 2, 1, 1 is q(z) of four rows; so is the entropy of which."""
    twice = {"x": XS[[0, 0, 1, 2]]}
    weighted = {"x": XS[:3], "weight": np.float32([2, 1, 1])}
    zs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    log_q = [jv.evaluation.aggregate.log_aggregate(MODEL, xs, zs)[0] for xs in (twice, weighted)]
    np.testing.assert_allclose(*log_q, rtol=1e-5)
    ceiling = information._ceiling(np.zeros(3), np.array([2.0, 1.0, 1.0]))
    np.testing.assert_allclose(ceiling, 0.5 * np.log(2) + 0.5 * np.log(4))


@pytest.mark.parametrize("weight", [[0, 0], [1, -1], [1, np.inf], [1, np.nan]])
def test_weights_that_say_nothing_are_refused(weight):
    xs = {"x": XS[:2], "weight": np.float32(weight)}
    refused(partial(evaluation.kl_per_latent, MODEL, xs), "weight")


def test_layers_probes_and_classes_leave_absent_rows_out():
    weight = {"weight": np.float32([1, 1, 1, 1, 0, 0])}
    full = {"x": XS}
    here = {"x": XS[:4]}
    same(of_layers(full | weight), of_layers(here))
    ssvae = CONTRACTS["ssvae"].make()
    x = (np.random.default_rng(0).random((6, 6)) < 0.5).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = evaluation.classification(ssvae, {"x": x} | weight, labels)
    same(found, evaluation.classification(ssvae, x[:4], labels[:4]))
    assert found.confusion.sum() == 4
    train = {"x": XS, "label": np.array([0, 1, 0, 1, 1, 1], np.int32)}
    cut = {name: rows[:4] for name, rows in train.items()}
    options = {"num_neighbours": 1}
    same(
        evaluation.probes(MODEL, train | weight, train | weight, **options),
        evaluation.probes(MODEL, cut, cut, **options),
    )


# NaN that is said, and none on the way.


def test_the_likelihood_of_few_samples_makes_no_nan_on_the_device():
    with jax.debug_nans(True):
        for num_samples in (1, 2, 24, 25):
            found = evaluation.log_likelihood(KEY, MODEL, XS, num_samples=num_samples)
            assert np.all(np.isnan(found.pareto_k)) == (num_samples < 25)
            assert np.all(np.isnan(found.standard_error)) == (num_samples == 1)


def test_check_of_nan_rejects_the_likelihood_that_makes_it_on_the_device(monkeypatch):
    monkeypatch.setattr(likelihood, "UNKNOWN", jnp.nan)
    jax.clear_caches()
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        evaluation.log_likelihood(KEY, MODEL, XS, num_samples=3)
    jax.clear_caches()


def test_an_impossible_row_has_an_estimate_of_minus_infinity():
    values = streams.mean_of_rows([-np.inf, 1.0], [0.0, 1.0])
    assert values == 1.0
