import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.checks import require_key, require_positive
from tests.support.oracles import linear_gaussian
from tests.support.refusals import refused


def not_keys():
    return {
        "int": 0,
        "None": None,
        "legacy": jax.random.PRNGKey(0),
        "array of keys": jax.random.split(jax.random.key(0), 3),
        "numpy": np.zeros(2, np.uint32),
    }


@pytest.mark.parametrize("name", not_keys())
def test_anything_but_one_typed_key_is_refused(name):
    bad, model, x = not_keys()[name], linear_gaussian(), jnp.zeros(3)
    for function in (
        lambda: require_key(bad),
        lambda: jv.elbo(bad, model, x),
        lambda: jv.iwae(bad, model, x, num_samples=2),
        lambda: jv.evaluation.log_likelihood(bad, model, x[None], num_samples=2),
        lambda: jv.evaluation.terms(bad, model, x[None]),
        lambda: jv.models.vae(bad, (3,)),
    ):
        with refused("key"):
            function()


def test_a_key_passes_as_it_is_and_traced():
    require_key(jax.random.key(0))
    jax.vmap(lambda key: require_key(key))(jax.random.split(jax.random.key(0), 3))


@pytest.mark.parametrize("bad", [0, -1, True, 2.5, "3", None])
def test_counts_below_one_or_not_integers_are_refused(bad):
    with refused("rows", repr(bad)):
        require_positive(rows=bad)


def test_counts_pass():
    require_positive(rows=1, columns=10**9)


def test_any_object_with_the_three_methods_is_a_model():
    assert isinstance(linear_gaussian(), jv.Model)
    assert not isinstance(object(), jv.Model)


def test_input_error_is_a_value_error():
    assert issubclass(jv.InputError, ValueError)


def test_terms_is_a_pytree_of_four():
    terms = jv.Terms(*map(jnp.asarray, (1.0, 2.0, 3.0, 4.0)))
    assert terms._fields[:4] == ("objective", "bound", "distortion", "rate")
    assert jax.tree.map(lambda value: value + 1, terms).rate == 5
