import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae import log_weights
from tests.support import oracles, twins
from tests.support.refusals import refused
from tests.support.statistics import assert_mean, assert_mean_exceeds

DRAWS = 4096


def keys(seed, size):
    return jax.random.split(jax.random.key(seed), size)


def values(objective, model, x, *, seed=0, draws=DRAWS):
    """Terms of one example under many keys, [draws] each."""
    call = jax.jit(jax.vmap(objective, (0, None, None)))
    return jax.tree.map(np.asarray, call(keys(seed, draws), model, jnp.asarray(x)))


def example(model, seed=9):
    return oracles.draw_x(model, seed, 1)[0]


# The exact posterior: every sample gives log p(x).


def check_tight(objective):
    """Every one of 64 draws on 5 examples within 2e-5 nats of log p(x), the error of float32."""
    model = oracles.with_exact_posterior(oracles.linear_gaussian(0))
    xs = oracles.draw_x(model, 1, 5)
    call = jax.jit(jax.vmap(jax.vmap(objective, (0, None, None)), (None, None, 0)))
    bound = call(keys(2, 64), model, xs).bound
    exact = np.broadcast_to(oracles.log_evidence(model, xs)[:, None], bound.shape)
    np.testing.assert_allclose(bound, exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(partial(jv.elbo, kl="monte_carlo"), marks=pytest.mark.slow),
        partial(jv.elbo, kl="monte_carlo", num_samples=3),
        pytest.param(partial(jv.iwae, num_samples=1), marks=pytest.mark.slow),
        partial(jv.iwae, num_samples=7),
    ],
    ids=["elbo 1", "elbo 3", "iwae 1", "iwae 7"],
)
def test_exact_posterior_gives_log_evidence_for_every_sample(objective):
    check_tight(objective)


@pytest.mark.parametrize(
    "twin",
    [
        jv.elbo,  # its analytic KL does not cancel sample by sample
        partial(twins.kl_of_wrong_sign, kl="monte_carlo"),
        pytest.param(
            partial(twins.kl_averaged_over_latents, kl="monte_carlo"), marks=pytest.mark.slow
        ),
        pytest.param(
            partial(twins.distortion_averaged_over_event, kl="monte_carlo"), marks=pytest.mark.slow
        ),
        partial(twins.iwae_twin(twins.missing_log_k), num_samples=7),
    ],
)
def test_check_of_tightness_rejects(twin):
    with pytest.raises(AssertionError):
        check_tight(twin)


# The mean of the ELBO's terms, for a posterior that is not exact.


def check_elbo_mean(objective, full=False):
    model = oracles.linear_gaussian(0, full=full)
    x = example(model)
    terms, exact = values(objective, model, x), oracles.elbo(oracles.parameters(model), x)
    for name in exact._fields:
        samples = getattr(terms, name)
        assert_mean(samples, getattr(exact, name), false_alarm=3e-7, rounding=1e-5, what=name)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_mean_of_elbo_is_its_closed_form(kl, full):
    check_elbo_mean(partial(jv.elbo, kl=kl, num_samples=2), full)


@pytest.mark.parametrize(
    "twin",
    [
        twins.kl_of_wrong_sign,
        twins.kl_averaged_over_latents,
        twins.distortion_averaged_over_event,
        partial(jv.iwae, num_samples=2),
    ],
)
def test_check_of_mean_rejects(twin):
    with pytest.raises(AssertionError):
        check_elbo_mean(twin)


def test_analytic_elbo_of_the_exact_posterior_is_log_evidence_in_expectation():
    model = oracles.with_exact_posterior(oracles.linear_gaussian(0))
    x = example(model)
    assert_mean(values(jv.elbo, model, x).bound, oracles.log_evidence(model, x), rounding=1e-5)


def check_variance_falls(objective):
    """Var of the mean of 4 samples is a quarter of that of 1, about the exact ELBO."""
    model = oracles.linear_gaussian(0)
    x = example(model)
    exact = oracles.elbo(oracles.parameters(model), x).bound
    one, four = (values(partial(objective, num_samples=k), model, x, seed=k).bound for k in (1, 4))
    assert_mean(4 * (np.float64(four) - exact) ** 2 - (np.float64(one) - exact) ** 2, 0.0)


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_samples_are_averaged(kl):
    check_variance_falls(partial(jv.elbo, kl=kl))


def test_check_of_variance_rejects_one_sample_for_all():
    with pytest.raises(AssertionError):
        check_variance_falls(twins.one_sample_for_all)


# The mean gradient.


def check_gradient(objective, *, full=False):
    """All entries of all parameters, encoder and decoder, at once."""
    model = oracles.linear_gaussian(0, full=full)
    x = example(model)
    gradient = jax.grad(lambda model, key, x: objective(key, model, x).objective)
    samples = jax.jit(jax.vmap(gradient, (None, 0, None)))(model, keys(3, DRAWS), x)
    exact = oracles.elbo_gradient(model, x)._asdict()
    if not full:
        del exact["lower"]
    rows = [np.asarray(getattr(samples, name)[...]).reshape(DRAWS, -1) for name in exact]
    exact = np.concatenate([value.ravel() for value in exact.values()])
    assert_mean(np.concatenate(rows, axis=1), exact, rounding=2e-5, what="gradient")


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_mean_gradient_of_elbo_is_its_closed_form(kl, num_samples):
    check_gradient(partial(jv.elbo, kl=kl, num_samples=num_samples))


def test_mean_gradient_through_a_full_covariance():
    check_gradient(jv.elbo, full=True)


def test_mean_gradient_of_iwae_of_one_sample_is_that_of_the_elbo():
    check_gradient(partial(jv.iwae, num_samples=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "twin",
    [
        twins.detached_samples,
        partial(twins.detached_samples, kl="monte_carlo"),
        twins.kl_of_wrong_sign,
        twins.kl_averaged_over_latents,
        partial(jv.elbo, beta=0.5),
        partial(jv.iwae, num_samples=3),
    ],
)
def test_check_of_gradient_rejects(twin):
    with pytest.raises(AssertionError):
        check_gradient(twin)


# IWAE: its value for two samples, its rise in K, its limit.


def check_iwae_of_two(objective):
    model = oracles.linear_gaussian(4, latent_dim=1)
    x = example(model)
    exact = oracles.iwae_of_two(model, x)
    bound = values(partial(objective, num_samples=2), model, x, draws=16 * DRAWS).bound
    assert_mean(bound, exact, rounding=1e-5)


def test_mean_of_iwae_of_two_is_the_integral():
    check_iwae_of_two(jv.iwae)


@pytest.mark.slow
@pytest.mark.parametrize(
    "twin",
    [
        twins.iwae_of_one_sample,
        twins.iwae_twin(twins.mean_not_logsumexp),
        twins.iwae_twin(twins.self_normalised),
        twins.iwae_twin(twins.missing_log_k),
        twins.iwae_twin(twins.largest),
    ],
)
def test_check_of_iwae_rejects(twin):
    with pytest.raises(AssertionError):
        check_iwae_of_two(twin)


def check_iwae_order(objective):
    """L_1 < L_5 < L_50 beyond doubt (5e-7 each), and none above log p(x), by paired draws."""
    model = oracles.linear_gaussian(0)
    x = example(model)
    bounds = [
        np.float64(values(partial(objective, num_samples=k), model, x, draws=2000).bound)
        for k in (1, 5, 50)
    ]
    for fewer, more in itertools.pairwise(bounds):
        assert_mean_exceeds(more - fewer, 0.0, false_alarm=5e-7)
    for bound in bounds:
        assert_mean(bound, oracles.log_evidence(model, x), side="above", rounding=1e-5)


def test_iwae_rises_with_samples_and_stays_below_log_evidence():
    check_iwae_order(jv.iwae)


@pytest.mark.parametrize(
    "twin",
    [
        twins.iwae_of_one_sample,
        twins.iwae_twin(twins.self_normalised),
    ],
)
def test_check_of_order_rejects(twin):
    with pytest.raises(AssertionError):
        check_iwae_order(twin)


def test_iwae_of_many_samples_is_log_evidence_within_its_error():
    model = oracles.with_exact_posterior(oracles.linear_gaussian(0), widen=1.2)
    x = example(model)
    bound = values(partial(jv.iwae, num_samples=5000), model, x, draws=128).bound
    # What is left of the bias is below var(w) / 2K, a tenth of the error of the mean.
    assert_mean(bound, oracles.log_evidence(model, x), rounding=1e-5)
    assert np.std(bound) < 0.02, f"sd of L_5000: {np.std(bound)}"


# Terms.


def test_terms_of_the_elbo_add_up_and_beta_bends_the_objective_alone():
    model = oracles.linear_gaussian(0)
    x, key = jnp.asarray(example(model)), jax.random.key(1)
    elbo = jax.jit(partial(jv.elbo, num_samples=2))
    plain = elbo(key, model, x)
    assert plain.objective == plain.bound
    assert plain.bound == -(plain.distortion + plain.rate)
    for beta in (0.0, 0.5, 4.0, 2, jnp.float32(0.25)):
        terms = elbo(key, model, x, beta=beta)
        np.testing.assert_array_equal(terms[1:], plain[1:])
        weighted = -(float(plain.distortion) + float(beta) * float(plain.rate))
        np.testing.assert_allclose(terms.objective, weighted, rtol=1e-6)


def test_terms_of_iwae_hold_the_elbo_of_the_same_samples():
    model = oracles.linear_gaussian(0)
    x, key = jnp.asarray(example(model)), jax.random.key(1)
    terms = jax.jit(partial(jv.iwae, num_samples=5))(key, model, x)
    elbo = jax.jit(partial(jv.elbo, num_samples=5, kl="monte_carlo"))(key, model, x)
    assert terms.objective == terms.bound > elbo.bound
    np.testing.assert_allclose([terms.distortion, terms.rate], elbo[2:], rtol=1e-6)


# Samples.


def check_prefix(draw):
    model = oracles.linear_gaussian(0)
    x, key = jnp.asarray(example(model)), jax.random.key(4)
    few, many = (jax.jit(partial(draw, num_samples=k))(key, model, x) for k in (3, 8))
    np.testing.assert_array_equal(few, many[:3])
    assert len(np.unique(many[:, 0])) == 8, "samples repeat"


def test_samples_do_not_depend_on_how_many_are_drawn():
    check_prefix(lambda key, model, x, num_samples: log_weights.draw(key, model, x, num_samples).z)


@pytest.mark.parametrize(
    "twin",
    [
        lambda key, model, x, num_samples: (
            log_weights.draw(jax.random.fold_in(key, num_samples), model, x, num_samples).z
        ),
        lambda key, model, x, num_samples: jnp.stack(
            [log_weights.draw(key, model, x, 1).z[0]] * num_samples
        ),
    ],
    ids=["key of K", "repeated"],
)
def test_check_of_prefix_rejects(twin):
    with pytest.raises(AssertionError):
        check_prefix(twin)


def test_log_weights_are_the_densities_of_the_samples():
    model = oracles.linear_gaussian(0)
    x = jnp.asarray(example(model))
    s = jax.jit(partial(log_weights.draw, num_samples=4))(jax.random.key(0), model, x)
    for k, z in enumerate(s.z):
        densities = model.likelihood(z).log_prob(x), model.prior().log_prob(z), s.q.log_prob(z)
        got = s.log_p_x_z[k], s.log_p_z[k], s.log_q_z_x[k]
        np.testing.assert_allclose(got, densities, rtol=1e-5)
        np.testing.assert_allclose(s.log_w[k], got[0] + got[1] - got[2], rtol=1e-5)


# A model of one's own, without a closed-form KL.


def normal(size):
    return dist.Normal(jnp.zeros(size), jnp.ones(size)).to_event(1)


class Own(nnx.Module):
    """Fixed distributions: what each method returns is what the test is about."""

    def __init__(self, prior=None, posterior=None, likelihood=None):
        self._prior = nnx.data(prior or normal(2))
        self._posterior = nnx.data(posterior or normal(2))
        self._likelihood = nnx.data(likelihood or normal(3))

    def prior(self):
        return self._prior

    def posterior(self, x):
        return self._posterior

    def likelihood(self, z):
        return self._likelihood


def mixture():
    components = dist.Normal(jnp.array([[-1.0, 0.0], [1.0, 0.0]]), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.CategoricalProbs(jnp.ones(2) / 2), components)


def test_mixture_prior_has_no_analytic_kl_and_a_monte_carlo_one():
    model, x = Own(prior=mixture()), jnp.zeros(3)
    with refused("kl", "Independent(Normal)", "MixtureSameFamily"):
        jv.elbo(jax.random.key(0), model, x)
    # KL(N(0,1) || mixture), by the trapezoid rule on one coordinate; the other is equal in both.
    grid = np.linspace(-12, 12, 20_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    log_ratio = -(grid**2) / 2 - np.logaddexp(-((grid - 1) ** 2) / 2, -((grid + 1) ** 2) / 2)
    exact = np.trapezoid(density * (log_ratio + np.log(2)), grid)
    assert_mean(values(partial(jv.elbo, kl="monte_carlo"), model, x).rate, exact)


# Refusals.


@pytest.mark.parametrize("num_samples", [0, -1, True, 2.5, None])
@pytest.mark.parametrize("objective", [jv.elbo, jv.iwae])
def test_counts_of_samples_are_checked(objective, num_samples):
    with refused("num_samples", repr(num_samples)):
        objective(jax.random.key(0), Own(), jnp.zeros(3), num_samples=num_samples)


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf")])
def test_beta_is_checked(beta):
    with refused("beta", repr(beta)):
        jv.elbo(jax.random.key(0), Own(), jnp.zeros(3), beta=beta)


def test_unknown_options_are_refused_with_the_known_ones():
    with refused("kl", '"analytic"', '"monte_carlo"', "'exact'"):
        jv.elbo(jax.random.key(0), Own(), jnp.zeros(3), kl="exact")
    for objective in (jv.elbo, partial(jv.iwae, num_samples=2)):
        with refused("gradient", "pathwise", "'reinforce'"):
            objective(jax.random.key(0), Own(), jnp.zeros(3), gradient="reinforce")


BAD_MODELS = {
    "posterior without to_event": (
        lambda: Own(posterior=dist.Normal(jnp.zeros(2), 1.0)),
        ("posterior", "(2,)", ".to_event(1)"),
    ),
    "prior without to_event": (
        lambda: Own(prior=dist.Normal(jnp.zeros(2), 1.0)),
        ("prior", "(2,)", ".to_event(1)"),
    ),
    "likelihood without to_event": (
        lambda: Own(likelihood=dist.Normal(jnp.zeros(3), 1.0)),
        ("likelihood", "(3,)", ".to_event(1)"),
    ),
    "latents of two sizes": (lambda: Own(prior=normal(5)), ("model", "(2,)", "(5,)")),
    "posterior that cannot be reparameterised": (
        lambda: Own(posterior=mixture(), prior=mixture()),
        ("gradient", "MixtureSameFamily"),
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize(
    "objective", [partial(jv.elbo, kl="monte_carlo"), partial(jv.iwae, num_samples=2)]
)
def test_models_that_break_the_protocol_are_refused(objective, name):
    make, words = BAD_MODELS[name]
    with refused(*words):
        objective(jax.random.key(0), make(), jnp.zeros(3))


@pytest.mark.parametrize("objective", [jv.elbo, partial(jv.iwae, num_samples=2)])
def test_a_batch_is_refused_with_the_remedy(objective):
    with refused("x", "(3,)", "(5, 3)", "vmap"):
        objective(jax.random.key(0), Own(), jnp.zeros((5, 3)))


@pytest.mark.parametrize("objective", [jv.elbo, partial(jv.iwae, num_samples=2)])
def test_a_batch_to_a_network_is_refused_with_the_remedy(objective):
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    with refused("x", "4 values", "(5, 4)", "vmap"):
        objective(jax.random.key(1), model, jnp.zeros((5, 4)))
