"""Which data fit which likelihood."""

import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from jaxvae.data import load, require_support
from tests.support.refusals import refusal

_X = np.random.default_rng(0).integers(0, 200, (30, 3))
_DATA = {
    "bits": _X > 100,
    "grey": _X.astype(np.uint8),
    "reals": _X - 100.5,
    "counts": _X.astype(np.uint16),
    "shares": _X / 199,
    "inner shares": (_X + 1) / 201,
    "dequantised": _X.astype(np.uint8),
    "classes": _X.astype(np.uint8),
}


class Levels(constraints.Constraint):
    """A support that says how many levels it has, as that of a discretised density does."""

    event_dim, is_discrete = 0, True

    def __init__(self, num_levels):
        self.num_levels = num_levels


_LIKELIHOODS = {
    "bernoulli": constraints.boolean,
    "continuous bernoulli": constraints.unit_interval,
    "uniform": dist.Uniform(0.0, 1.0).support,
    "beta": constraints.open_interval(0.0, 1.0),
    "gaussian": constraints.real,
    "poisson": constraints.nonnegative_integer,
    "binomial 200": constraints.integer_interval(0, 200),
    "binomial 20": constraints.integer_interval(0, 20),
    "categorical 256": constraints.integer_interval(0, 255),
    "discretised logistic": Levels(256),
    "of 17 levels": Levels(17),
    "gamma": constraints.positive,
    "exponential": constraints.nonnegative,
    "dirichlet": constraints.simplex,
}
_UNIT = {"continuous bernoulli", "uniform"}
# A bounded count and a class number have one support: integers from 0 up that fit are accepted.
_INTEGER = {"poisson", "binomial 200", "categorical 256"}
_FIT = {
    "bits": {"bernoulli", "gaussian", "exponential", "binomial 20", "discretised logistic"}
    | {"of 17 levels"}
    | _INTEGER,
    "grey": {"gaussian", "exponential", "discretised logistic"} | _UNIT,
    "reals": {"gaussian"},
    "counts": {"gaussian", "exponential"} | _INTEGER,
    "shares": {"gaussian", "exponential"} | _UNIT,
    "inner shares": {"gaussian", "exponential", "gamma", "beta"} | _UNIT,
    "dequantised": {"gaussian", "exponential", "gamma", "beta"} | _UNIT,
    "classes": {"categorical 256"},
}


@pytest.fixture
def dataset(request, tmp_path):
    np.save(tmp_path / "a.npy", _DATA[request.param])
    data = load(tmp_path / "a.npy", dequantize=request.param == "dequantised")
    return request.param, data.as_categories() if request.param == "classes" else data


@pytest.mark.parametrize("dataset", _DATA, indirect=True)
@pytest.mark.parametrize("likelihood", _LIKELIHOODS)
def test_every_pair(dataset, likelihood):
    name, data = dataset
    support = _LIKELIHOODS[likelihood]
    if not isinstance(support, Levels):
        support = constraints.independent(constraints.independent(support, 1), 1)
    if likelihood in _FIT[name]:
        require_support(data, support)
    else:
        with refusal(match="dataset 'a': the likelihood needs") as caught:
            require_support(data, support)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["grey"], indirect=True)
def test_grey_pixels_under_a_bernoulli_list_the_remedies(dataset):
    likelihood = dist.BernoulliLogits(np.zeros(3, np.float32)).to_event(1)
    with refusal() as caught:
        require_support(dataset[1], likelihood.support)
    assert str(caught.value) == (
        "dataset 'a': the likelihood needs bits (boolean), and the data are grey values "
        '(unit_interval); load them with binarize="dynamic", "static" or "threshold", '
        'or choose a likelihood for grey values such as "gaussian"'
    )


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_binarised_data_fit_a_bernoulli_and_no_density(binarize):
    data = load("digits", binarize=binarize)
    require_support(data, constraints.boolean)
    with refusal(match='binarize="none"'):
        require_support(data, constraints.unit_interval)


@pytest.mark.parametrize(
    ("dataset", "likelihood", "remedy"),
    [
        ("grey", "beta", "they hold exact 0 or 1: load them with dequantize=True"),
        ("shares", "beta", "they hold exact 0 or 1: move these inside"),
        ("grey", "categorical 256", "take the levels as 256 classes with dataset.as_categories()"),
        ("grey", "of 17 levels", "set num_levels=256"),
        ("shares", "discretised logistic", "uint8"),
        ("dequantised", "discretised logistic", "load them with dequantize=False"),
        ("dequantised", "bernoulli", "load them with dequantize=False"),
        ("classes", "binomial 20", "num_categories=256"),
        ("classes", "gaussian", '"categorical" with num_categories=256'),
        ("counts", "binomial 20", "raise num_categories above their largest value, 199"),
        ("counts", "bernoulli", '"negative_binomial"'),
        ("reals", "poisson", "counts are whole numbers and"),
        ("shares", "poisson", "is not: give the raw counts"),
    ],
    indirect=["dataset"],
)
def test_refusals_say_what_to_do(dataset, likelihood, remedy):
    with refusal() as caught:
        require_support(dataset[1], _LIKELIHOODS[likelihood])
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (_X * 1.0, "whole numbers saved as floats: convert them with astype('int32')"),
        (_X - 100.0, "counts are not negative and -"),
        (_X + 0.25, "counts are whole numbers and"),
    ],
)
def test_floats_under_a_count_likelihood(tmp_path, x, remedy):
    np.save(tmp_path / "a.npy", x)
    with refusal() as caught:
        require_support(load(tmp_path / "a.npy"), constraints.nonnegative_integer)
    assert remedy in str(caught.value)


def test_categories_must_be_as_many(tmp_path):
    np.save(tmp_path / "a.npy", _X)
    data = load(tmp_path / "a.npy").as_categories(200)
    require_support(data, constraints.integer_interval(0, 199))
    for other in (constraints.integer_interval(0, 200), constraints.integer_interval(1, 200)):
        with refusal(match=r"class numbers from 0 to 199 .*num_categories=200"):
            require_support(data, other)


def test_missing_values_do_not_count(tmp_path):
    x, mask = (_X + 1) / 201, _X > 20
    np.savez(tmp_path / "a.npz", x=np.where(mask, x, 0), mask=mask)
    require_support(load(tmp_path / "a.npz"), constraints.open_interval(0.0, 1.0))
    np.savez(tmp_path / "a.npz", x=np.where(mask, x, 0))
    with refusal(match="exact 0 or 1"):
        require_support(load(tmp_path / "a.npz"), constraints.open_interval(0.0, 1.0))


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_bits_from_grey_levels_under_a_beta(binarize):
    with refusal(match='binarize="none" and dequantize=True'):
        require_support(load("digits", binarize=binarize), constraints.open_interval(0.0, 1.0))
