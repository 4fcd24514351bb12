"""Learned priors: mixtures, mixtures of posteriors, flows, and any module that returns a distribution."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from scipy import special, stats

import jaxvae as jv
from jaxvae.distributions import (
    DiagonalNormalMixture,
    analytic_kl,
    log_prob,
    sample,
    sample_with_log_prob,
)
from jaxvae.models.vampprior import RANGES
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import assert_mean, assert_mean_exceeds

C, D = 5, 3
X = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


def arrays(components=C, size=D, spread=2.0, seed=0):
    rng = np.random.default_rng(seed)
    log_weights, loc = rng.normal(size=components), spread * rng.normal(size=(components, size))
    return tuple(map(np.float32, (log_weights, loc, np.exp(0.3 * rng.normal(size=loc.shape)))))


def mixture(*parameters):
    return DiagonalNormalMixture(*map(jnp.asarray, parameters))


def exact(z, log_weights, loc, scale):
    """log p(z) in float64 by scipy."""
    z, log_weights, loc, scale = map(np.float64, (z, log_weights, loc, scale))
    each = stats.norm.logpdf(z, loc, scale).sum(-1) + special.log_softmax(log_weights)
    return special.logsumexp(each)


def exact_gradient(z, log_weights, loc, scale):
    """In z, log_weights, loc and scale, by the responsibilities, float64."""
    z, log_weights, loc, scale = map(np.float64, (z, log_weights, loc, scale))
    each = stats.norm.logpdf(z, loc, scale).sum(-1) + special.log_softmax(log_weights)
    r, t = special.softmax(each), (z - loc) / scale
    pull = r[:, None] * t / scale
    return -pull.sum(0), r - special.softmax(log_weights), pull, r[:, None] * (t**2 - 1) / scale


def derivative_of(score):
    return jax.jit(jax.value_and_grad(score, argnums=(0, 1, 2, 3)))


# The density


def check_density(score):
    """float32 within 5e-6 of scipy in value and gradient; far out within 5e-5 in the gradient."""
    parameters = arrays()
    derivative = derivative_of(score)
    near = np.random.default_rng(1).normal(size=(4, D))
    for z, rtol in [*((z, 5e-6) for z in near), (np.full(D, 30.0), 5e-5), (np.full(D, -1e3), 5e-5)]:
        z = np.float32(z)
        value, gradient = derivative(jnp.asarray(z), *map(jnp.asarray, parameters))
        np.testing.assert_allclose(value, exact(z, *parameters), rtol=5e-6)
        for got, expected in zip(gradient, exact_gradient(z, *parameters), strict=True):
            assert np.all(np.isfinite(got))
            np.testing.assert_allclose(got, expected, atol=rtol * np.max(np.abs(expected)))


def score(z, *parameters):
    return log_prob(mixture(*parameters), z)


def test_density_is_that_of_scipy_in_value_and_gradient():
    check_density(score)


@pytest.mark.parametrize(
    "twin",
    [
        lambda z, w, m, s: jnp.log(jnp.sum(jnp.exp(mixture(w, m, s).log_joint(z)))),
        lambda z, w, m, s: jax.nn.logsumexp(mixture(w, m, s).log_joint(z) - jax.nn.log_softmax(w)),
        lambda z, w, m, s: score(z, w, m, jnp.square(s)),
        lambda z, w, m, s: score(z, w, jax.lax.stop_gradient(m), s),
        lambda z, w, m, s: jnp.max(mixture(w, m, s).log_joint(z)),
    ],
)
def test_check_of_density_rejects(twin):
    with pytest.raises(AssertionError):
        check_density(twin)


def test_density_is_that_of_numpyro():
    log_weights, loc, scale = map(jnp.asarray, arrays())
    components = dist.Normal(loc, scale).to_event(1)
    other = dist.MixtureSameFamily(dist.Categorical(logits=log_weights), components)
    ours, zs = mixture(log_weights, loc, scale), jnp.asarray(arrays(7, seed=1)[1])
    np.testing.assert_allclose(log_prob(ours, zs), log_prob(other, zs), rtol=1e-5)
    np.testing.assert_allclose(ours.mean, other.mean, rtol=1e-5)
    np.testing.assert_allclose(ours.variance, other.variance, rtol=1e-5)


@pytest.mark.parametrize(("spread", "rtol"), [(10.0, 1e-4), (100.0, 1e-2)])
def test_gradient_holds_where_components_are_narrow(spread, rtol):
    """Relative error of the gradient in scale: about 1e-7 (distance / scale)^2; of the value: 1e-6."""
    parameters = arrays(50, 10, spread)
    z = parameters[1][3] + parameters[2][3] * np.float32(np.random.default_rng(2).normal(size=10))
    value, gradient = derivative_of(score)(jnp.asarray(z), *map(jnp.asarray, parameters))
    np.testing.assert_allclose(value, exact(z, *parameters), rtol=1e-6)
    for got, expected in zip(gradient, exact_gradient(z, *parameters), strict=True):
        np.testing.assert_allclose(got, expected, atol=rtol * np.max(np.abs(expected)))


def test_second_derivatives_are_right():
    """Of two equal components at +-m in one dimension: d2/dz2 log p = m^2 / cosh(m z)^2 - 1."""
    m, z = 1.3, 0.4
    parameters = jnp.zeros(2), jnp.array([[-m], [m]]), jnp.ones((2, 1))
    second = jax.jit(jax.hessian(score))(jnp.array([z]), *parameters)[0, 0]
    np.testing.assert_allclose(second, m**2 / np.cosh(m * z) ** 2 - 1, rtol=1e-5)


def test_a_component_of_weight_zero_has_no_effect():
    log_weights, loc, scale = arrays()
    z = jnp.ones(D)
    left_out = log_weights.copy()
    left_out[2] = -1e9
    gradient = jax.grad(score)(z, *map(jnp.asarray, (left_out, loc, scale)))
    rest = [np.delete(a, 2, 0) for a in (log_weights, loc, scale)]
    np.testing.assert_allclose(score(z, left_out, loc, scale), exact(z, *rest), rtol=1e-6)
    np.testing.assert_allclose(gradient, exact_gradient(z, *rest)[0], rtol=1e-5)


def check_samples(draw):
    """First and second moments of 20,000 draws; false alarm 1e-6."""
    p = mixture(*arrays())
    z = np.float64(draw(p, jax.random.key(0), (20_000,)))
    assert z.shape == (20_000, D)
    mean, variance = np.float64(p.mean), np.float64(p.variance)
    expected = np.concatenate([mean, variance + mean**2])
    assert_mean(np.concatenate([z, z**2], -1), expected, rounding=1e-4)


def test_samples_follow_the_density():
    check_samples(lambda p, key, shape: p.sample(key, shape))
    p = mixture(*arrays())
    assert not p.has_rsample
    assert sample(p, jax.random.key(0)).shape == (D,)
    z, log_p = sample_with_log_prob(p, jax.random.key(1))
    np.testing.assert_allclose(log_p, exact(z, *arrays()), rtol=1e-5)
    gradient = jax.grad(lambda p: jnp.sum(sample(p, jax.random.key(0))))(p)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_check_of_samples_rejects_equal_weights():
    def twin(p, key, shape):
        return mixture(jnp.zeros(C), p.loc, p.scale).sample(key, shape)

    with pytest.raises(AssertionError):
        check_samples(twin)


def memory_of_gradient(score, batch, components, size):
    """Bytes that the compiled gradient of a batch needs beside its inputs and outputs."""

    def mean(z, *parameters):
        return jnp.mean(jax.vmap(lambda z: score(z, *parameters))(z))

    z, parameters = jnp.zeros((batch, size)), map(jnp.asarray, arrays(components, size))
    program = jax.jit(jax.grad(mean, argnums=(0, 1, 2, 3))).lower(z, *parameters).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_no_array_of_examples_by_components_by_latents_is_kept():
    def differences(z, log_weights, loc, scale):
        each = jnp.sum(dist.Normal(loc, scale).log_prob(z[None]), -1)
        return jax.nn.logsumexp(jax.nn.log_softmax(log_weights) + each)

    one_array = 4 * 64 * 100 * 16
    assert memory_of_gradient(score, 64, 100, 16) < one_array / 2
    assert memory_of_gradient(differences, 64, 100, 16) > one_array


def test_shapes_are_refused_in_words():
    with refused("mixture", "(2,)", "(3, 1)"):
        mixture(jnp.zeros(2), jnp.zeros((3, 1)), jnp.ones((3, 1)))
    with refused("mixture", "vmap"):
        mixture(jnp.zeros((2, 3)), jnp.zeros((2, 3, 1)), jnp.ones((2, 3, 1)))


# The models

FACTORIES = {
    "gmvae": partial(jv.models.gmvae, num_components=C),
    "gmvae weights": partial(jv.models.gmvae, num_components=C, learn_weights=True),
    "vampprior": partial(jv.models.vampprior, num_pseudo_inputs=C),
    "flow spline": partial(jv.models.flow_prior_vae, num_flows=2, flow_hidden=(8,)),
    "flow masked": partial(
        jv.models.flow_prior_vae, num_flows=2, flow="masked_autoregressive", flow_hidden=(8,)
    ),
}
ALL = pytest.mark.parametrize("name", FACTORIES)


def fresh(name, **options):
    options = {"latent_dim": D, "hidden": (6,)} | options
    return FACTORIES[name](jax.random.key(0), (2, 3), **options)


build = cache(fresh)
"""Models that no test changes."""


@ALL
def test_models_follow_the_protocol(name):
    model = build(name)
    assert isinstance(model, jv.Model)
    p = model.prior()
    assert p.batch_shape == ()
    assert p.event_shape == (D,)
    assert jax.eval_shape(sample, p, jax.random.key(0)).dtype == jnp.float32
    with refused("kl", "monte_carlo"):
        analytic_kl(model.posterior(X), p)
    params = jv.training.init(jax.random.key(0), model, optax.sgd(1e-3)).model
    assert jax.tree.structure(params) == jax.tree.structure(model)


OBJECTIVES = {
    "entropy": partial(jv.elbo, kl="entropy", num_samples=2),
    "stl": partial(jv.elbo, kl="monte_carlo", num_samples=2, gradient="stl"),
    "iwae": partial(jv.iwae, num_samples=2),
    "dreg": partial(jv.iwae, num_samples=2, gradient="dreg"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gmvae weights", "flow masked"]
)  # others are in the table of contracts
def test_every_objective_moves_every_parameter(name):
    model = build(name)

    def all_of_them(model):
        found = {k: f(jax.random.key(1), model, X) for k, f in OBJECTIVES.items()}
        return jnp.stack([terms.objective for terms in found.values()]), found

    # One program: the objectives, and the gradient of each.
    jacobian, found = jax.jit(jax.jacrev(all_of_them, has_aux=True))(model)
    np.testing.assert_allclose(found["dreg"].bound, found["iwae"].bound, rtol=1e-5)
    for path, leaf in jax.tree.leaves_with_path(nnx.state(jacobian, nnx.Param)):
        for index, kind in enumerate(OBJECTIVES):
            where = f"{kind} {jax.tree_util.keystr(path)}"
            assert np.all(np.isfinite(leaf[index])), where
            assert np.any(leaf[index] != 0), where


def rates(model, count=4000):
    """Draws of the rate of X in either form, by name, [n] each, of the same samples."""

    @jax.jit
    def draw(model):
        def one(key):
            return {kl: jv.elbo(key, model, X, kl=kl).rate for kl in ("entropy", "monte_carlo")}

        return jax.vmap(one)(jax.random.split(jax.random.key(2), count))

    return {kl: np.float64(rate) for kl, rate in draw(model).items()}


@pytest.mark.parametrize("name", ["vampprior", "flow masked"])
def test_both_forms_of_the_rate_have_one_mean(name):
    found = rates(build(name))
    assert_mean((found["entropy"] - found["monte_carlo"])[:, None], 0.0, rounding=1e-5)


@pytest.mark.parametrize(("raw", "better"), [(-5.0, "entropy"), (0.5, "monte_carlo")])
def test_the_closed_form_of_the_entropy_pays_where_q_is_narrow(raw, better):
    """Its rate has the smaller variance beside a wide prior; where q is like p, log q - log p has."""
    model = fresh("gmvae")
    bias = model.encoder.layers[-1].bias
    bias[...] = jnp.concatenate([bias[:D], jnp.full(D, raw)])
    found = rates(model)
    assert_mean((found["entropy"] - found["monte_carlo"])[:, None], 0.0, rounding=1e-5)
    square = {kl: (rate - rate.mean()) ** 2 for kl, rate in found.items()}
    other = square.pop(better), *square.values()
    assert_mean_exceeds(other[1] - other[0], 0.0)
    with pytest.raises(AssertionError):
        assert_mean_exceeds(other[0] - other[1], 0.0)


@ALL
def test_the_networks_are_those_of_the_plain_model(name):
    options = {"activation": "tanh", "initializer": "lecun_normal"}
    plain = jv.models.vae(jax.random.key(0), (2, 3), latent_dim=D, hidden=(6,), **options)
    model = build(name, **options)
    for ours, theirs in ((model.encoder, plain.encoder), (model.decoder, plain.decoder)):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), ours, theirs))


# Mixture


def test_mixture_prior_is_what_it_declares():
    model = build("gmvae weights", num_components=200)
    own, p = model.own_prior, model.prior()
    np.testing.assert_array_equal(jax.nn.softmax(p.log_weights), np.float32(1 / 200))
    np.testing.assert_array_equal(p.loc, own.loc[...])
    raw = np.float64(own.raw_variance[...])
    np.testing.assert_allclose(np.square(p.scale), np.logaddexp(0, raw) + 1e-8, rtol=1e-5)
    draws = np.stack([np.ravel(own.loc[...]), np.ravel(raw)], -1) * np.sqrt(200 * D)
    assert_mean(np.concatenate([draws, draws**2], -1), np.array([0.0, 0.0, 1.0, 1.0]))


def log_prior_of_products(model, z):
    """A mixture of normals by scipy, from the numbers of the model's parameters."""
    own = model.own_prior
    scale = np.sqrt(np.logaddexp(0, np.float64(own.raw_variance[...])) + 1e-8)
    return exact(z, np.zeros(C), own.loc[...], scale)


def test_mixture_prior_scores_as_scipy():
    model, z = build("gmvae"), jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(
        log_prob(model.prior(), z), log_prior_of_products(model, z), rtol=1e-6
    )


# VampPrior


def test_vampprior_is_the_mean_of_its_posteriors():
    model, z = build("vampprior"), jnp.array([0.3, -1.0, 2.0])
    us = model.pseudo_inputs()
    each = [float(log_prob(model.posterior(u), z)) for u in us]
    expected = special.logsumexp(each) - np.log(C)
    np.testing.assert_allclose(log_prob(model.prior(), z), expected, rtol=1e-6)
    assert abs(float(log_prob(model.posterior(jnp.mean(us, 0)), z)) - expected) > 1e-6
    assert model.own_prior is None
    # Its encoder moves the prior, too: there is one encoder.
    gradient = jax.grad(lambda model: log_prob(model.prior(), z))(model)
    for path, leaf in jax.tree.leaves_with_path(
        nnx.state((gradient.encoder, gradient.pseudo_inputs))
    ):
        assert np.any(leaf != 0), jax.tree_util.keystr(path)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient.decoder))


def flops(model, batch):
    def mean(model, xs):
        keys = jax.random.split(jax.random.key(0), batch)
        objective = OBJECTIVES["entropy"]
        return jnp.mean(jax.vmap(lambda key, x: objective(key, model, x).objective)(keys, xs))

    xs = jnp.broadcast_to(X, (batch, *X.shape))
    return jax.jit(mean).lower(model, xs).cost_analysis()["flops"]


def test_pseudo_inputs_are_encoded_once_a_step():
    """What a second example adds to the work does not contain the encoding of the pseudo-inputs."""
    wide = build("vampprior", hidden=(64,), num_pseudo_inputs=50)
    encoding = 50 * 2 * (6 * 64 + 64 * 2 * D)
    assert flops(wide, 2) > encoding
    assert flops(wide, 4) - flops(wide, 2) < encoding / 2

    def per_example(key, model, x):
        """The twin: its parameters depend on x, as far as `vmap` knows."""
        moved = jax.tree.map(lambda a: a + 0 * jnp.sum(x), model)
        return OBJECTIVES["entropy"](key, moved, x)

    def twin_flops(batch):
        def mean(model, xs):
            keys = jax.random.split(jax.random.key(0), batch)
            return jnp.mean(jax.vmap(lambda k, x: per_example(k, model, x).objective)(keys, xs))

        xs = jnp.broadcast_to(X, (batch, *X.shape))
        return jax.jit(mean).lower(wide, xs).cost_analysis()["flops"]

    assert twin_flops(4) - twin_flops(2) > encoding


@pytest.mark.parametrize(("support", "within"), RANGES)
def test_pseudo_inputs_stay_in_the_range_of_the_data(support, within):
    low, high = max(within.lowest, -9.0), min(within.highest, 9.0)
    values = jnp.linspace(low, high, 12).reshape(2, 6)
    inputs = jv.models.PseudoInputs(values, support)
    np.testing.assert_allclose(inputs(), values, atol=0.011)
    inputs.raw[...] = 50 * inputs.raw[...]
    assert bool(jnp.all((inputs() >= within.lowest) & (inputs() <= within.highest)))


def test_pseudo_inputs_begin_where_they_are_told():
    values = np.random.default_rng(0).integers(0, 2, (C, 2, 3))
    model = fresh("vampprior", pseudo_inputs=values)
    np.testing.assert_allclose(model.pseudo_inputs(), np.clip(values, 0.01, 0.99), rtol=1e-5)
    with refused("pseudo_inputs", "(5, 2, 3)", "(4, 2, 3)"):
        fresh("vampprior", pseudo_inputs=values[:4])
    with refused("pseudo_inputs", "[0, 1]", "to 255"):
        fresh("vampprior", pseudo_inputs=255 * values)


def test_pseudo_inputs_between_classes_are_refused():
    class Classes(jv.models.likelihoods.Gaussian):
        support = dist.constraints.integer_interval(0, 4)

    with refused("likelihood", "pseudo-inputs", "gmvae"):
        fresh("vampprior", likelihood=Classes())


# Flows


def mass_of_square(p, log_density, count=221, half=7.0):
    axis = np.linspace(-half, half, count)
    zs = np.float32(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))
    log_p = jax.jit(jax.vmap(partial(log_density, p)))(jnp.asarray(zs))
    return float(np.exp(np.float64(log_p)).sum() * (axis[1] - axis[0]) ** 2)


def bent(name):
    """A flow prior in two dimensions that is far from a normal."""
    model = fresh(name, latent_dim=2)
    draws = nnx.Rngs(jax.random.key(3))
    for leaf in jax.tree.leaves(model.own_prior, is_leaf=lambda a: isinstance(a, nnx.Param)):
        leaf[...] = leaf[...] + 0.2 * jax.random.normal(draws.params(), leaf.shape)
    return model


@pytest.mark.parametrize("name", slow_but(["flow spline", "flow masked"], "flow masked"))
def test_flow_prior_has_mass_one_and_scores_its_samples(name):
    p = bent(name).prior()
    np.testing.assert_allclose(mass_of_square(p, log_prob), 1, atol=2e-3)

    def without_determinant(p, z):
        for flow in reversed(p.transforms):
            z = flow.inv(z)
        return log_prob(p.base_dist, z)

    assert abs(mass_of_square(p, without_determinant) - 1) > 0.02
    # The way there and back: noise to z, whose density is that of the noise over the stretch.
    z, log_p = jax.jit(jax.vmap(lambda key: sample_with_log_prob(p, key)))(
        jax.random.split(jax.random.key(0), 20)
    )
    np.testing.assert_allclose(log_p, jax.vmap(partial(log_prob, p))(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["flow spline", "flow masked"])
def test_samples_of_a_flow_prior_follow_its_density(name):
    """Moments of draws against the trapezoid rule; false alarm 1e-6."""
    p = bent(name).prior()
    axis = np.linspace(-8, 8, 241)
    zs = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(np.float64(jax.jit(jax.vmap(partial(log_prob, p)))(jnp.float32(zs))))
    expected = (mass / mass.sum()) @ np.concatenate([zs, zs**2], -1)
    z = np.float64(jax.jit(jax.vmap(partial(sample, p)))(jax.random.split(jax.random.key(1), 5000)))
    draws = np.concatenate([z, z**2], -1)
    assert_mean(draws, expected, rounding=5e-3)
    with pytest.raises(AssertionError):
        assert_mean(np.concatenate([z[:, ::-1], z[:, ::-1] ** 2], -1), expected, rounding=5e-3)


def test_density_of_a_flow_prior_is_one_pass():
    """The compiler merges the pass that finds the noise with the one that finds the determinant."""
    model, z = build("flow masked", latent_dim=8, flow_hidden=(64,)), jnp.ones(8)
    work = jax.jit(lambda m, z: log_prob(m.prior(), z)).lower(model, z).compile()
    networks = 2 * 2 * (8 * 64 + 64 * 16)
    assert work.cost_analysis()["flops"] < 1.5 * networks + 8 * 64 * 4


# Any module


class LearnedNormal(nnx.Module):
    def __init__(self):
        self.loc, self.scale = nnx.Param(jnp.full(D, 0.5)), nnx.Param(jnp.full(D, 2.0))

    def __call__(self):
        return dist.Normal(self.loc[...], self.scale[...]).to_event(1)


class NumpyroMixture(nnx.Module):
    def __init__(self):
        self.loc = nnx.Param(jnp.asarray(arrays()[1]))

    def __call__(self):
        components = dist.Normal(self.loc[...], jnp.ones((C, D))).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(C)), components)


def with_prior(prior):
    plain = jv.models.vae(jax.random.key(0), (2, 3), latent_dim=D, hidden=(6,))
    return jv.models.VAE(
        plain.encoder, plain.decoder, plain.output, latent_dim=D, event_shape=(2, 3), prior=prior
    )


def test_a_learned_normal_keeps_the_analytic_kl():
    model = with_prior(LearnedNormal())
    q = model.posterior(X)
    expected = dist.kl_divergence(q.base_dist, dist.Normal(0.5, 2.0)).sum()
    np.testing.assert_allclose(jv.elbo(jax.random.key(0), model, X).rate, expected, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda m: jv.elbo(jax.random.key(0), m, X).objective))(model)
    assert np.all(gradient.own_prior.loc[...] != 0)
    assert np.all(gradient.own_prior.scale[...] != 0)


def test_a_mixture_of_numpyro_has_no_analytic_kl_but_samples():
    model = with_prior(NumpyroMixture())
    with refused("kl", "MixtureSameFamily", "monte_carlo"):
        analytic_kl(model.posterior(X), model.prior())
    for kl in ("monte_carlo", "entropy"):
        objective = partial(jv.elbo, kl=kl)
        derive = jax.jit(jax.grad(lambda m, f=objective: f(jax.random.key(0), m, X).objective))
        gradient = derive(model)
        assert np.all(np.isfinite(gradient.own_prior.loc[...]))
        assert np.any(gradient.own_prior.loc[...] != 0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gmvae", {"num_components": 0}, ("num_components", "0")),
        ("gmvae", {"latent_dim": 0}, ("latent_dim", "0")),
        ("gmvae", {"learn_weights": 1}, ("learn_weights", "1")),
        ("gmvae", {"posterior": "bernoulli"}, ("posterior", "bernoulli", "discrete")),
        ("vampprior", {"num_pseudo_inputs": 0}, ("num_pseudo_inputs", "0")),
        ("vampprior", {"likelihood": "unknown"}, ("likelihood", "'unknown'")),
        ("flow spline", {"num_flows": 0}, ("num_flows", "0")),
        ("flow spline", {"num_flows": 1}, ("num_flows", "1", "masked_autoregressive")),
        ("flow spline", {"latent_dim": 1}, ("latent_dim", "1", "masked_autoregressive")),
        ("flow spline", {"flow": "planar"}, ("flow", "'planar'", "spline")),
        ("flow spline", {"posterior": "categorical"}, ("posterior", "categorical")),
    ],
)
def test_bad_arguments_are_refused_by_name(name, options, words):
    with refused(*words):
        fresh(name, **options)
