from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae.distributions import analytic_kl, can_score, log_prob, sample, sample_with_log_prob
from jaxvae.models.posteriors import make_posterior
from tests.support.refusals import refused
from tests.support.slow import slow_but

D, C = 3, 4
OUTPUTS = {
    "diagonal": 6,
    "full_covariance": 9,
    "laplace": 6,
    "bernoulli": 3,
    "categorical": 12,
    "planar": 14,
    "iaf": 22,
    "spline": 22,
}
DISCRETE = ("bernoulli", "categorical")
FLOWS = ("planar", "iaf", "spline")
NAMES = pytest.mark.parametrize("name", OUTPUTS)


def options(name):
    return {"num_categories": C} if name == "categorical" else {}


def family(name):
    return make_posterior(name, D, **options(name), rngs=nnx.Rngs(jax.random.key(0)))


def vae(name, **more):
    more = {"latent_dim": D, "hidden": (8,), "posterior": name} | options(name) | more
    return jv.models.vae(jax.random.key(0), (2, 2), **more)


X = jnp.array([[1.0, 0.0], [0.0, 1.0]])


@NAMES
def test_sizes_follow_the_declaration(name):
    posterior, model = family(name), vae(name)
    assert posterior.num_outputs == OUTPUTS[name] == model.encoder(X).size
    assert posterior.size == (D * C if name == "categorical" else D)
    q, p = model.posterior(X), model.prior()
    for distribution in (q, p):
        assert distribution.batch_shape == ()
        assert distribution.event_shape == (posterior.size,)
        z = jax.eval_shape(partial(sample, distribution), jax.random.key(1))
        assert (z.shape, z.dtype) == ((posterior.size,), jnp.float32)
    assert q.has_rsample == (name not in DISCRETE)
    assert can_score(q) == (name != "planar")
    assert model.likelihood(jnp.zeros(posterior.size)).event_shape == (2, 2)


@NAMES
def test_posterior_is_what_it_declares(name):
    output = jnp.linspace(-1, 1, OUTPUTS[name])
    q, head = family(name)(output), np.float64(output)
    if name in DISCRETE:
        logits = head.reshape(-1, C) if name == "categorical" else np.stack([0 * head, head], -1)
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = probs if name == "categorical" else probs[:, 1]
        np.testing.assert_allclose(q.mean, expected.reshape(-1), rtol=1e-5)
        return
    q = q.base_dist if name in FLOWS else q
    mean, scale = head[:D], np.sqrt(np.logaddexp(0, head[D : 2 * D]) + 1e-8)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-6)
    if name == "full_covariance":
        tril = np.array([[scale[0], 0, 0], [head[6], scale[1], 0], [head[7], head[8], scale[2]]])
        np.testing.assert_allclose(q.covariance_matrix, tril @ tril.T, rtol=1e-5, atol=1e-7)
    else:
        variance = 2 * scale**2 if name == "laplace" else scale**2
        np.testing.assert_allclose(q.variance, variance, rtol=1e-5)


def test_priors_belong_to_their_posteriors():
    z = jnp.array([0.3, -1.0, 2.0])
    normal, laplace = dist.Normal(0.0, 1.0), dist.Laplace(0.0, 1.0)
    for name in ("diagonal", "full_covariance", *FLOWS):
        np.testing.assert_allclose(
            log_prob(family(name).prior(), z), normal.log_prob(z).sum(), rtol=1e-6
        )
    np.testing.assert_allclose(
        log_prob(family("laplace").prior(), z), laplace.log_prob(z).sum(), rtol=1e-6
    )
    for name, classes in (("bernoulli", 2), ("categorical", C)):
        prior = family(name).prior()
        log_p = log_prob(prior, sample(prior, jax.random.key(0)))
        np.testing.assert_allclose(log_p, -D * np.log(classes), rtol=1e-6)


@NAMES
def test_analytic_kl_is_known_but_for_flows(name):
    model = vae(name)
    q, p = model.posterior(X), model.prior()
    if name in FLOWS:
        with refused("kl", "TransformedDistribution", "monte_carlo"):
            analytic_kl(q, p)
    else:
        assert analytic_kl(q, p) > 0
        np.testing.assert_allclose(analytic_kl(p, p), 0, atol=1e-6)


@pytest.mark.slow
@NAMES
def test_works_under_vmap_jit_grad_and_stop_gradient(name):
    model, xs = vae(name), jnp.stack([X, 1 - X])

    def log_q(model, x, seed):
        return sample_with_log_prob(model.posterior(x), jax.random.key(seed))[1]

    seeds = jnp.arange(2)
    one = jax.jit(log_q)
    each = jnp.stack([one(model, x, seed) for x, seed in zip(xs, seeds, strict=True)])
    mapped = jax.jit(jax.vmap(log_q, in_axes=(None, 0, 0)))(model, xs, seeds)
    np.testing.assert_allclose(mapped, each, rtol=1e-5, atol=1e-5)
    # A vmapped distribution as a function's result.
    qs = jax.jit(jax.vmap(lambda model, x: model.posterior(x), in_axes=(None, 0)))(model, xs)
    draw = jax.vmap(lambda q, seed: sample_with_log_prob(q, jax.random.key(seed))[1])
    again = jax.jit(draw)(qs, seeds)
    np.testing.assert_allclose(again, each, rtol=1e-5, atol=1e-5)

    def stopped(model):
        return log_q(jax.lax.stop_gradient(model), X, 0)

    value, gradient = jax.jit(jax.value_and_grad(stopped))(model)
    np.testing.assert_allclose(value, each[0], rtol=1e-5)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_part_of_a_model_gets_a_gradient(name):
    def bound(model, key):
        z, log_q = sample_with_log_prob(model.posterior(X), key)
        return log_prob(model.likelihood(z), X) + log_prob(model.prior(), z) - log_q

    def mean(model):
        keys = jax.random.split(jax.random.key(0), 8)
        return jnp.mean(jax.vmap(bound, in_axes=(None, 0))(model, keys))

    gradient = jax.jit(jax.grad(mean))(vae(name))
    for path, leaf in jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)):
        where = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(leaf)), where
        assert np.any(leaf != 0), where


def test_the_default_has_the_weights_and_the_numbers_that_it_had():
    # Encoder before decoder from one stream of keys: the order that seeds have meant from the start.
    model, rngs = vae("diagonal"), nnx.Rngs(jax.random.key(0))
    plain = [jv.networks.MLP(*sizes, rngs=rngs) for sizes in ((4, (8,), 2 * D), (D, (8,), 4))]
    jax.tree.map(np.testing.assert_array_equal, [model.encoder, model.decoder], plain)
    mean, raw = jnp.split(plain[0](X), 2)
    q = model.posterior(X)
    np.testing.assert_array_equal(q.base_dist.loc, mean)
    np.testing.assert_array_equal(q.base_dist.scale, jnp.sqrt(jax.nn.softplus(raw) + 1e-8))


@pytest.mark.parametrize("name", slow_but(FLOWS, "iaf"))
def test_flows_work_with_one_latent(name):
    q = vae(name, latent_dim=1).posterior(X)
    z, log_q = sample_with_log_prob(q, jax.random.key(0))
    assert z.shape == (1,)
    assert np.isfinite(log_q)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"posterior": "gaussian"}, ("posterior", "diagonal", "'gaussian'")),
        ({"posterior": "categorical"}, ("num_categories", "at least 2", "None")),
        ({"posterior": "categorical", "num_categories": 1}, ("num_categories", "1")),
        ({"posterior": "categorical", "num_categories": 2.0}, ("num_categories", "2.0")),
        ({"num_categories": 3}, ("num_categories", "3", "'diagonal'", "leave it out")),
        ({"posterior": "bernoulli", "num_categories": 2}, ("num_categories", "'bernoulli'")),
    ],
)
def test_bad_options_are_refused_by_name(bad, words):
    with refused(*words):
        jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,), **bad)
