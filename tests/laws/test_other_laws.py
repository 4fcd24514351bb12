"""Laws of values: jit and line by line, NaN, key implementations, the evidence, units of the data.

On few models each, for these laws are of the objectives and not of what is batched.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import AffineTransform

import jaxvae as jv
from jaxvae.batching import unpack
from jaxvae.binding import bind
from jaxvae.testing import draw_examples, z_test
from tests.support import combinations, law_twins, laws, twins
from tests.support.combinations import MODELS, asked
from tests.support.refusals import refusal
from tests.support.slow import slow_but

ELBO = partial(jv.elbo, num_samples=2)
KEY = jax.random.key(5)


def row_of(name):
    """A model with what its row 1 brings bound to it, and that row."""
    case = MODELS[name]
    row = jax.tree.map(lambda column: column[1], unpack(case.batch))
    return bind(case.make(), row.label, row.mask), row.x


def terms_and_gradient(objective, key, model, x):
    def loss(model):
        terms = objective(key, model, x)
        return terms.objective, terms

    gradient, terms = jax.grad(loss, has_aux=True, allow_int=True)(model)  # a label is an integer
    floats = [g for g in jax.tree.leaves(gradient) if g.dtype != jax.dtypes.float0]
    return terms._asdict(), floats


# Compiled = line by line, and no NaN on the way: every operation is looked at.

LINE_BY_LINE = {
    "ppca": ("elbo, monte_carlo; stl",),
    "vae": ("elbo, analytic; pathwise", "iwae; dreg", "iwae; vimco"),
    "conditional_vae": ("elbo, monte_carlo; stl",),
    "vae of posterior bernoulli": (
        "elbo, entropy; disarm",
        "elbo, analytic; enumerate",
        "iwae; rws",
    ),
    "vae of posterior spline": ("iwae; pathwise",),
    "gmvae": ("elbo, monte_carlo; pathwise",),
    "vae of posterior categorical": ("elbo, analytic; gumbel_softmax",),
    "ssvae": ("semi_supervised",),
    "gaussian_mixture": ("elbo, analytic; enumerate",),
    "hierarchical": ("elbo, monte_carlo; dreg",),
    "count_vae": ("iwae; stl",),
    "sequence_vae": ("elbo, analytic; pathwise",),
    "autoregressive, made": ("iwae; pathwise",),
}
PAIRS = {f"{name}; {n}": (name, n) for name, chosen in LINE_BY_LINE.items() for n in chosen}


def check_line_by_line(objective, model, x):
    """Compiled as run line by line, where no operation makes a NaN."""
    compiled = jax.jit(partial(terms_and_gradient, objective))(KEY, model, x)
    with jax.disable_jit(), jax.debug_nans(True):
        eager = terms_and_gradient(objective, KEY, model, x)
    laws.require_same("compiled is line by line", {"it": eager}, {"it": compiled})


@pytest.mark.parametrize("pair", slow_but(PAIRS, "ppca; elbo, monte_carlo; stl"))
def test_compiled_is_line_by_line_without_a_nan(pair):
    name, objective = PAIRS[pair]
    check_line_by_line(asked(name)[objective], *row_of(name))


def test_check_of_line_by_line_rejects_what_looks_whether_it_is_traced():
    with pytest.raises(AssertionError, match="line by line"):
        check_line_by_line(law_twins.other_when_traced, *row_of("ppca"))


def test_check_of_nans_rejects_one_that_where_drops():
    with pytest.raises(FloatingPointError):
        check_line_by_line(law_twins.nan_in_the_branch_not_taken, *row_of("ppca"))


# Implementations of keys.


def values_by_key(objective):
    """Of one row with the same bits as a key of threefry, and as one of the second implementation."""
    (model, x), bits = row_of("ppca"), jax.random.key_data(KEY)

    @jax.jit
    def call(bits):
        impls = "threefry2x32", laws.SAME_NOISE
        keys = [jax.random.wrap_key_data(bits, impl=impl) for impl in impls]
        return [objective(key, model, x).bound for key in keys]

    return call(bits)


def test_another_implementation_of_keys_is_another_draw():
    first, second = values_by_key(ELBO)
    assert first != second


def test_check_of_keys_rejects_an_objective_that_takes_bits_for_a_key():
    first, second = values_by_key(law_twins.deaf_to_keys)
    assert first == second


@pytest.mark.parametrize("law", laws.LAWS)
def test_laws_hold_with_threefry_too(law, with_threefry):
    law(with_threefry)


@pytest.fixture(scope="module")
def with_threefry():
    objectives = {
        "elbo; pathwise": ELBO,
        "iwae; dreg": partial(jv.iwae, num_samples=2, gradient="dreg"),
    }
    return laws.Program(MODELS["ppca"], objectives, impl="threefry2x32")


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_that_are_alike_under_vmap_are_refused(impl):
    with refusal(match="under vmap"):
        jv.elbo(jax.random.key(0, impl=impl), *row_of("ppca"))


# Bounds lie below the evidence: a z-test of each over many keys, false alarm 1e-6.

DRAWS = 4096
SOLVED = {
    "linear_gaussian": jv.testing.linear_gaussian,
    "bits": partial(jv.testing.discrete, latent="bernoulli"),
    "gaussian_mixture": jv.testing.gaussian_mixture,
}


def below(model, objectives):
    """Which objectives' mean bounds are not shown to exceed log p(x), of those that are not refused."""
    x = draw_examples(jax.random.key(1), model, 1)[0]
    keys = jax.random.split(jax.random.key(2), DRAWS)

    @jax.jit
    def bounds(keys):
        found = {}
        for name, objective in objectives.items():
            try:
                found[name] = jax.vmap(lambda key, o=objective: o(key, model, x).bound)(keys)
            except (jv.InputError, NotImplementedError):
                continue
        return found

    evidence = float(model.log_evidence(x))
    return {
        name: z_test(values, evidence, side="above", rounding=1e-5 * abs(evidence)).passed
        for name, values in bounds(keys).items()
    }


FAST_FORMS = (
    "elbo, analytic; enumerate",
    "elbo, entropy; disarm",
    "iwae; score",
    "multiply_iwae; score",
)
FORMS = {
    f"{name}; {gradient}": partial(objective, gradient=gradient)
    for name, objective in (combinations.FORMS | combinations.OTHERS).items()
    for gradient in ("pathwise", "score", "enumerate", "disarm")  # whose draws differ
} | {"partially_iwae": combinations.WITHOUT_CHOICE["partially_iwae"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("linear_gaussian", 15), ("bits", 15), ("gaussian_mixture", 12)]
)
def test_bounds_lie_below_the_evidence(name, least):
    found = below(SOLVED[name](), FORMS)
    assert len(found) >= least
    assert all(found.values()), [n for n, passed in found.items() if not passed]


def test_some_bounds_lie_below_the_evidence():
    found = below(SOLVED["bits"](), {n: FORMS[n] for n in FAST_FORMS})
    assert found == dict.fromkeys(FAST_FORMS, True)


def test_check_of_bounds_rejects_a_bound_without_log_k():
    model = jv.testing.linear_gaussian().with_exact_posterior()
    too_high = partial(twins.iwae_twin(twins.missing_log_k), num_samples=3)
    assert below(model, {"right": ELBO, "twin": too_high}) == {"right": True, "twin": False}


# Units of the data: x = (y - b) / a. log p(y) = log p(x) - D log|a|, and the parameters feel nothing.

SCALE, OFFSET = -2.5, 0.7


class Rescaled(NamedTuple):
    """The model of y = a x + b, for a model of real x."""

    model: Any

    def prior(self):
        return self.model.prior()

    def posterior(self, y):
        return self.model.posterior((y - OFFSET) / SCALE)

    def likelihood(self, z):
        return dist.TransformedDistribution(
            self.model.likelihood(z), AffineTransform(OFFSET, SCALE)
        )


class WithoutJacobian(Rescaled):
    """The density of x in the place of that of y."""

    def likelihood(self, z):
        return Forgetful(self.model.likelihood(z), AffineTransform(OFFSET, SCALE))


class Forgetful(dist.TransformedDistribution):
    def log_prob(self, value, intermediates=None):
        return self.base_dist.log_prob((value - OFFSET) / SCALE)


CONTINUOUS = (
    "factor_analysis",
    "vae of one variance",
    "vae of a variance each",
    "ppca",
    "ica",
    "gaussian_mixture",
)
UNITS = (
    "elbo, analytic; pathwise",
    "elbo, analytic; enumerate",
    "iwae; dreg",
    "iwae; vimco",
    "iwae; rws",
)


def check_units(name, rescaled=Rescaled):
    model, x = row_of(name)
    chosen = {n: asked(name)[n] for n in UNITS if n in combinations.table()[name]}
    change_of_log = x.size * np.log(abs(SCALE))

    @jax.jit
    def both(model, x):
        y = SCALE * x + OFFSET
        found = {}
        for n, objective in chosen.items():

            def scaled(key, model, y, objective=objective):
                return objective(key, rescaled(model), y)

            own, other = (objective, x), (scaled, y)
            found[n] = [terms_and_gradient(o, KEY, model, at) for o, at in (own, other)]
        return found

    for n, ((terms, gradient), found) in both(model, x).items():
        expected = {
            "objective": terms["objective"] - change_of_log,
            "bound": terms["bound"] - change_of_log,
            "distortion": terms["distortion"] + change_of_log,
            "rate": terms["rate"],
        }
        laws.require_same("the unit of x", {n: found}, {n: (expected, gradient)})


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_unit_of_x_adds_its_jacobian_alone(name):
    check_units(name)


def test_check_of_units_rejects_a_density_without_its_jacobian():
    with pytest.raises(AssertionError, match="the unit of x"):
        check_units("ppca", WithoutJacobian)
