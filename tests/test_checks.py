"""Refusals of numbers, choices and integers: whatever the type of the number, and as the library uses them."""

import enum
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxvae as jv
from jaxvae.checks import known_number, require_choice, require_integer, require_number
from jaxvae.models import likelihoods
from tests.support.refusals import refused, unchecked


def key():
    return jax.random.key(0)


def vae():
    return jv.models.vae(key(), (4,), latent_dim=2, hidden=(3,))


TYPES = {
    "float": float,
    "float32": np.float32,
    "float64": np.float64,
    "0-d": np.array,
    "JAX": jnp.float32,
    "float16": np.float16,
}


def check_as_written(read):
    """0.8 is 0.8 in every precision, not float32's 0.800000012."""
    for make in TYPES.values():
        assert read(make(0.8)) == 0.8


@pytest.mark.parametrize("kind", TYPES)
def test_a_number_is_what_it_is_written_as_whatever_its_type(kind):
    value = TYPES[kind](0.8)
    check_as_written(lambda number: known_number("share", number, above=0, at_most=1))
    require_number("share", value, at_least=0.8, at_most=0.8)
    for limits in ({"above": 0.8}, {"below": 0.8}, {"at_least": 0.81}, {"at_most": 0.79}):
        with refused("share: expected a finite number", "0.8"):
            require_number("share", value, **limits)
    for wrong in (np.nan, np.inf, -np.inf):
        with refused("share: expected a finite number"):
            require_number("share", TYPES[kind](wrong))
    with pytest.raises(AssertionError):
        check_as_written(float)


def test_limits_are_named():
    for words, limits in {
        "above 0,": {"above": 0},
        "of at least 0,": {"at_least": 0},
        "below 1,": {"below": 1},
        "of at most 1,": {"at_most": 1},
        "in (0, 1),": {"above": 0, "below": 1},
        "in [0, 1],": {"at_least": 0, "at_most": 1},
        "in (0, 1],": {"above": 0, "at_most": 1},
    }.items():
        with refused(f"x: expected a finite number {words} got nan"):
            require_number("x", np.nan, **limits)


def test_what_is_no_number_is_refused():
    for wrong in (True, np.bool_(True), jnp.bool_(True), "1", None, 1j, [1.0], np.ones(2), key()):
        with refused("x: expected a finite number above 0", "got"):
            require_number("x", wrong, above=0)


def test_a_traced_number_is_a_schedule_s_and_never_a_constant():
    traced = jax.jit(lambda x: (require_number("x", x, above=0), x)[1])
    assert traced(-1.0) == -1
    assert jax.jit(lambda x: (require_number("x", x > 0, at_least=0), x)[1])(1.0) == 1
    with refused("x: expected a number, got one that is traced"):
        jax.jit(lambda x: known_number("x", x))(1.0)


def test_integers_and_choices():
    class Size(enum.IntEnum):
        TWO = 2

    assert require_integer("n", Size.TWO, at_least=2) == 2
    for wrong in (True, 1, 2.0, "2", None, np.int64(2)):
        with refused("n: expected an integer of at least 2", repr(wrong)):
            require_integer("n", wrong, at_least=2)
    require_choice("side", "left", ["left", "right"])
    for wrong in ("up", None, 3, np.array(["left", "right"])):
        with refused('side: expected "left" or "right", got'):
            require_choice("side", wrong, ["left", "right"])
    with refused('one of "a", "b", "c", or a function, got 3'):
        require_choice("x", 3, "abc", or_else=", or a function")


# As the library uses them: what is compiled for a number takes Python's.


@pytest.mark.parametrize("kind", TYPES)
def test_a_fixed_variance_is_no_parameter_whatever_its_type(kind):
    value = TYPES[kind](0.5)
    with unchecked():
        for make in (jv.models.ppca, jv.models.ica):
            number, other = (make(key(), (4,), latent_dim=2, variance=v) for v in (0.5, value))
            assert jax.tree.structure(number) == jax.tree.structure(other)
            assert type(other.fixed_variance) is float
        assert type(likelihoods.FixedGaussian(value).variance) is float
        assert type(likelihoods.StudentT(TYPES[kind](4)).df) is float


def test_a_traced_variance_is_refused():
    with refused("variance: expected a number, got one that is traced"):
        jax.jit(lambda v: likelihoods.FixedGaussian(v).variance)(1.0)


@pytest.mark.parametrize("kind", TYPES)
def test_options_of_chains_and_fits_may_be_of_any_type(kind):
    model, x = vae(), jnp.ones(4)
    ais_options = {"num_chains": 2, "num_temperatures": 2}
    fit = lambda **o: jv.inference.fit_posterior(key(), model, x, num_steps=2, **o)  # noqa: E731
    ais = lambda **o: jv.evaluation.ais(key(), model, x[None], **ais_options, **o)  # noqa: E731
    with unchecked():
        for function, name in ((fit, "learning_rate"), (ais, "step_size")):
            number, other = (function(**{name: v}) for v in (0.5, TYPES[kind](0.5)))
            jax.tree.map(np.testing.assert_array_equal, *map(jax.tree.leaves, (number, other)))


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_weights_of_info_vae_may_add_up_in_float32(alpha):
    model, xs = vae(), jnp.eye(4)

    def info(lambda_):
        keys = jax.random.split(key(), 4)
        return jv.coupled.info_vae(keys, model, xs, alpha=alpha, lambda_=lambda_)

    for kind in (np.float32, jnp.float32):
        terms = info(lambda_=kind(1 - alpha))
        np.testing.assert_allclose(terms.objective, info(lambda_=1 - alpha).objective, rtol=1e-6)
    with refused("lambda_: expected a finite number of at least"):
        info(lambda_=0.99 * (1 - alpha))


def test_a_wrong_key_of_an_evaluation_is_refused_whatever_is_shown():
    class Draws(dist.Poisson):
        @property
        def mean(self):
            raise NotImplementedError

    class Model:
        def prior(self):
            return dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)

        posterior = None

        def likelihood(self, z):
            return Draws(jnp.exp(z)).to_event(1)

    for wrong in (0, "k", jax.random.split(key(), 3)):
        for model in (Model(), vae()):
            with refused("key: expected"):
                jv.evaluation.likelihood_means(model, jnp.zeros((3, 2)), key=wrong)


def test_coupled_objectives_have_the_entropy_form_too():
    """A table of three forms serves them: the entropy was taken for the Monte Carlo form."""
    model, xs = vae(), jnp.eye(4)
    weights = {"lambda_off_diagonal": 0.0, "lambda_diagonal": 0.0}

    def each(kl):
        keys = jax.random.split(key(), 4)
        return jv.coupled.dip_vae(keys, model, xs, kl=kl, **weights).bound

    for kl in ("analytic", "entropy", "monte_carlo"):
        got = each(kl)
        keys = jax.random.split(key(), 4)
        exact = jax.vmap(partial(jv.elbo, kl=kl), (0, None, 0))(keys, model, xs).bound
        np.testing.assert_allclose(got, exact, rtol=1e-6)
    assert not np.allclose(each("entropy"), got)  # that of Monte Carlo
