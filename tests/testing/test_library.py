"""The library's own estimators, judged by the kit that users get. Total false alarm 1e-6 each."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

import jaxvae as jv

ELBO = partial(jv.elbo, kl="monte_carlo", num_samples=2)
JUDGED = {
    "elbo, analytic": (jv.elbo, "elbo", 1),
    "elbo, entropy": (partial(jv.elbo, kl="entropy", num_samples=2), "elbo", 1),
    "elbo, stl": (partial(ELBO, gradient="stl"), "elbo", 1),
    "elbo, dreg": (partial(ELBO, gradient="dreg"), "elbo", 1),
    "iwae, pathwise": (partial(jv.iwae, num_samples=3), "iwae", 3),
    "iwae, dreg": (partial(jv.iwae, num_samples=3, gradient="dreg"), "iwae", 3),
}


@pytest.mark.parametrize(("objective", "bound", "num_samples"), JUDGED.values(), ids=JUDGED)
def test_it_passes(objective, bound, num_samples):
    verdict = jv.testing.check_estimator(
        objective,
        bound=bound,
        num_samples=num_samples,
        models=["linear_gaussian"],
        print_report=False,
    )
    assert verdict.passed, str(verdict)


def squared_in_the_decoder_too(problem):
    """DReG's weights where they do not belong."""
    s = problem.draw(scorer=jax.lax.stop_gradient(problem.model))
    weight = jax.lax.stop_gradient(jax.nn.softmax(problem.log_w(s)))
    return s, jnp.sum(weight**2 * problem.log_w(s))


@pytest.mark.parametrize("gradient", ["stl", squared_in_the_decoder_too, "rws"])
def test_bias_is_found(gradient):
    """STL at K > 1 in the encoder, squared weights in the decoder; wake-sleep is another gradient."""
    verdict = jv.testing.check_estimator(
        partial(jv.iwae, num_samples=5, gradient=gradient),
        bound="iwae",
        num_samples=5,
        models=["linear_gaussian"],
        print_report=False,
    )
    assert not verdict.passed
    failed = " ".join(str(check) for check in verdict.failed)
    assert ("decoder" if gradient is squared_in_the_decoder_too else "encoder") in failed
