"""Objectives with a loss on the encoder, and what couples a batch, against closed forms and enumeration.

False-alarm rate of each z-test: 1e-6 over all entries.
"""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import jaxvae as jv
from jaxvae import coupled
from jaxvae.autonomous import autonomous_encoder, supervised_latents, with_encoder_loss
from tests.support import oracles
from tests.support.statistics import assert_mean
from tests.test_coupled import labels_swapped, permuted_together, unpermuted

WEIGHT, DRAWS = 0.7, 4096


# Losses on the encoder of a linear-Gaussian model, taught the latent TARGET.

TARGET = np.array([0.4, -1.1])
ENCODER = ("encoder", "offset", "log_diagonal")
DECODER = ("weight", "bias", "log_scale")


@cache
def example():
    model = oracles.linear_gaussian(0)
    return model, jnp.asarray(oracles.draw_x(model, 9, 1)[0])


def teacher(x):
    return jnp.float32(TARGET) + 0 * x[:2]


loss = partial(supervised_latents, target=teacher)


def exact_loss():
    """`-log N(TARGET; A x + c, diag scale^2)`, and its gradient in A, c and log scale."""
    model, x = example()
    p, x = oracles.parameters(model), np.float64(x)
    scale = np.exp(p.log_diagonal)
    residual = (TARGET - p.encoder @ x - p.offset) / scale
    value = -stats.norm.logpdf(residual).sum() + np.log(scale).sum()
    pull = -residual / scale
    return value, (np.outer(pull, x), pull, 1 - residual**2)


def check_supervised(function):
    """Value and gradient in the encoder; none in the decoder, nor through the teacher."""
    model, x = example()

    @jax.jit
    def both(model, shift):
        def value(model, shift):
            return function(jax.random.key(0), model, x, target=lambda x: teacher(x) + shift)

        return jax.value_and_grad(value, (0, 1))(model, shift)

    got, (gradient, through) = both(model, jnp.zeros(2))
    value, exact = exact_loss()
    np.testing.assert_allclose(got, value, rtol=1e-5)
    for name, expected in zip(ENCODER, exact, strict=True):
        np.testing.assert_allclose(getattr(gradient, name)[...], expected, rtol=1e-4, atol=1e-6)
    for name in DECODER:
        np.testing.assert_array_equal(getattr(gradient, name)[...], 0)
    np.testing.assert_array_equal(through, 0)


def squared_error(key, model, x, *, target):
    z = jax.lax.stop_gradient(target(x))
    return jnp.sum(jnp.square(z - model.posterior(x).mean)) / 2


def through_the_teacher(key, model, x, *, target):
    return -model.posterior(x).log_prob(target(x))


def averaged(key, model, x, *, target):
    return supervised_latents(key, model, x, target=target) / 2


def test_supervised_latents_is_minus_the_log_density():
    check_supervised(supervised_latents)
    for twin in (squared_error, through_the_teacher, averaged):
        with pytest.raises(AssertionError):
            check_supervised(twin)


WAYS = {
    "with": with_encoder_loss,
    "autonomous": autonomous_encoder,
    "added": lambda objective, loss, weight: with_encoder_loss(
        objective, lambda *args: -loss(*args), weight=weight
    ),
    "unweighted": lambda objective, loss, weight: with_encoder_loss(objective, loss),
}


@cache
def found():
    """Of every way to the loss: terms [draws], and gradients by parameter, [draws, size]."""
    model, x = example()

    def one(key, make):
        objective = make(partial(jv.elbo, kl="analytic"), loss, weight=WEIGHT)

        def value(model):
            terms = objective(key, model, x)
            return terms.objective, terms

        gradient, terms = jax.grad(value, has_aux=True)(model)
        return terms, {name: getattr(gradient, name)[...] for name in (*ENCODER, *DECODER)}

    call = jax.jit(jax.vmap(lambda key: {name: one(key, make) for name, make in WAYS.items()}))
    return call(jax.random.split(jax.random.key(1), DRAWS))


def check_value(terms):
    """The objective is the exact ELBO less the weighted loss; bound, distortion and rate have none of it."""
    model, x = example()
    elbo, value = oracles.elbo(oracles.parameters(model), np.float64(x)), exact_loss()[0]
    objective = elbo.objective - WEIGHT * value
    for name, expected in zip(terms._fields, (objective, *elbo[1:]), strict=True):
        assert_mean(getattr(terms, name), expected, rounding=1e-5, what=name)


def bound_too(terms):
    return terms._replace(bound=terms.objective)


def test_the_loss_enters_the_objective_alone():
    for name in ("with", "autonomous"):
        check_value(found()[name][0])
    for twin in (found()["added"][0], found()["unweighted"][0], bound_too(found()["with"][0])):
        with pytest.raises(AssertionError):
            check_value(twin)


def check_gradient(gradients, *, of_bound):
    """The decoder follows the exact ELBO; the encoder minus the weighted loss, and the ELBO if `of_bound`."""
    model, x = example()
    elbo = oracles.elbo_gradient(model, x)
    for name, pull in zip(ENCODER, exact_loss()[1], strict=True):
        expected = of_bound * getattr(elbo, name) - WEIGHT * pull
        assert_mean(gradients[name], expected, rounding=2e-5, what=name)
    for name in DECODER:
        assert_mean(gradients[name], getattr(elbo, name), rounding=2e-5, what=name)


def test_the_autonomous_encoder_follows_its_loss_and_the_decoder_the_bound():
    check_gradient(found()["autonomous"][1], of_bound=False)
    with pytest.raises(AssertionError):
        check_gradient(found()["with"][1], of_bound=False)


def test_an_added_loss_is_added_to_the_gradient_of_the_bound():
    check_gradient(found()["with"][1], of_bound=True)
    for name in ("autonomous", "added", "unweighted"):
        with pytest.raises(AssertionError):
            check_gradient(found()[name][1], of_bound=True)


# The rate in three parts, by enumeration: 4 examples, two latents of three states each.

TABLES = special.softmax(2 * np.random.default_rng(0).normal(size=(4, 2, 3)), axis=-1)  # q(z_d|x_n)
PRIOR = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
STATES = np.array(list(np.ndindex(3, 3)))


def exact_parts():
    """I(x; z), total correlation and the KL of each aggregate latent to its prior, nats."""
    joint = np.stack([table[0][STATES[:, 0]] * table[1][STATES[:, 1]] for table in TABLES])
    aggregate, each = joint.mean(axis=0), TABLES.mean(axis=0)
    product = each[0][STATES[:, 0]] * each[1][STATES[:, 1]]
    information = np.mean(np.sum(special.rel_entr(joint, aggregate[None]), axis=1))
    correlation = special.rel_entr(aggregate, product).sum()
    return information, correlation, special.rel_entr(each, PRIOR).sum()


def check_parts(function):
    """The mean over the data set and over all states, the batch being the data set."""
    log_q = np.log(TABLES[:, np.arange(2)[None], STATES].transpose(1, 0, 2))  # [9, 4, 2]
    weight = np.exp(log_q.sum(axis=2)) / 4  # of example and state
    log_p = np.log(PRIOR[np.arange(2)[None], STATES])

    @jax.jit
    @jax.vmap
    def parts(log_q, log_p):
        """Every example with the same z."""
        rows = jnp.broadcast_to(log_q, (4, 4, 2)), jnp.broadcast_to(log_p, (4, 2))
        return function(*rows, dataset_size=4, weights="stratified")

    got = [np.sum(weight * np.float64(part)) for part in parts(*map(jnp.float32, (log_q, log_p)))]
    np.testing.assert_allclose(got, exact_parts(), atol=2e-6)


def with_weights_of_a_minibatch(log_q, log_p, **options):
    return coupled.decompose(log_q, log_p, **options | {"weights": "minibatch"})


def parts_exchanged(log_q, log_p, **options):
    information, correlation, kl = coupled.decompose(log_q, log_p, **options)
    return coupled.Decomposition(correlation, information, kl)


def product_of_averaged_latents(log_q, log_p, **options):
    parts = coupled.decompose(log_q, log_p, **options)
    averaged = (jnp.mean(log_density, axis=-1, keepdims=True) for log_density in (log_q, log_p))
    mean = coupled.decompose(*averaged, **options)
    return parts._replace(total_correlation=mean.total_correlation)


def without_the_prior(log_q, log_p, **options):
    return coupled.decompose(log_q, 0 * log_p, **options)


def test_parts_of_the_rate_are_those_of_the_enumerated_aggregate():
    assert min(exact_parts()) > 0.01
    check_parts(coupled.decompose)
    for twin in (
        with_weights_of_a_minibatch,
        parts_exchanged,
        product_of_averaged_latents,
        without_the_prior,
    ):
        with pytest.raises(AssertionError):
            check_parts(twin)


# Covariances of latents, and a discriminator.


def check_covariance(function):
    """NumPy's covariance of the means; beside it, for the samples, the mean covariance of the posteriors."""
    rng = np.random.default_rng(1)
    means, trils = rng.normal(size=(5, 3)), np.tril(rng.normal(size=(5, 3, 3)))
    trils[:, np.arange(3), np.arange(3)] = rng.uniform(0.5, 2, (5, 3))
    full = jax.vmap(lambda m, t: dist.MultivariateNormal(m, scale_tril=t))
    diagonal = jax.vmap(lambda m, s: dist.Normal(m, s).to_event(1))
    scales = np.abs(trils[:, 2])
    each = {
        "full": (full, trils, np.einsum("nij,nkj->ik", trils, trils) / 5),
        "diagonal": (diagonal, scales, np.diag(np.mean(scales**2, axis=0))),
    }
    of_means = np.cov(means, rowvar=False)
    for make, spread, inner in each.values():
        q = make(jnp.float32(means), jnp.float32(spread))
        np.testing.assert_allclose(function(q, "i"), of_means, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(function(q, "ii"), of_means + inner, rtol=1e-5, atol=1e-6)


def test_the_aggregate_covariance_is_numpys():
    check_covariance(coupled.aggregate_covariance)
    for twin in (
        lambda q, form: 0.8 * coupled.aggregate_covariance(q, form),  # the divisor B
        lambda q, form: coupled.aggregate_covariance(q, "i"),
        lambda q, form: coupled.aggregate_covariance(q, {"i": "ii", "ii": "i"}[form]),
    ):
        with pytest.raises(AssertionError):
            check_covariance(twin)


POINTS = np.random.default_rng(2).normal(size=(6, 2))


def discriminator(z):
    """A logit in which the latents meet."""
    return 2 * z[0] * z[1] + z[0] - 0.5


def check_discriminator(function):
    """The mean over keys is that over all ways to permute each latent of the second half."""
    logits = np.apply_along_axis(discriminator, 1, POINTS)
    joint, other = -np.logaddexp(0, -logits[:3]).mean(), POINTS[3:]
    orders = list(itertools.permutations(range(3)))
    values = []
    for a, b in itertools.product(orders, orders):
        mixed = np.stack([other[list(a), 0], other[list(b), 1]], axis=1)
        false = -np.logaddexp(0, np.apply_along_axis(discriminator, 1, mixed)).mean()
        values.append((joint + false) / 2)
    z = jnp.float32(POINTS)
    call = jax.jit(jax.vmap(lambda key: function(key, discriminator, z)))
    samples = np.float64(call(jax.random.split(jax.random.key(4), 4000)))
    assert_mean(samples, np.mean(values), rounding=1e-6, what="log-likelihood")
    nearest = np.abs(samples[:, None] - np.array(values)).min(axis=1)
    assert nearest.max() < 1e-6, "log-likelihood of no permutation"


def test_the_discriminator_is_scored_on_permuted_latents():
    check_discriminator(coupled.discriminator_log_likelihood)
    for twin in (unpermuted, permuted_together, labels_swapped):
        with pytest.raises(AssertionError, match="log-likelihood"):
            check_discriminator(twin)
