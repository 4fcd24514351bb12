"""Which data fit which likelihood."""

import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from jaxvae.data import load, require_support
from jaxvae.types import InputError

_X = np.random.default_rng(0).integers(0, 200, (30, 3))
_DATA = {
    "bits": _X > 100,
    "grey": _X.astype(np.uint8),
    "reals": _X - 100.5,
    "counts": _X.astype(np.uint16),
}
_LIKELIHOODS = {
    "bernoulli": constraints.boolean,
    "beta": constraints.unit_interval,
    "uniform": dist.Uniform(0.0, 1.0).support,
    "gaussian": constraints.real,
    "poisson": constraints.nonnegative_integer,
    "binomial 200": constraints.integer_interval(0, 200),
    "binomial 20": constraints.integer_interval(0, 20),
    "gamma": constraints.positive,
    "exponential": constraints.nonnegative,
    "dirichlet": constraints.simplex,
}
_FIT = {
    "bits": {"bernoulli", "gaussian", "poisson", "binomial 200", "binomial 20", "exponential"},
    "grey": {"beta", "uniform", "gaussian", "exponential"},
    "reals": {"gaussian"},
    "counts": {"gaussian", "poisson", "binomial 200", "exponential"},
}


@pytest.fixture
def dataset(request, tmp_path):
    np.save(tmp_path / "a.npy", _DATA[request.param])
    return request.param, load(tmp_path / "a.npy")


@pytest.mark.parametrize("dataset", _DATA, indirect=True)
@pytest.mark.parametrize("likelihood", _LIKELIHOODS)
def test_every_pair(dataset, likelihood):
    name, data = dataset
    support = constraints.independent(constraints.independent(_LIKELIHOODS[likelihood], 1), 1)
    if likelihood in _FIT[name]:
        require_support(data, support)
    else:
        with pytest.raises(InputError, match="dataset 'a': the likelihood needs") as caught:
            require_support(data, support)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["grey"], indirect=True)
def test_grey_pixels_under_a_bernoulli_list_the_remedies(dataset):
    likelihood = dist.BernoulliLogits(np.zeros(3, np.float32)).to_event(1)
    with pytest.raises(InputError) as caught:
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
    with pytest.raises(InputError, match='binarize="none"'):
        require_support(data, constraints.unit_interval)
