from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.evaluation.contour import contour
from jaxvae.evaluation.gaps import gaps
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import assert_mean
from tests.test_fit_posterior import (
    PRECISION,
    best_diagonal,
    exact,
    moments_and_elbo,
    problem,
    reuse,
)

SIZES = {"num_samples": 300, "num_steps": 400}


@cache
def exact_gaps():
    """Of every example: the approximation gap of the best diagonal normal, and the total gap."""
    model, xs = problem()
    _, _, evidence, elbo = map(np.float64, exact(model, xs))
    return evidence - best_diagonal(model, xs)[2], evidence - elbo


@cache
def measured(log_evidence):
    model, xs = problem()
    given = log_evidence
    if given == "given":
        given = np.asarray(exact(model, xs)[2])
    return gaps(jax.random.key(3), model, xs, log_evidence=given, **SIZES)


def check_gaps(of):
    """Every mean gap is the one in closed form, to 5.5 of its Monte Carlo errors (false alarm 4e-8) and
    `PRECISION`."""
    diagonal, total = exact_gaps()
    noise = np.nan_to_num(of.log_evidence_error)
    for name, approximation in (("diagonal", diagonal), ("full", np.zeros_like(diagonal))):
        gap = of.families[name]
        assert np.all(gap.approximation + gap.amortisation == of.total)
        for got, expected, errors in (
            (of.total, total, (noise, of.encoder_error)),
            (gap.approximation, approximation, (noise, gap.best_error)),
            (gap.amortisation, total - approximation, (gap.best_error, of.encoder_error)),
        ):
            away = abs(np.mean(got - expected))
            error = np.sqrt(np.sum(np.hypot(*errors) ** 2)) / len(got)
            assert away < 5.5 * error + PRECISION, (name, away, error)


@pytest.mark.parametrize("log_evidence", slow_but(["exact", "given", "iwae"], "exact", "iwae"))
def test_gaps_are_those_in_closed_form(log_evidence):
    check_gaps(measured(log_evidence))


def changed(of, **arrays):
    """The same gaps with other numbers for the best diagonal normal."""
    diagonal = of.families["diagonal"]._replace(**arrays)
    return of._replace(families={**of.families, "diagonal": diagonal})


def of_best(of, best):
    return changed(
        of, best=best, approximation=of.log_evidence - best, amortisation=best - of.encoder
    )


def sign_flipped(of):
    gap = of.families["diagonal"]
    flipped = changed(of, approximation=-gap.approximation, amortisation=-gap.amortisation)
    return flipped._replace(total=-of.total)


def names_exchanged(of):
    gap = of.families["diagonal"]
    return changed(of, approximation=gap.amortisation, amortisation=gap.approximation)


def noise_of_the_fit_reused(of):
    model, xs = problem()
    keys = jax.random.split(jax.random.key(0), len(xs))
    best = jax.vmap(lambda key, x: reuse(key, model, x, -1.0)[1])(keys, xs)
    return of_best(of, np.float64(best))


def fitted_to_another_example(of):
    model, xs = problem()
    keys = jax.random.split(jax.random.key(0), len(xs))
    q = jax.vmap(lambda key, x: reuse(key, model, x, -1.0)[0].distribution())(
        keys, jnp.roll(xs, 1, 0)
    )
    return of_best(of, np.float64(moments_and_elbo(model, q, xs)[2]))


def best_is_the_encoder(of):
    return of_best(of, of.encoder)


@pytest.mark.parametrize(
    "twin",
    [
        sign_flipped,
        names_exchanged,
        noise_of_the_fit_reused,
        fitted_to_another_example,
        best_is_the_encoder,
    ],
)
def test_check_of_gaps_rejects(twin):
    with pytest.raises(AssertionError):
        check_gaps(twin(measured("exact")))


def test_evidence_by_samples_is_a_lower_bound_within_its_error():
    of, known = measured("iwae"), measured("exact")
    difference = of.log_evidence - known.log_evidence
    assert_mean(difference, 0.0, rounding=0.002, what="log p(x)")
    assert np.all(np.abs(difference) < 6 * of.log_evidence_error + 1e-4)
    assert np.all(known.log_evidence_error == 0)
    assert np.all(np.isnan(measured("given").log_evidence_error))


def test_what_is_said():
    of = measured("exact")
    mean, error = of.mean("total")
    lines = str(of).split("\n")
    assert lines[0].startswith("log p(x) of 32 examples, exact: ")
    assert lines[1].startswith("encoder, diagonal: ELBO ")
    assert lines[1].endswith(f"total gap {mean:.2f} +- {error:.2f}")
    approximation, error = of.mean("approximation", "full")
    assert f"approximation gap {abs(approximation):.2f} +- {error:.2f}" in lines[3]
    assert lines[3].endswith("which is not the encoder's family")
    assert not lines[2].endswith("family")
    assert "at least, by 600 samples of the best q" in str(measured("iwae"))
    assert "given" in str(measured("given"))


@pytest.mark.slow
def test_gaps_of_an_example_do_not_depend_on_the_others():
    model, xs = problem()
    options = {"num_samples": 5, "num_steps": 3, "families": ("diagonal",), "batch_size": 2}
    seen = []
    few, more = (
        gaps(
            jax.random.key(0),
            model,
            xs[:n],
            log_evidence=np.zeros(n),
            on_progress=seen.append,
            **options,
        )
        for n in (2, 5)
    )
    np.testing.assert_array_equal(few.total, more.total[:2])
    assert more.total.shape == (5,)
    assert seen == [2, 2, 4, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"families": ()}, ("families", "()")),
        ({"families": "full"}, ("families", "'full'")),
        ({"families": ("full", "full")}, ("families", "once")),
        ({"families": ("laplace",)}, ("family", "'laplace'")),
        ({"num_steps": 0}, ("num_steps", "0")),
        ({"num_fit_samples": 0}, ("num_samples", "0")),
        ({"num_samples": 0}, ("num_samples", "0")),
        ({"log_evidence": "ais"}, ("log_evidence", "'ais'")),
        ({"log_evidence": np.zeros(3)}, ("log_evidence", "(32,)", "(3,)")),
        ({"log_evidence": np.full(32, np.nan)}, ("log_evidence", "NaN")),
    ],
)
def test_options_are_checked(options, words):
    model, xs = problem()
    with refused(*words):
        gaps(jax.random.key(0), model, xs, **options)


def test_models_that_do_not_fit_are_refused():
    xs = np.zeros((2, 4), np.float32)
    bits = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,), posterior="bernoulli")
    with refused("vector of reals", "prior"):
        gaps(jax.random.key(0), bits, xs)
    unknown = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    with refused("log_evidence", "VAE", "'exact'".replace("'", '"')):
        gaps(jax.random.key(0), unknown, xs, log_evidence="exact", num_steps=1, num_samples=2)


# The surface around the best q.


@cache
def surface():
    model, xs = problem()
    return contour(
        jax.random.key(0), model, xs[0], num_points=11, num_steps=400, learning_rate=0.05
    )


def check_surface(of):
    """The ELBO falls from the best by (m - m*)' P (m - m*) / 2, exactly, P the posterior's precision."""
    model, xs = problem()
    posterior = model.exact_posterior(xs[0])
    precision = np.linalg.inv(np.float64(posterior.covariance_matrix))
    first, second = np.meshgrid(of.first, of.second)
    away = np.stack([first, second], axis=-1) - np.float64(posterior.mean)
    below = 0.5 * np.einsum("abi,ij,abj->ab", away, precision, away)
    np.testing.assert_allclose(of.best_elbo - of.elbo, below, atol=0.01, rtol=0.01)


def test_surface_is_the_quadratic_of_the_posterior():
    check_surface(surface())
    of = surface()
    for twin in (
        of._replace(elbo=of.elbo.T),
        of._replace(elbo=of.elbo[::-1]),
        of._replace(first=of.second, second=of.first),
        of._replace(elbo=-of.elbo),
    ):
        with pytest.raises(AssertionError):
            check_surface(twin)


def test_path_leads_from_the_prior_to_the_best():
    model, xs = problem()
    of = surface()
    assert of.path.shape == (401, 2)
    np.testing.assert_array_equal(of.path[0], 0)
    np.testing.assert_allclose(of.best, model.exact_posterior(xs[0]).mean, atol=0.05)
    np.testing.assert_allclose(of.encoder, model.posterior(xs[0]).mean, rtol=1e-5)
    for points in (of.path, of.encoder[None]):
        assert np.all((points[:, 0] > of.first[0]) & (points[:, 0] < of.first[-1]))
        assert np.all((points[:, 1] > of.second[0]) & (points[:, 1] < of.second[-1]))
    # The noise is standardised in its mean alone, so its second moments are near 1.
    np.testing.assert_allclose(of.encoder_elbo, model.exact_elbo(xs[0]).bound, atol=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coordinates": (0, 0)}, ("coordinates", "(0, 0)")),
        ({"coordinates": (0, 2)}, ("coordinates", "(2,)")),
        ({"coordinates": (0,)}, ("coordinates",)),
        ({"margin": -1.0}, ("margin", "-1.0")),
        ({"num_points": 0}, ("num_points", "0")),
        ({"num_steps": 0}, ("num_steps", "0")),
    ],
)
def test_options_of_the_surface_are_checked(options, words):
    model, xs = problem()
    with refused(*words):
        contour(jax.random.key(0), model, xs[0], **options)
