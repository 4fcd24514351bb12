"""The judge passes what is right and rejects one planted bug at a time, where the bug is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxvae as jv
from jaxvae import bounds
from jaxvae.testing import check_estimator, gaussian_mixture, linear_gaussian
from tests.support import twins
from tests.support.refusals import refused
from tests.support.slow import slow_but

judge = partial(check_estimator, print_report=False)
LINEAR, BITS = ["linear_gaussian"], ["bernoulli"]
ALL = {"linear_gaussian", "full_covariance", "gaussian_mixture", "categorical", "bernoulli"}


def iwae_claim(k):
    return {"bound": "iwae", "num_samples": k}


ELBO = partial(jv.elbo, kl="monte_carlo", num_samples=2)
GOOD = {
    "elbo mc 3": (partial(jv.elbo, kl="monte_carlo", num_samples=3), {}),
    "elbo entropy": (partial(jv.elbo, kl="entropy", num_samples=2), {}),
    "elbo stl": (partial(ELBO, gradient="stl"), {}),
    "elbo dreg": (partial(ELBO, gradient="dreg"), {}),
    "iwae 3": (partial(jv.iwae, num_samples=3), iwae_claim(3)),
    "dreg 5": (
        partial(jv.iwae, num_samples=5, gradient="dreg"),
        {**iwae_claim(5), "reference": partial(jv.iwae, num_samples=5)},
    ),
    "stl 1": (
        partial(jv.iwae, num_samples=1, gradient="stl"),
        {"reference": partial(jv.iwae, num_samples=1)},
    ),
    "weights detached": (
        partial(twins.bent(twins.detached_weights), num_samples=5),
        iwae_claim(5),
    ),
    "multiply iwae": (partial(twins.multiply, num_means=3, num_samples=2), iwae_claim(2)),
}


@pytest.mark.parametrize("name", slow_but(GOOD, "elbo mc 3", "iwae 3", "stl 1"))
def test_what_is_right_passes(name):
    objective, claim = GOOD[name]
    verdict = judge(objective, **{"models": LINEAR, **claim})
    assert verdict.passed, f"\n{verdict}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "claim", "refused"),
    [
        (jv.elbo, {}, {"gaussian_mixture", "categorical", "bernoulli"}),
        (partial(jv.iwae, num_samples=5), iwae_claim(5), {"categorical", "bernoulli"}),
        (partial(jv.elbo, kl="monte_carlo", num_samples=3, gradient="score"), {}, set()),
    ],
    ids=["elbo", "iwae 5", "score"],
)
def test_what_is_right_passes_on_every_model_that_it_takes(objective, claim, refused):
    verdict = judge(objective, **claim)
    assert verdict.passed, f"\n{verdict}"
    assert set(verdict.skipped) == refused
    assert {check.model for check in verdict.checks} == ALL - refused


BAD = {
    # name: (objective, claim, the checks that must fail)
    "wrong sign": (twins.kl_of_wrong_sign, {}, {"bound", "encoder gradient"}),
    "kl averaged": (twins.kl_averaged_over_latents, {}, {"bound", "rate", "encoder gradient"}),
    "distortion averaged": (
        twins.distortion_averaged_over_event,
        {},
        {"bound", "distortion", "decoder gradient"},
    ),
    "detached samples": (twins.detached_samples, {}, {"encoder gradient"}),
    "sum(w log w) reported": (
        partial(twins.bent(bounds.iwae, twins.self_normalised), num_samples=5),
        iwae_claim(5),
        {"bound", "objective = bound"},
    ),
    "mean of logs as iwae": (
        partial(twins.iwae_twin(bounds.elbo), num_samples=5),
        iwae_claim(5),
        {"bound", "encoder gradient", "decoder gradient"},
    ),
    "no log K": (
        partial(twins.iwae_twin(twins.missing_log_k), num_samples=5),
        iwae_claim(5),
        {"bound"},
    ),
    "undetached weights": (
        partial(twins.bent(twins.self_normalised), num_samples=5),
        iwae_claim(5),
        {"encoder gradient", "decoder gradient"},
    ),
    "equal weights": (
        partial(twins.bent(bounds.elbo), num_samples=5),
        iwae_claim(5),
        {"encoder gradient", "decoder gradient"},
    ),
    "stl of iwae": (
        partial(jv.iwae, num_samples=5, gradient="stl"),
        iwae_claim(5),
        {"encoder gradient"},
    ),
    "dreg squared in p": (
        partial(jv.iwae, num_samples=5, gradient=twins.squared_in_the_decoder_too),
        iwae_claim(5),
        {"decoder gradient"},
    ),
    "axes of M and K": (
        partial(twins.multiply, num_means=3, num_samples=2, transposed=True),
        iwae_claim(2),
        {"bound", "encoder gradient"},
    ),
    "wake-sleep": (
        partial(jv.iwae, num_samples=5, gradient="rws"),
        iwae_claim(5),
        {"encoder gradient"},
    ),
    "wrong K": (partial(jv.iwae, num_samples=2), iwae_claim(3), {"bound"}),
    "beta": (partial(jv.elbo, beta=0.5), {}, {"objective = bound", "encoder gradient"}),
    "nan": (lambda key, model, x: jnp.nan * jv.elbo(key, model, x).bound, {}, {"bound"}),
}


@pytest.mark.parametrize("name", slow_but(BAD, *list(BAD)[::2]))
def test_one_bug_is_found_where_it_is(name):
    objective, claim, wanted = BAD[name]
    verdict = judge(objective, models=LINEAR, **claim)
    failed = {check.name for check in verdict.failed}
    assert not verdict.passed
    assert wanted <= failed, f"\n{verdict}"


def test_biased_gradients_leave_what_is_right_alone():
    for name, right in [
        ("stl of iwae", {"bound", "decoder gradient"}),
        ("dreg squared in p", {"bound", "encoder gradient"}),
        ("detached samples", {"bound", "rate"}),
    ]:
        objective, claim, _ = BAD[name]
        failed = {check.name for check in judge(objective, models=LINEAR, **claim).failed}
        assert not failed & right, name


@pytest.mark.parametrize("bug", [twins.own_sample_in_the_baseline, twins.wrong_sign])
def test_bugs_of_the_score_function_are_found_in_q(bug):
    objective = partial(jv.elbo, kl="monte_carlo", num_samples=3, gradient=bug)
    failed = {check.name for check in judge(objective, models=BITS).failed}
    assert failed == {"encoder gradient"}


def test_a_value_of_its_own_differs_from_the_reference():
    reference = partial(jv.elbo, kl="monte_carlo")
    verdict = judge(jv.elbo, reference=reference, models=LINEAR)
    assert {check.name for check in verdict.failed} == {"same as reference"}


def test_a_lower_bound_is_only_held_to_the_evidence():
    objective = partial(jv.iwae, num_samples=7)
    verdict = judge(objective, bound="lower", models=LINEAR)
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["bound", "objective = bound"]
    above = partial(twins.iwae_twin(twins.missing_log_k), num_samples=50)
    assert not judge(above, bound="lower", models=LINEAR).passed


def test_a_scalar_is_judged_without_terms():
    verdict = judge(lambda key, model, x: jv.elbo(key, model, x).bound, models=LINEAR)
    assert verdict.passed
    assert "rate" not in {check.name for check in verdict.checks}


def test_refused_models_are_skipped_in_words_and_nothing_shown_is_no_pass():
    verdict = judge(jv.elbo, models=BITS)
    assert not verdict.passed
    assert not verdict.checks
    assert "FloatBernoulli" in verdict.skipped["bernoulli"]
    assert "nothing is shown" in str(verdict)
    own = {"mixture": gaussian_mixture(), "linear": linear_gaussian(latent_dim=1)}
    mixture = judge(jv.elbo, models=own, num_draws=2048)
    assert mixture.passed
    assert "kl" in mixture.skipped["mixture"]


def test_the_report_says_what_was_found(capsys):
    check_estimator(partial(jv.iwae, num_samples=2), models=LINEAR, num_draws=2048)
    report = capsys.readouterr().out
    for words in ("claim: the ELBO", "encoder gradient", "FAILED", "z=", "%", "1e-06"):
        assert words in report


@pytest.mark.slow
def test_power_is_what_is_stated():
    """A gradient that is off by what `detects` says is found in 99 of 100 seeds."""
    base = jv.elbo
    check = next(
        c for c in judge(base, models=LINEAR, num_draws=2048).checks if c.name == "decoder gradient"
    )

    def biased(key, model, x):
        value = base(key, model, x).objective
        return jax.lax.stop_gradient(value) + (1 + check.detects) * (
            value - jax.lax.stop_gradient(value)
        )

    found = sum(
        not judge(biased, models=LINEAR, num_draws=2048, seed=seed).passed for seed in range(40)
    )
    assert found >= stats.binom(40, 0.99).ppf(1e-6), found


@pytest.mark.slow
def test_false_alarm_rate_is_at_most_what_is_stated():
    """100 verdicts on a correct estimator at the 5 % level: a binomial count, to 1e-6."""
    objective = partial(jv.iwae, num_samples=2)
    settings = {"models": LINEAR, "num_draws": 2048, "false_alarm": 0.05, **iwae_claim(2)}
    alarms = sum(not judge(objective, seed=seed, **settings).passed for seed in range(100))
    assert alarms <= stats.binom(100, 0.05).isf(1e-6), alarms
    powerful = judge(partial(jv.iwae, num_samples=3), **settings)
    assert not powerful.passed


def test_verdict_has_numbers():
    verdict = judge(jv.elbo, models=LINEAR, num_draws=2048)
    for check in verdict.checks:
        assert check.worst <= check.limit
        assert np.isnan(check.detects) or check.detects > 0
    assert sum(check.false_alarm for check in verdict.checks) <= verdict.false_alarm * (1 + 1e-9)


def test_refusals():
    with refused("bound", "'renyi'"):
        judge(jv.elbo, bound="renyi")  # type: ignore[arg-type]
    with refused("num_samples", "2"):
        judge(jv.elbo, num_samples=2)
    with refused("false_alarm"):
        judge(jv.elbo, false_alarm=0.0)
    with refused("models", "linear_gaussian", "'toy'"):
        judge(jv.elbo, models=["toy"])
    with refused("num_draws"):
        judge(jv.elbo, num_draws=0)
