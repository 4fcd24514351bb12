"""Every gradient estimator against an exact gradient, in encoder and decoder alike.

Discrete latents are enumerated: two bits, so an expectation over K samples is a sum of 4^K terms,
and its gradient is taken of that sum. False-alarm rate of each z-test: 1e-6 over all entries.
"""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae import bounds, gradients, log_weights
from jaxvae.distributions import FloatBernoulli, OneHotCategorical
from jaxvae.models.likelihoods import BernoulliLogits
from jaxvae.relaxations import relaxed_sample
from tests.support import oracles, twins
from tests.support.refusals import refused
from tests.support.statistics import z_test

DRAWS = 20_000
X = np.float32([1, 0, 1])


class Bits(nnx.Module):
    """Two latent bits, three visible ones; every map linear, with parameters of size one."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)

        def param(*shape):
            return nnx.Param(jnp.asarray(rng.normal(size=shape), jnp.float32))

        self.prior_logits, self.weight, self.bias = param(2), param(3, 2), param(3)
        self.encoder, self.offset = param(2, 3), param(2)

    def prior(self):
        return FloatBernoulli(self.prior_logits[...]).to_event(1)

    def posterior(self, x):
        return FloatBernoulli(self.encoder[...] @ x + self.offset[...]).to_event(1)

    def likelihood(self, z):
        logits = self.weight[...] @ z + self.bias[...]
        return BernoulliLogits(logits).to_event(1)


ALL_STATES = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=2)), jnp.float32)


def log_densities(model):
    """log p(x, z) and log q(z|x) of the four states, [4] each."""

    def one(z):
        log_p = model.likelihood(z).log_prob(jnp.asarray(X)) + model.prior().log_prob(z)
        return log_p, model.posterior(jnp.asarray(X)).log_prob(z)

    return jax.vmap(one)(ALL_STATES)


def expected(model, bound, num_samples):
    """E bound(log_w) over all tuples of K states."""
    log_p, log_q = log_densities(model)
    tuples = jnp.asarray(list(itertools.product(range(4), repeat=num_samples)))
    probability = jnp.exp(jnp.sum(log_q[tuples], axis=1))
    return jnp.sum(probability * jax.vmap(bound)((log_p - log_q)[tuples]))


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def gradients_of(objective, model, x=X, draws=DRAWS):
    """The gradients of the objective at `draws` keys, [draws, parameters]."""
    keys = jax.random.split(jax.random.key(7), draws)

    @jax.jit
    def one(keys):
        gradient = jax.grad(lambda model, key: objective(key, model, jnp.asarray(x)).objective)
        trees = jax.lax.map(lambda key: gradient(model, key), keys, batch_size=1000)
        return jnp.concatenate([leaf.reshape(draws, -1) for leaf in jax.tree.leaves(trees)], 1)

    return np.asarray(one(keys))


def check(objective, exact, model):
    verdict = z_test(gradients_of(objective, model), exact, rounding=2e-6)
    assert verdict.passed, f"max z {verdict.max_z:.1f} > {verdict.threshold:.1f}"


def elbo(**options):
    return partial(jv.elbo, kl="monte_carlo", **options)


UNBIASED_FOR_THE_ELBO = {
    "score": elbo(gradient="score"),
    "score, a constant": elbo(gradient="score", baseline=-2.0),
    "score, leave one out": elbo(gradient="score", baseline="leave_one_out", num_samples=3),
    "score, analytic": partial(jv.elbo, kl="analytic", gradient="score", num_samples=2),
    "score, entropy": partial(jv.elbo, kl="entropy", gradient="score", num_samples=2),
    "disarm": elbo(gradient="disarm"),
    "disarm, three pairs": elbo(gradient="disarm", num_samples=3),
    "disarm, analytic": partial(jv.elbo, kl="analytic", gradient="disarm"),
    "enumerate": elbo(gradient="enumerate"),
    "enumerate, entropy": partial(jv.elbo, kl="entropy", gradient="enumerate"),
}


@pytest.mark.parametrize("objective", UNBIASED_FOR_THE_ELBO.values(), ids=UNBIASED_FOR_THE_ELBO)
def test_elbo_of_bits(objective):
    model = Bits()
    check(objective, flat(jax.grad(expected)(model, bounds.elbo, 1)), model)


UNBIASED_FOR_IWAE = {
    "score": partial(jv.iwae, num_samples=2, gradient="score"),
    "vimco": partial(jv.iwae, num_samples=2, gradient="vimco"),
}


@pytest.mark.parametrize("objective", UNBIASED_FOR_IWAE.values(), ids=UNBIASED_FOR_IWAE)
def test_iwae_of_bits(objective):
    model = Bits()
    check(objective, flat(jax.grad(expected)(model, bounds.iwae, 2)), model)


def test_vimco_of_three_samples():
    model = Bits(1)
    objective = partial(jv.iwae, num_samples=3, gradient="vimco")
    check(objective, flat(jax.grad(expected)(model, bounds.iwae, 3)), model)


def wake(model, num_samples=2):
    """E sum_k softmax(log_w)_k (log p(x, z_k) + log q(z_k|x)), the weights and E held fixed."""
    log_p, log_q = log_densities(model)
    tuples = jnp.asarray(list(itertools.product(range(4), repeat=num_samples)))
    probability = jnp.exp(jnp.sum(log_q[tuples], axis=1))
    weight = jax.vmap(jax.nn.softmax)((log_p - log_q)[tuples])
    held = jax.lax.stop_gradient(probability[:, None] * weight)
    return jnp.sum(held * (log_p + log_q)[tuples])


def test_reweighted_wake_sleep():
    model = Bits()
    objective = partial(jv.iwae, num_samples=2, gradient="rws")
    check(objective, flat(jax.grad(wake)(model)), model)


# Twins: one planted bug each.


TWINS = [
    twins.wrong_sign,
    twins.own_sample_in_the_baseline,
    twins.undetached_signal,
    twins.no_direct_term,
]


@pytest.mark.parametrize("twin", TWINS)
def test_twins_of_the_score_function_fail(twin):
    model = Bits()
    exact = flat(jax.grad(expected)(model, bounds.elbo, 1))
    with pytest.raises(AssertionError, match="max z"):
        check(elbo(gradient=twin, num_samples=3), exact, model)


def test_own_sample_in_vimco_fails():
    model = Bits()
    exact = flat(jax.grad(expected)(model, bounds.iwae, 2))
    with pytest.raises(AssertionError, match="max z"):
        check(
            partial(jv.iwae, num_samples=2, gradient=twins.own_sample_in_the_baseline), exact, model
        )


# Relaxations: biased for the discrete model, exact for the relaxed one.


def relaxed_mean(logit, temperature):
    """E sigmoid((logit + logistic) / temperature) by the midpoint rule over the noise's quantiles."""
    u = (jnp.arange(200_000, dtype=jnp.float32) + 0.5) / 200_000
    noise = jnp.log(u) - jnp.log1p(-u)
    return jnp.mean(jax.nn.sigmoid((logit + noise) / temperature))


@pytest.mark.parametrize("gradient", ["gumbel_softmax", "straight_through"])
def test_relaxed_samples_have_their_mean_and_slope(gradient):
    """d/d logit of E relaxed(z), by quadrature over the noise."""
    temperature = 0.7

    def mean_of_z(logit, key):
        q = FloatBernoulli(jnp.reshape(logit, (1,))).to_event(1)
        hard, soft = relaxed_sample(q, key, temperature)
        return (
            soft[0]
            if gradient == "gumbel_softmax"
            else hard[0] + soft[0] - jax.lax.stop_gradient(soft[0])
        )

    keys = jax.random.split(jax.random.key(3), DRAWS)
    values, slopes = jax.vmap(jax.value_and_grad(mean_of_z), (None, 0))(jnp.float32(0.4), keys)
    exact_slope = float(jax.grad(relaxed_mean)(jnp.float32(0.4), temperature))
    exact = relaxed_mean(0.4, temperature) if gradient == "gumbel_softmax" else jax.nn.sigmoid(0.4)
    assert z_test(np.asarray(values), float(exact)).passed
    assert z_test(np.asarray(slopes), exact_slope, rounding=1e-5).passed
    assert not z_test(np.asarray(slopes), float(jax.nn.sigmoid(0.4) * jax.nn.sigmoid(-0.4))).passed


def relaxed_elbo(model, kl, temperature):
    """The ELBO of soft bits, by the midpoint rule over both quantiles of the noise; formulas written out."""
    u = (jnp.arange(400, dtype=jnp.float32) + 0.5) / 400
    noise = jnp.stack(jnp.meshgrid(*[jnp.log(u) - jnp.log1p(-u)] * 2), -1).reshape(-1, 2)
    q, prior = model.posterior(jnp.asarray(X)).base_dist.logits, model.prior_logits[...]
    mean = jax.nn.sigmoid(q)
    entropy = jnp.sum(jax.nn.softplus(q) - q * mean)

    def log_p(logits, bits):
        return jnp.sum(bits * logits - jax.nn.softplus(logits))

    def of_one(noise):
        z = jax.nn.sigmoid((q + noise) / temperature)
        rate = {
            "entropy": -log_p(prior, z) - entropy,
            "analytic": -log_p(prior, mean) - entropy,
        }
        return log_p(model.weight[...] @ z + model.bias[...], jnp.asarray(X)) - rate[kl]

    return jnp.mean(jax.vmap(of_one)(noise))


@pytest.mark.parametrize("kl", ["entropy", "analytic"])
def test_every_form_of_the_elbo_has_the_gradient_of_soft_bits(kl):
    model = Bits()
    exact = flat(jax.jit(jax.grad(partial(relaxed_elbo, kl=kl, temperature=0.7)))(model))
    check(partial(jv.elbo, kl=kl, gradient="gumbel_softmax", temperature=0.7), exact, model)


def test_the_prior_of_soft_bits_gets_the_gradient_of_bits_as_they_cool():
    """E soft z - E z, which is the bias of d/d prior, falls with the temperature; hard bits have none."""
    model = Bits()
    exact = jax.grad(expected)(model, bounds.elbo, 1).prior_logits[...]
    grad = jax.jit(jax.grad(lambda model, t: relaxed_elbo(model, "entropy", t)))
    bias = [np.abs(grad(model, t).prior_logits[...] - exact).max() for t in (1.0, 0.3, 0.05)]
    print("bias of d/d prior at temperatures 1, 0.3, 0.05:", bias)
    assert bias[0] > 3 * bias[1] > 9 * bias[2]


def test_check_of_soft_bits_rejects_a_prior_without_its_gradient():
    class Stopped(Bits):
        def prior(self):
            return FloatBernoulli(jax.lax.stop_gradient(self.prior_logits[...])).to_event(1)

    exact = flat(jax.grad(relaxed_elbo)(Bits(), "entropy", 0.7))
    objective = partial(jv.elbo, kl="entropy", gradient="gumbel_softmax", temperature=0.7)
    with pytest.raises(AssertionError):
        check(objective, exact, Stopped())


@pytest.mark.slow
def test_one_hot_vectors_work_with_every_estimator_that_takes_them():
    class OneHot(Bits):
        def prior(self):
            return OneHotCategorical(self.prior_logits[...][None])

        def posterior(self, x):
            return OneHotCategorical((self.encoder[...] @ x + self.offset[...])[None])

    model = OneHot()
    exact = flat(
        jax.grad(
            lambda m: (
                jv.elbo(
                    jax.random.key(0), m, jnp.asarray(X), gradient="enumerate", kl="monte_carlo"
                ).objective
            )
        )(model)
    )
    check(elbo(gradient="score", num_samples=2), exact, model)
    for gradient in ("gumbel_softmax", "straight_through"):
        terms = jv.elbo(jax.random.key(0), model, jnp.asarray(X), gradient=gradient)
        assert terms.objective == terms.bound
        assert terms.bound <= 0


# The value is the bound, whatever the estimator.


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        partial(jv.elbo, kl="monte_carlo", num_samples=4),
        partial(jv.iwae, num_samples=4),
        partial(jv.multiply_iwae, num_outer=2, num_samples=2),
        partial(jv.importance_weighted, bound=partial(bounds.renyi, alpha=0.5), num_samples=4),
    ],
    ids=["elbo", "iwae", "multiply_iwae", "renyi"],
)
def test_the_value_is_that_of_the_pathwise_estimator(objective):
    model = oracles.linear_gaussian(0)
    x = jnp.asarray(oracles.draw_x(model, 0, 1)[0])

    @jax.jit
    def all_of_them(seed):
        each = ("pathwise", "stl", "dreg", "score")
        return {g: objective(jax.random.key(seed), model, x, gradient=g) for g in each}

    found = all_of_them(0)
    for gradient, terms in found.items():
        np.testing.assert_allclose(terms, found["pathwise"], rtol=1e-6, err_msg=gradient)


# Reparameterised estimators on the linear-Gaussian model.


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg", "score"])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_elbo_of_a_linear_gaussian(gradient, num_samples):
    model, x, exact = linear_gaussian()
    objective = elbo(gradient=gradient, num_samples=num_samples)
    verdict = z_test(gradients_of(objective, model, x), exact, rounding=1e-5)
    assert verdict.passed, verdict


@cache
def linear_gaussian():
    """A model with a full covariance, an example, and the exact gradient of its ELBO."""
    model = oracles.linear_gaussian(0, full=True)
    x = oracles.draw_x(model, 0, 1)[0]
    return model, x, flat(model_gradient(model, x))


def model_gradient(model, x):
    """The exact gradient in the order of the model's leaves."""
    gradient = oracles.elbo_gradient(model, x)
    copy = oracles.linear_gaussian(0, full=True)
    for name, value in gradient._asdict().items():
        setattr(copy, name, nnx.Param(jnp.asarray(value, jnp.float32)))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_no_gradient_in_q_at_the_exact_posterior(gradient, num_samples):
    """To float32: 2e-5 of the size that the pathwise gradient has."""
    model = oracles.with_exact_posterior(oracles.linear_gaussian(0))
    x = jnp.asarray(oracles.draw_x(model, 0, 1)[0])

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def largest(seed, model):
        """Of the encoder's gradient, by this estimator and by the pathwise one."""

        def of(gradient):
            objective = partial(jv.iwae, num_samples=num_samples, gradient=gradient)
            tree = jax.grad(lambda m: objective(jax.random.key(seed), m, x).objective)(model)
            names = ("encoder", "offset", "log_diagonal", "lower")
            return jnp.max(jnp.stack([jnp.max(jnp.abs(getattr(tree, n)[...])) for n in names]))

        return of(gradient), of("pathwise")

    zero, size = largest(jnp.arange(5), model)
    assert np.all(np.asarray(zero) < 2e-5 * np.asarray(size))


EVERY_BOUND = [
    partial(jv.elbo, kl="monte_carlo", num_samples=3),
    partial(jv.iwae, num_samples=3),
    partial(jv.multiply_iwae, num_outer=2, num_samples=3),
    partial(jv.partially_iwae, num_outer=2, num_samples=3),
    partial(jv.importance_weighted, bound=partial(bounds.renyi, alpha=0.3), num_samples=3),
    partial(jv.importance_weighted, bound=bounds.vr_max, num_samples=3),
    partial(
        jv.importance_weighted, bound=partial(bounds.combination_iwae, beta=0.2), num_samples=3
    ),
    partial(
        jv.importance_weighted,
        bound=partial(bounds.thermodynamic, betas=jnp.zeros(1)),
        num_samples=3,
    ),
    partial(jv.importance_weighted, bound=bounds.chi_upper, num_samples=3),
]


@pytest.mark.slow
def test_all_bounds_are_the_evidence_at_the_exact_posterior():
    model = oracles.with_exact_posterior(oracles.linear_gaussian(0))
    xs = oracles.draw_x(model, 0, 4)

    def all_of_them(seed, model, x):
        return [objective(jax.random.key(seed), model, x) for objective in EVERY_BOUND]

    found = jax.jit(jax.vmap(all_of_them, (0, None, 0)))(jnp.arange(4), model, jnp.asarray(xs))
    for i, terms in enumerate(found):
        for value in (terms.bound, terms.objective):
            np.testing.assert_allclose(
                value, oracles.log_evidence(model, xs), atol=3e-5, err_msg=str(EVERY_BOUND[i])
            )


# Chunks.


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg", "score", "vimco"])
def test_chunks_change_nothing(gradient):
    model = oracles.linear_gaussian(0)
    x = jnp.asarray(oracles.draw_x(model, 0, 1)[0])

    @partial(jax.jit, static_argnames="chunk_size")
    def both(key, chunk_size):
        def value(model):
            terms = jv.iwae(key, model, x, num_samples=7, gradient=gradient, chunk_size=chunk_size)
            return terms.objective

        return jax.value_and_grad(value)(model)

    whole = flat(both(jax.random.key(0), chunk_size=None))
    parts = flat(both(jax.random.key(0), chunk_size=3))  # the last chunk is not full
    np.testing.assert_allclose(parts, whole, rtol=2e-5, atol=2e-6)


# Weights of the penalty.


def test_free_bits_and_capacity():
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=3, hidden=(8,))
    key, x = jax.random.key(1), jnp.array([1.0, 0.0, 1.0, 1.0])
    plain = jv.elbo(key, model, x)
    kl = log_weights.kl_each(model.posterior(x), model.prior())
    floor = float(jnp.median(kl))
    free = jv.elbo(key, model, x, free_bits=floor)
    np.testing.assert_allclose(
        free.objective, -(plain.distortion + np.maximum(kl, floor).sum()), rtol=1e-6
    )
    held = jv.elbo(key, model, x, beta=7.0, capacity=2.5)
    np.testing.assert_allclose(
        held.objective, -(plain.distortion + 7 * abs(plain.rate - 2.5)), rtol=1e-6
    )
    for terms in (free, held):
        np.testing.assert_array_equal(terms[1:], plain[1:])


# Refusals.


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("stl", "monte_carlo"), {"gradient": "stl"}),
        (("dreg", "entropy"), {"gradient": "dreg", "kl": "entropy"}),
        (("vimco", "score"), {"gradient": "vimco"}),
        (("rws",), {"gradient": "rws"}),
        (("baseline", "no effect"), {"baseline": 1.0}),
        (("temperature", "no effect"), {"temperature": 1.0}),
        (("temperature", "above 0"), {"gradient": "gumbel_softmax", "temperature": 0.0}),
        (("bits",), {"gradient": "disarm"}),
        (("bits",), {"gradient": "enumerate"}),
        (("relax",), {"gradient": "straight_through", "kl": "monte_carlo"}),
        (("free_bits", "analytic"), {"free_bits": 0.1, "kl": "monte_carlo"}),
        (("free_bits", "capacity"), {"free_bits": 0.1, "capacity": 1.0}),
        (("capacity",), {"capacity": -1.0}),
        (("leave_one_out", "at least 2"), {"gradient": "score", "baseline": "leave_one_out"}),
        (("baseline",), {"gradient": "score", "baseline": "other"}),
        (("chunk_size",), {"chunk_size": 0}),
        (("kl", "entropy"), {"kl": "exact"}),
    ],
)
def test_what_does_not_go_together_is_refused(words, options):
    model = oracles.linear_gaussian(0)
    with refused(*words):
        jv.elbo(jax.random.key(0), model, jnp.zeros(3), **options)


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg"])
def test_discrete_latents_are_refused_where_z_is_differentiated(gradient):
    with refused("FloatBernoulli", "score"):
        jv.iwae(jax.random.key(0), Bits(), jnp.asarray(X), num_samples=2, gradient=gradient)


@pytest.mark.parametrize("gradient", ["enumerate", "disarm", "gumbel_softmax"])
def test_estimators_of_the_elbo_are_refused_for_iwae(gradient):
    with refused(gradient, "does not apply"):
        jv.iwae(jax.random.key(0), Bits(), jnp.asarray(X), num_samples=2, gradient=gradient)


def test_a_users_own_estimator():
    def my_stl(problem):
        s = problem.draw(scorer=jax.lax.stop_gradient(problem.model))
        return s, problem.value(s)

    model = oracles.linear_gaussian(0)
    x = jnp.asarray(oracles.draw_x(model, 0, 1)[0])
    mine, ours = (
        jax.grad(
            lambda m, g=g: jv.iwae(jax.random.key(0), m, x, num_samples=3, gradient=g).objective
        )(model)
        for g in (my_stl, gradients.stl)
    )
    np.testing.assert_array_equal(flat(mine), flat(ours))
