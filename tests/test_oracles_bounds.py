"""Every bound against its formula in float64, at the same log-weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxvae import bounds

LOG_W = [
    np.array([-2.0, -4.0, 1.5, 0.3]),
    np.array([1000.0, 998.0, 0.0, 999.5]),  # where exp would overflow
    np.array([-1000.0, -1003.0, -1001.0, -1002.0]),
    np.array([-np.inf, 0.0, -1.0, 2.0]),  # one sample of weight 0
]
BETAS = np.array([0.0, 0.2, 0.7])


def log_mean_exp(a):
    return special.logsumexp(a) - np.log(len(a))


def renyi(log_w):
    """Order 1/4: `log mean w^(3/4) / (3/4)`; Li and Turner (2016)."""
    return log_mean_exp(0.75 * log_w) / 0.75


def combination(log_w):
    """`0.3 elbo + 0.7 iwae`; Rainforth et al. (2018)."""
    return 0.3 * np.mean(log_w) + 0.7 * log_mean_exp(log_w)


def integrand(log_w, beta):
    """`E[log w]` under weights `w^beta`, in which 0^0 = 1, as in the limit of small weights."""
    share = special.softmax(beta * log_w) if beta > 0 else np.full(len(log_w), 1 / len(log_w))
    return np.sum(share[share > 0] * log_w[share > 0])


def riemann(log_w, side):
    """The sum of Masrani, Le and Wood (2019), whose last point is 1."""
    ends = np.append(BETAS, 1.0)
    points = ends[:-1] if side == "left" else ends[1:]
    return np.sum(np.diff(ends) * [integrand(log_w, beta) for beta in points])


def chi(log_w):
    """`log mean w^3 / 3`; Dieng et al. (2017)."""
    return log_mean_exp(3 * log_w) / 3


thermodynamic = partial(bounds.thermodynamic, betas=jnp.float32(BETAS))
EXACT = {
    "renyi": (partial(bounds.renyi, alpha=0.25), renyi),
    "vr_max": (bounds.vr_max, np.max),
    "combination_iwae": (partial(bounds.combination_iwae, beta=0.3), combination),
    "thermodynamic left": (thermodynamic, partial(riemann, side="left")),
    "thermodynamic right": (partial(thermodynamic, side="right"), partial(riemann, side="right")),
    "chi_upper": (partial(bounds.chi_upper, order=3.0), chi),
}


def check_bound(bound, exact):
    """Within 2e-6 of the formula, relative, and 2e-6 below 1."""
    values = jax.jit(lambda *rows: [bound(row) for row in rows])(*map(jnp.float32, LOG_W))
    expected = [exact(row) for row in LOG_W]
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", EXACT)
def test_bounds_are_their_formulas(name):
    check_bound(*EXACT[name])


TWINS = {
    "renyi": {
        "another order": partial(bounds.renyi, alpha=0.75),
        "not divided": lambda w: 0.75 * bounds.renyi(w, 0.25),
        "a sum": lambda w: jax.nn.logsumexp(0.75 * w) / 0.75,
    },
    "vr_max": {"the mean weight": bounds.iwae, "the smallest": jnp.min},
    "combination_iwae": {"exchanged": partial(bounds.combination_iwae, beta=0.7)},
    "thermodynamic left": {
        "the other side": partial(thermodynamic, side="right"),
        "equal steps": partial(bounds.thermodynamic, betas=jnp.float32([0, 1 / 3, 2 / 3])),
    },
    "thermodynamic right": {"the other side": thermodynamic, "the integral": bounds.iwae},
    "chi_upper": {
        "not divided": lambda w: 3 * bounds.chi_upper(w, 3.0),
        "another order": partial(bounds.chi_upper, order=2.0),
    },
}


@pytest.mark.parametrize(("name", "bug"), [(name, bug) for name in TWINS for bug in TWINS[name]])
def test_check_of_formulas_rejects(name, bug):
    with pytest.raises(AssertionError):
        check_bound(TWINS[name][bug], EXACT[name][1])
