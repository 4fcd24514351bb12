"""An encoder with a loss of its own, and why the bound does not need the encoder."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from scipy import special
from sklearn.datasets import load_digits

import jaxvae as jv
from jaxvae.autonomous import (
    autonomous_encoder,
    noise_consistency,
    supervised_latents,
    with_encoder_loss,
)
from jaxvae.types import Terms
from tests.support import oracles
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

# The identity, by enumeration in float64: y in 0..Y-1, latent x in 0..X-1.


class Finite(NamedTuple):
    population: np.ndarray  # pop(y) [Y]
    encoder: np.ndarray  # q(x|y) [Y, X]
    prior: np.ndarray  # p(x) [X]
    decoder: np.ndarray  # p(y|x) [X, Y]


def rows(rng, sharpness, *shape):
    """Random distributions over the last axis; a large sharpness makes them nearly deterministic."""
    return special.softmax(sharpness * rng.normal(size=shape), axis=-1)


def finite(seed, sharpness):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(2, 7, size=2)
    return Finite(rows(rng, 1, y), rows(rng, sharpness, y, x), rows(rng, 1, x), rows(rng, 1, x, y))


def mean_bound(f):
    """E_pop E_q [log p(x) + log p(y|x) - log q(x|y)], with 0 log 0 = 0."""
    joint = f.population[:, None] * f.encoder
    log_p = np.log(f.prior)[None] + np.log(f.decoder).T
    return np.sum(joint * log_p) - np.sum(
        f.population[:, None] * special.xlogy(f.encoder, f.encoder)
    )


def best(f):
    """The best response: the aggregate of the encoder, and its inverse by Bayes."""
    aggregate = f.population @ f.encoder
    inverse = (f.population[:, None] * f.encoder).T / aggregate[:, None]
    return f._replace(prior=aggregate, decoder=inverse)


def entropy(f):
    return special.entr(f.population).sum()


def gaps(f):
    """KL(q(x) || p(x)) and E KL(q(y|x) || p(y|x))."""
    b = best(f)
    kl = special.rel_entr(b.decoder, f.decoder).sum(axis=1)
    return special.rel_entr(b.prior, f.prior).sum(), b.prior @ kl


EVERYWHERE = [finite(seed, sharpness) for seed in range(25) for sharpness in (0.0, 1.0, 5.0, 60.0)]


def check_optimum(f, response):
    np.testing.assert_allclose(mean_bound(response(f)), -entropy(f), rtol=0, atol=1e-11)


def with_uniform_prior(f):
    return best(f)._replace(prior=np.full(f.prior.size, 1 / f.prior.size))


def with_unweighted_prior(f):
    return best(f)._replace(prior=f.encoder.mean(axis=0))


def with_inverse_by_encoder_alone(f):
    return best(f)._replace(decoder=(f.encoder / f.encoder.sum(axis=0, keepdims=True)).T)


def test_best_prior_and_decoder_reach_the_entropy_for_any_encoder():
    for f in EVERYWHERE:
        check_optimum(f, best)


def test_any_other_falls_short_by_two_divergences():
    shortfall = np.array([-entropy(f) - mean_bound(f) for f in EVERYWHERE])
    prior, decoder = np.transpose([gaps(f) for f in EVERYWHERE])
    assert np.all(shortfall > 0)
    np.testing.assert_allclose(shortfall, prior + decoder, rtol=1e-11, atol=1e-11)
    assert not np.any(np.isclose(shortfall, decoder - prior, rtol=1e-11, atol=1e-11))  # the twin


@pytest.mark.parametrize(
    "response",
    [
        with_uniform_prior,
        with_unweighted_prior,
        with_inverse_by_encoder_alone,
        lambda f: f._replace(prior=best(f).prior),
        lambda f: f._replace(decoder=best(f).decoder),
    ],
    ids=["uniform", "unweighted", "inverse", "prior alone", "decoder alone"],
)
def test_check_of_the_optimum_rejects(response):
    for seed in range(5):
        with pytest.raises(AssertionError):
            check_optimum(finite(seed, 1.0), response)


# The same through the library.


class Tables(nnx.Module):
    """y as one-hot [Y]; encoder, prior and decoder are tables of logits."""

    def __init__(self, f):
        self.encoder = nnx.Param(jnp.asarray(np.log(f.encoder), jnp.float32))
        self.prior_logits = nnx.Param(jnp.zeros(f.prior.size))
        self.decoder = nnx.Param(jnp.zeros(f.decoder.shape))

    def prior(self):
        return dist.CategoricalLogits(self.prior_logits[...])

    def posterior(self, y):
        return dist.CategoricalLogits(y @ self.encoder[...])

    def likelihood(self, x):
        return dist.MultinomialLogits(self.decoder[...][x], total_count=1)


def enumerated_elbo(key, model, y):
    """The ELBO of one example, its expectation by enumeration."""
    q = model.posterior(y).probs
    xs = jnp.arange(q.size)
    log_p_y_x = jax.vmap(lambda x: jnp.sum(y * jax.nn.log_softmax(model.likelihood(x).logits)))(xs)
    log_p_x = jax.nn.log_softmax(model.prior().logits)
    distortion, rate = -q @ log_p_y_x, q @ (jnp.log(q) - log_p_x)
    return Terms(-(distortion + rate), -(distortion + rate), distortion, rate)


def no_loss(key, model, x):
    return jnp.zeros(())


@pytest.mark.parametrize(("seed", "sharpness"), [(0, 0.5), (1, 1.5), (2, 4.0)])
def test_training_decoder_and_prior_reaches_the_entropy(seed, sharpness):
    """Within 1e-3 nats of -H after 400 steps, the encoder held to the bit."""
    f = finite(seed, sharpness)
    model, optimizer = Tables(f), optax.adam(0.1)
    objective = autonomous_encoder(enumerated_elbo, no_loss)
    step = jax.jit(jv.training.make_step(objective, optimizer))
    ys = {"x": jnp.eye(f.population.size), "mask": jnp.asarray(f.population, jnp.float32)}
    state = jv.training.init(jax.random.key(0), model, optimizer)
    state, first = step(state, ys)
    for _ in range(400):
        state, metrics = step(state, ys)
    assert first["bound"] < -entropy(f) - 0.02
    np.testing.assert_allclose(metrics["bound"], -entropy(f), rtol=0, atol=1e-3)
    assert metrics["bound"] <= -entropy(f) + 1e-5
    np.testing.assert_array_equal(state.model.encoder[...], model.encoder[...])
    np.testing.assert_allclose(
        jax.nn.softmax(state.model.prior_logits[...]), best(f).prior, atol=0.02
    )


# Losses added to objectives.


def gaussian(seed=0):
    model = oracles.linear_gaussian(seed)
    return model, jnp.asarray(oracles.draw_x(model, 9, 1)[0])


def scalar_elbo(key, model, x):
    return jv.elbo(key, model, x).bound


def noise_loss(key, model, x):
    """Shows its key."""
    return jax.random.normal(key, ())


OBJECTIVES = {
    "elbo": jv.elbo,
    "elbo 5": partial(jv.elbo, num_samples=5, beta=2.0),
    "iwae": partial(jv.iwae, num_samples=4),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_loss_is_added_to_the_objective_alone(objective):
    model, x = gaussian()
    loss = partial(supervised_latents, target=lambda x: x[:2])

    @jax.jit
    def both(model, x):
        with_loss = with_encoder_loss(objective, loss, weight=0.3)
        plain = objective(jax.random.key(1), model, x)
        expected = plain.objective - 0.3 * loss(jax.random.key(2), model, x)
        return with_loss(jax.random.key(1), model, x), plain, expected

    terms, plain, expected = both(model, x)
    np.testing.assert_allclose(terms.objective, expected, rtol=1e-6)
    for name in ("bound", "distortion", "rate"):
        np.testing.assert_array_equal(getattr(terms, name), getattr(plain, name))


def test_scalar_objectives_and_options_pass_through():
    model, x = gaussian()
    key = jax.random.key(1)
    one = lambda key, model, x: jnp.ones(())  # noqa: E731
    value = with_encoder_loss(scalar_elbo, one, weight=2.0)(key, model, x)
    np.testing.assert_allclose(value, scalar_elbo(key, model, x) - 2.0, rtol=1e-6)
    terms = with_encoder_loss(jv.elbo, one)(key, model, x, beta=3.0)
    expected = jv.elbo(key, model, x, beta=3.0).objective - 1
    np.testing.assert_allclose(terms.objective, expected, rtol=1e-6)


def test_keys_of_losses_are_apart():
    model, x = gaussian()
    once = with_encoder_loss(jv.elbo, noise_loss)
    twice = with_encoder_loss(partial(once, beta=1.0), noise_loss)
    call = [f(jax.random.key(1), model, x).objective for f in (jv.elbo, once, twice)]
    first, second = np.diff(call)
    assert abs(first - second) > 1e-3
    draws = jax.vmap(lambda key: jax.random.fold_in(key, 0))(jax.random.split(jax.random.key(1), 4))
    assert not np.any(np.isclose(-first, jax.vmap(lambda k: jax.random.normal(k, ()))(draws)))


def encoder_and_decoder(gradient):
    g = oracles.parameters(gradient)
    return (g.encoder, g.offset, g.log_diagonal), (g.weight, g.bias, g.log_scale)


def gradients(inner):
    """Of the autonomous encoder, of a loss merely added, of the bound alone and of the loss alone."""
    model, x = gaussian()
    loss = partial(supervised_latents, target=lambda x: x[:2])
    values = (
        lambda key, m: autonomous_encoder(inner, loss, weight=0.7)(key, m, x).objective,
        lambda key, m: with_encoder_loss(inner, loss, weight=0.7)(key, m, x).objective,
        lambda key, m: inner(key, m, x).objective,
        lambda key, m: -0.7 * loss(key, m, x),
    )
    each = jax.jit(lambda m: [jax.grad(f, argnums=1)(jax.random.key(1), m) for f in values])
    return [encoder_and_decoder(gradient) for gradient in each(model)]


def check_autonomous(found, of_bound, of_loss):
    """The decoder feels the bound alone, the encoder the loss alone."""
    for mine, theirs in ((found[0], of_loss[0]), (found[1], of_bound[1])):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_autonomous_encoder_feels_its_own_loss_alone(objective):
    autonomous, added, *alone = gradients(objective)
    check_autonomous(autonomous, *alone)
    with pytest.raises(AssertionError):
        check_autonomous(added, *alone)


def test_autonomous_value_is_that_of_the_objective():
    model, x = gaussian()
    plain = jv.elbo(jax.random.key(1), model, x)
    terms = autonomous_encoder(jv.elbo, no_loss)(jax.random.key(1), model, x)
    for mine, theirs in zip(terms, plain, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_loss_can_follow_an_autonomous_encoder_but_not_precede_it():
    model, x = gaussian()
    teach = partial(supervised_latents, target=lambda x: x[:2])
    both = with_encoder_loss(autonomous_encoder(jv.elbo, no_loss), teach)
    gradient = jax.grad(lambda m: both(jax.random.key(1), m, x).objective)(model)
    assert np.abs(oracles.parameters(gradient).offset).max() > 1e-3
    with refused("objective", "with_encoder_loss(autonomous_encoder"):
        autonomous_encoder(partial(with_encoder_loss(jv.elbo, teach), beta=2.0), no_loss)


def test_wrong_input_is_refused():
    model, x = gaussian()
    with refused("weight", "-1"):
        with_encoder_loss(jv.elbo, no_loss, weight=-1)
    with refused("encoder_loss", "(2,)"):
        with_encoder_loss(jv.elbo, lambda key, model, x: jnp.ones(2))(jax.random.key(0), model, x)
    with refused("key", "array of keys"):
        with_encoder_loss(jv.elbo, no_loss)(jax.random.split(jax.random.key(0), 3), model, x)
    with refused("dropped", "(0, 1)"):
        noise_consistency(jax.random.key(0), model, x, dropped=1.0)
    with refused("target(x)", "(3,)"):
        supervised_latents(jax.random.key(0), model, x, target=lambda x: x)


# The two losses, exactly.


def check_consistency(loss):
    """The mean over masks is the sum over all 8 of them, and the KL that of Gaussians of one scale."""
    model, x = gaussian()
    p = oracles.parameters(model)
    exact = 0.0
    for mask in np.ndindex(2, 2, 2):
        chance = np.prod(np.where(mask, 0.7, 0.3))
        shift = p.encoder @ (np.float64(x) * (np.array(mask) - 1)) / np.exp(p.log_diagonal)
        exact += chance * shift @ shift / 2
    call = jax.jit(jax.vmap(loss, (0, None, None)))
    samples = call(jax.random.split(jax.random.key(3), 20_000), model, x)
    assert_mean(samples, exact, rounding=1e-6, what="consistency")


def test_noise_consistency_has_the_enumerated_mean():
    check_consistency(partial(noise_consistency, dropped=0.3))


@pytest.mark.parametrize(
    "twin",
    [
        partial(noise_consistency, dropped=0.7),
        lambda key, model, x: noise_consistency(key, model, x, dropped=0.3) / 2,
        lambda key, model, x: noise_consistency(key, model, jnp.ones_like(x), dropped=0.3),
    ],
    ids=["kept for dropped", "mean over latents", "another x"],
)
def test_check_of_consistency_rejects(twin):
    with pytest.raises(AssertionError, match="consistency"):
        check_consistency(twin)


def test_noise_consistency_measures_under_the_noisy_posterior():
    """The direction of the KL, with posteriors of two scales."""

    class Scaled(NamedTuple):
        def posterior(self, x):
            return dist.Normal(jnp.zeros(1), jnp.exp(x)).to_event(1)

        def prior(self):
            raise NotImplementedError  # this loss does not ask for it

        likelihood = prior

    losses = {
        float(noise_consistency(k, Scaled(), jnp.ones(1), dropped=0.5))
        for k in jax.random.split(jax.random.key(0), 32)
    }
    kept, lost = sorted(losses)
    assert kept == 0
    np.testing.assert_allclose(
        lost, 1 + np.exp(-2) / 2 - 0.5, rtol=1e-5
    )  # KL(N(0, 1) || N(0, e^2))


def test_supervised_latents_is_the_cross_entropy_and_stops_at_the_target():
    model, x = gaussian()
    p, z = oracles.parameters(model), np.float64(x[:2])
    mean, scale = p.encoder @ np.float64(x) + p.offset, np.exp(p.log_diagonal)
    exact = np.sum(((z - mean) / scale) ** 2) / 2 + np.sum(np.log(scale)) + np.log(2 * np.pi)
    loss = partial(supervised_latents, target=lambda x: x[:2])
    np.testing.assert_allclose(loss(jax.random.key(0), model, x), exact, rtol=1e-5)
    through = jax.grad(
        lambda s: supervised_latents(jax.random.key(0), model, x, target=lambda x: s * x[:2])
    )(1.0)
    assert through == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        with_encoder_loss(jv.elbo, noise_consistency, weight=0.5),
        with_encoder_loss(partial(jv.iwae, num_samples=3), noise_consistency),
        autonomous_encoder(
            jv.elbo, partial(supervised_latents, target=lambda x: x[::4, ::4].reshape(-1))
        ),
    ],
    ids=["elbo + consistency", "iwae + consistency", "autonomous"],
)
def test_trains_on_digits(objective):
    xs = jnp.asarray(load_digits().images[:512] > 8, jnp.float32)
    model = jv.models.vae(jax.random.key(0), (8, 8), latent_dim=4, hidden=(32,))
    optimizer = optax.adam(5e-3)
    step = jax.jit(jv.training.make_step(objective, optimizer))
    state, losses = jv.training.init(jax.random.key(1), model, optimizer), []
    for i in range(50):
        state, metrics = step(state, xs[64 * (i % 8) :][:64])
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 3
    assert step._cache_size() <= 1  # 0 where a long session has evicted it
