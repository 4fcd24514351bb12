import importlib
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from scipy import stats

import jaxvae as jv
from jaxvae.distributions import (
    Chain,
    FloatBernoulli,
    can_score,
    log_prob,
    sample,
    sample_with_log_prob,
)
from jaxvae.models.hierarchical import GaussianLayer
from jaxvae.networks import MLP
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import FALSE_ALARM, assert_mean

ladder_module = importlib.import_module(
    "jaxvae.models.ladder"
)  # the name is that of the factory too
NAMES = ("hierarchical", "ladder")
EACH = pytest.mark.parametrize("name", NAMES)
DIMS = (3, 2)
X = jnp.array([[1.0, 0.0], [0.0, 1.0]])


def make(name, layer_dims=DIMS, event_shape=(2, 2), **options):
    options = {"hidden": (5,), "upper_hidden": (4,)} | options
    factory = getattr(jv.models, name)
    return factory(jax.random.key(0), event_shape, layer_dims=layer_dims, **options)


# Linear-Gaussian hierarchies, whose joint densities and evidence are Gaussian, in NumPy.


def affine(name, layer_dims=DIMS, event_size=4):
    """Without hidden layers, and with variances that do not depend on the input."""
    model = make(name, layer_dims, (event_size,), hidden=(), upper_hidden=(), likelihood="gaussian")
    rng = np.random.default_rng(0)
    layers = list(model.generators)
    layers += [s.head for s in model.stages] if name == "ladder" else list(model.encoders)
    for layer in layers:
        linear = last(layer)
        size = linear.bias.shape[0] // 2
        linear.kernel[...] = linear.kernel[...].at[:, size:].set(0)
        bias = np.concatenate([0.5 * rng.normal(size=size), rng.uniform(0.2, 1, size)])
        linear.bias[...] = jnp.asarray(bias, jnp.float32)
    return model


def last(layer):
    return layer.net.layers[-1] if isinstance(layer.net, MLP) else layer.net


def moments(layer):
    """Of `child = weight @ parent + bias + N(0, diag variance)`: the three, float64."""
    kernel, bias = (np.float64(p[...]) for p in (last(layer).kernel, last(layer).bias))
    size = bias.size // 2
    return kernel[:, :size].T, bias[:size], np.logaddexp(0, bias[size:]) + 1e-8


def below(parent, child):
    """Mean and covariance of [child, parent]."""
    (mean, covariance), (weight, bias, variance) = parent, child
    cross = weight @ covariance
    return (
        np.concatenate([weight @ mean + bias, mean]),
        np.block([[cross @ weight.T + np.diag(variance), cross], [cross.T, covariance]]),
    )


def swapped(joint, size):
    """[a, b] -> [b, a], the first of them of this size."""
    order = np.roll(np.arange(len(joint[0])), -size)
    return joint[0][order], joint[1][np.ix_(order, order)]


def exact_prior(model):
    top = model.layer_dims[-1]
    return below((np.zeros(top), np.eye(top)), moments(model.generators[0]))


def exact_posterior(model, x):
    if isinstance(model, jv.models.Hierarchical):
        (weight, bias, variance), above = map(moments, model.encoders)
        joint = below((weight @ x + bias, np.diag(variance)), above)
        return swapped(joint, model.layer_dims[1])
    (w1, b1, v1), (w2, b2, v2) = (moments(stage.head) for stage in model.stages)
    weight, bias, variance = moments(model.generators[0])
    precise = 1 / (1 / variance + 1 / v1)
    child = (
        (precise / variance)[:, None] * weight,
        precise * (bias / variance + (w1 @ x + b1) / v1),
        precise,
    )
    return below((w2 @ x + b2, np.diag(v2)), child)


def exact_log_evidence(model, x):
    weight, bias = (np.float64(p[...]) for p in last_of(model.decoder))
    (mean, covariance), n = exact_prior(model), model.layer_dims[0]
    noise = np.logaddexp(0, float(model.output.raw_variance[...])) + 1e-8
    return stats.multivariate_normal(
        weight.T @ mean[:n] + bias, weight.T @ covariance[:n, :n] @ weight + noise * np.eye(x.size)
    ).logpdf(x)


def last_of(net):
    return net.layers[-1].kernel, net.layers[-1].bias


def both(model, x=None):
    """Posterior and prior, with their exact means and covariances."""
    x = np.random.default_rng(2).normal(size=model.event_shape) if x is None else x
    return [
        (model.posterior(jnp.asarray(x, jnp.float32)), exact_posterior(model, x)),
        (model.prior(), exact_prior(model)),
    ]


def check_density(chain, exact):
    """Within float32 of scipy's Gaussian, at 50 points."""
    points = np.random.default_rng(1).normal(size=(50, len(exact[0])))
    log_p = jax.jit(jax.vmap(lambda chain, v: log_prob(chain, v), (None, 0)))(
        chain, jnp.asarray(points, jnp.float32)
    )
    expected = stats.multivariate_normal(*exact).logpdf(points)
    np.testing.assert_allclose(log_p, expected, rtol=2e-5, atol=2e-5)


def check_samples(chain, exact, *, count=4096):
    """Whitened by the exact moments, samples have mean zero and second moments of I."""
    keys = jax.random.split(jax.random.key(3), count)
    zs = np.float64(jax.jit(jax.vmap(sample, (None, 0)))(chain, keys))
    white = np.linalg.solve(np.linalg.cholesky(exact[1]), (zs - exact[0]).T).T
    squares = np.einsum("ni,nj->nij", white, white)
    assert_mean(white, 0.0, false_alarm=FALSE_ALARM, what="mean")
    assert_mean(squares, np.eye(len(exact[0])), false_alarm=FALSE_ALARM, what="second moments")


@EACH
def test_linear_gaussian_chains_are_the_exact_joint_densities(name):
    for chain, exact in both(affine(name)):
        check_density(chain, exact)
        check_samples(chain, exact)


def as_drawn(chain):
    """A twin that leaves the blocks in the order they are drawn in."""
    twin = Chain(chain.first, chain.conditionals, sizes=chain.sizes)
    assert twin.order != chain.order
    return twin


class Forgetful(Chain):
    """A twin without the log-density of what is drawn second."""

    def log_prob_each(self, value):
        return jnp.where(jnp.arange(2) == self.order[0], super().log_prob_each(value), 0)


def test_checks_reject_layers_swapped_in_the_layout():
    # Of one size, so that nothing but the numbers is wrong.
    for name in NAMES:
        chain, exact = both(affine(name, (2, 2)))[1]
        check_density(chain, exact)
        for check in (check_density, check_samples):
            with pytest.raises(AssertionError):
                check(as_drawn(chain), exact)


@EACH
def test_check_rejects_a_chain_that_forgets_a_conditional(name):
    for chain, exact in both(affine(name)):
        twin = Forgetful(chain.first, chain.conditionals, sizes=chain.sizes, order=chain.order)
        with pytest.raises(AssertionError):
            check_density(twin, exact)


def variances_added(a, b):
    total = a.variance + b.variance
    mean = (a.mean * b.variance + b.mean * a.variance) / total
    return dist.Normal(mean, jnp.sqrt(total)).to_event(1)


def means_weighted_by_variances(a, b):
    total = a.variance + b.variance
    mean = (a.mean * a.variance + b.mean * b.variance) / total
    return dist.Normal(mean, jnp.sqrt(a.variance * b.variance / total)).to_event(1)


@pytest.mark.parametrize("product", [variances_added, means_weighted_by_variances])
def test_checks_reject_a_ladder_with_another_product(product, monkeypatch):
    monkeypatch.setattr(ladder_module, "product", product)
    chain, exact = both(affine("ladder"))[0]
    for check in (check_density, check_samples):
        with pytest.raises(AssertionError):
            check(chain, exact)


def test_product_of_normals_is_their_normalised_product():
    a, b = dist.Normal(jnp.array([0.3]), 0.7), dist.Normal(jnp.array([-1.0]), 1.9)
    product = ladder_module.product(a.to_event(1), b.to_event(1))
    points = np.linspace(-2, 2, 9)
    shape = stats.norm(0.3, 0.7).logpdf(points) + stats.norm(-1, 1.9).logpdf(points)
    log_p = np.array([log_prob(product, jnp.array([p], jnp.float32)) for p in points])
    np.testing.assert_allclose(log_p - log_p[0], shape - shape[0], atol=1e-5)
    tiny = dist.Normal(jnp.zeros(1), 1e-4).to_event(1)  # the floor of a variance
    assert float(ladder_module.product(tiny, tiny).variance[0]) == pytest.approx(5e-9, rel=1e-4)


class Without(nnx.Module):
    """A twin of a model whose prior forgets p(h1|h2)."""

    def __init__(self, model):
        self.model = model

    def prior(self):
        p = self.model.prior()
        return Forgetful(p.first, p.conditionals, sizes=p.sizes, order=p.order)

    def posterior(self, x):
        return self.model.posterior(x)

    def likelihood(self, z):
        return self.model.likelihood(z)


@pytest.mark.parametrize("name", slow_but(NAMES, "hierarchical"))
def test_importance_weights_average_to_the_exact_evidence(name):
    model = affine(name)
    xs = np.random.default_rng(4).normal(size=(4, 4))
    exact = np.array([exact_log_evidence(model, x) for x in xs])
    rows = jnp.asarray(np.repeat(xs, 1024, axis=0), jnp.float32)

    def ratios(model):
        found = jv.evaluation.log_likelihood(
            jax.random.key(5), model, rows, num_samples=32, batch_size=4096
        )
        return np.exp(found.estimate.reshape(4, 1024).T - exact)

    assert_mean(ratios(model), 1.0, false_alarm=FALSE_ALARM, what="p(x)")
    with pytest.raises(AssertionError):
        assert_mean(ratios(Without(model)), 1.0, false_alarm=FALSE_ALARM, what="p(x)")


# What holds with any network.


@EACH
def test_prior_and_posterior_are_over_one_vector_and_x_hangs_on_h1(name):
    dims = (2, 1, 3)
    model = make(name, dims)
    q, p, size = model.posterior(X), model.prior(), sum(dims)
    assert isinstance(model, jv.Model)
    for chain in (q, p):
        assert chain.event_shape == (size,)
        assert chain.batch_shape == ()
        assert chain.sizes == dims
        assert [block.shape for block in chain.split(jnp.zeros(size))] == [(n,) for n in dims]
        drawn = jax.eval_shape(partial(sample, chain), jax.random.key(1))
        assert (drawn.shape, drawn.dtype) == ((size,), jnp.float32)
        assert chain.has_rsample
        assert can_score(chain)

    @jax.jit
    def jacobians(model, key):
        q, p = model.posterior(X), model.prior()
        functions = (
            p.log_prob_each,
            q.log_prob_each,
            lambda z: jnp.sum(model.likelihood(z).mean, keepdims=True),
        )
        z = sample(q, key)
        return [jax.jacobian(function)(z) for function in functions]

    # What each factor of the two densities, and p(x|z), depends on, by layers.
    seen = []
    for jacobian in jacobians(model, jax.random.key(1)):
        rows = np.asarray(jacobian).reshape(-1, size)
        parts = np.split(np.abs(rows) > 0, np.cumsum(dims)[:-1], axis=1)
        seen.append(np.stack([part.any(axis=1) for part in parts], axis=1).tolist())
    above = np.eye(len(dims)) + np.eye(len(dims), k=1) > 0
    climbs = name == "hierarchical"
    assert seen[0] == above.tolist()
    assert seen[1] == (above.T if climbs else above).tolist()
    assert seen[2] == [[True] + [False] * (len(dims) - 1)]


@pytest.mark.parametrize("name", slow_but(NAMES, "hierarchical"))
def test_a_sample_comes_with_its_own_log_density(name):
    model = make(name, (2, 1, 3))

    @jax.jit
    def draws(chain, key):
        same = partial(jax.random.clone, key)  # the same draws, on purpose
        z, log_p = sample_with_log_prob(chain, same())
        z_each, each = chain.sample_with_log_prob_each(same())
        again = sample(chain, same()), log_prob(chain, z), z_each, chain.log_prob_each(z)
        zs = chain.sample(same(), (4, 2))
        return (z, log_p, z, each), again, zs, chain.log_prob(zs), chain.log_prob(zs[1, 1])

    for chain in (model.posterior(X), model.prior()):
        for seed in range(3):
            one, another, zs, log_ps, log_p = draws(chain, jax.random.key(seed))
            for a, b in zip(one, another, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
            assert zs.shape == (4, 2, 6)
            assert len(np.unique(zs[..., 0])) == 8
            np.testing.assert_allclose(log_ps[1, 1], log_p, rtol=1e-5, atol=1e-5)


def test_a_chain_is_a_pytree():
    model = make("ladder")  # whose conditionals hold modules and distributions
    q = model.posterior(X)
    returned = jax.jit(lambda m, x: m.posterior(x))(model, X)
    assert (returned.sizes, returned.order, returned.event_shape) == (q.sizes, q.order, (5,))

    @jax.jit
    def scores(chain, key):
        z, log_q = sample_with_log_prob(chain, key)
        many = jax.vmap(model.posterior)(jnp.stack([X, 1 - X]))
        return log_q, log_prob(q, z), jax.vmap(log_prob, (0, None))(many, z)

    @jax.jit
    def gradients(chain, z):
        live = jax.grad(lambda q: log_prob(q, z))(chain)
        return live, jax.grad(lambda q: log_prob(jax.lax.stop_gradient(q), z))(chain)

    log_q, again, (first, second) = scores(returned, jax.random.key(1))
    np.testing.assert_allclose([log_q, first], again, rtol=1e-5, atol=1e-5)
    assert first != second
    live, stopped = gradients(returned, jnp.arange(5.0))
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(live.conditionals))
    assert not any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(stopped))


def products(function, *args):
    """How many matrix products a function takes, in all the functions that it calls."""

    def count(jaxpr):
        here = sum(e.primitive.name in ("rows", "dot_general") for e in jaxpr.eqns)
        return here + sum(count(inner) for e in jaxpr.eqns for inner in jaxprs_in_params(e.params))

    return count(jax.make_jaxpr(function)(*args).jaxpr)


@EACH
def test_sampling_with_the_density_evaluates_each_network_once(name):
    model, key = make(name, (2, 1, 3)), jax.random.key(1)
    up = sum(
        len(jax.tree.leaves(layers)) // 2
        for layers in (model.encoders if name == "hierarchical" else model.stages)
    )
    down = len(jax.tree.leaves(list(model.generators))) // 2
    expected = up if name == "hierarchical" else up + down

    def once(model, x, key):
        return sample_with_log_prob(model.posterior(x), key)

    def twice(model, x, key):
        q = model.posterior(x)
        z = sample(q, key)
        return z, log_prob(q, z)

    assert products(once, model, X, key) == expected
    assert products(twice, model, X, key) > expected
    assert products(lambda m, key: sample_with_log_prob(m.prior(), key), model, key) == down


@pytest.mark.slow
def test_beta_and_warm_up_weigh_the_sampled_rate():
    model, key = make("ladder"), jax.random.key(1)
    objective = partial(jv.elbo, kl="monte_carlo", beta=0.3)
    terms = jax.jit(objective)(jax.random.key(2), model, X)
    assert float(terms.bound) == pytest.approx(-float(terms.distortion + terms.rate), rel=1e-5)
    weighted = -float(terms.distortion + 0.3 * terms.rate)
    assert float(terms.objective) == pytest.approx(weighted, rel=1e-5)
    # The model trains as it is: nothing in it is shared.
    optimizer = optax.sgd(1e-3)
    step = jv.training.make_step(
        partial(jv.elbo, kl="monte_carlo"),
        optimizer,
        schedules={"beta": jv.training.linear_warmup(2, 4)},
    )
    run, betas = jax.jit(step), []
    state = jv.training.init(key, model, optimizer)
    for _ in range(4):
        state, metrics = run(state, X[None])
        betas.append(float((metrics["loss"] - metrics["distortion"]) / metrics["rate"]))
    np.testing.assert_allclose(betas, [0, 0.5, 1, 1], atol=1e-4)


def test_a_rate_in_closed_form_is_refused_in_words():
    model = make("hierarchical")
    with refused("kl", "monte_carlo", "KL(Chain || Chain)"):
        jax.eval_shape(jv.elbo, jax.random.key(1), model, X)
    with refused("entropy", "Chain"):
        jax.eval_shape(partial(jv.elbo, kl="entropy"), jax.random.key(1), model, X)
    with refused("mean and variance", "Chain"):
        jv.evaluation.active_units(model, X[None])


# Layers apart.


def exact_kl_per_layer(model, x):
    """`E_q[log q_l - log p_l]` of a ladder's two layers, from Gaussian expectations."""
    (q_mean, q_cov), n = exact_posterior(model, x), model.layer_dims[0]
    weight, bias, variance = moments(model.generators[0])

    def expected_log(residual, offset, variance):
        """`E_q log N(residual @ z - offset; 0, diag variance)`."""
        mean = residual @ q_mean - offset
        square = np.diag(residual @ q_cov @ residual.T) + mean**2
        return -0.5 * np.sum(np.log(2 * np.pi * variance) + square / variance)

    identity = np.eye(len(q_mean))
    log_p1 = expected_log(identity[:n] - weight @ identity[n:], bias, variance)
    log_p2 = expected_log(identity[n:], 0, np.ones(len(q_mean) - n))
    upper = q_cov[n:, n:]
    given = q_cov[:n, :n] - q_cov[:n, n:] @ np.linalg.solve(upper, q_cov[n:, :n])
    log_q1, log_q2 = (-0.5 * np.linalg.slogdet(2 * np.pi * np.e * c)[1] for c in (given, upper))
    if isinstance(model, jv.models.Hierarchical):  # q(h1|x) q(h2|h1): the other way about
        lower = q_cov[:n, :n]
        given = q_cov[n:, n:] - q_cov[n:, :n] @ np.linalg.solve(lower, q_cov[:n, n:])
        log_q1, log_q2 = (-0.5 * np.linalg.slogdet(2 * np.pi * np.e * c)[1] for c in (lower, given))
    return np.array([log_q1 - log_p1, log_q2 - log_p2])


@EACH
def test_kl_per_layer_has_the_exact_expectation(name):
    model = affine(name)
    x = np.random.default_rng(6).normal(size=4)
    rows = jnp.asarray(np.tile(x, (2048, 1)), jnp.float32)
    kl = jv.evaluation.kl_per_layer(jax.random.key(7), model, rows, num_samples=2, batch_size=2048)
    exact = exact_kl_per_layer(model, x)
    # Two-sided at 5.2 standard errors: false alarm below 1e-6 for the pair.
    assert np.all(np.abs(kl.mean - exact) < 5.2 * kl.standard_error), (kl, exact)
    assert not np.all(np.abs(kl.mean[::-1] - exact) < 5.2 * kl.standard_error)


@pytest.mark.slow
def test_kl_per_layer_sums_to_the_rate():
    model, key = make("ladder", (2, 1, 3)), jax.random.key(1)
    xs = jnp.stack([X, 1 - X, X * 0])
    kl = jv.evaluation.kl_per_layer(key, model, xs, num_samples=4)
    assert kl.mean.shape == kl.standard_error.shape == (3,)
    objective = partial(jv.elbo, kl="monte_carlo", num_samples=4)
    terms = jv.evaluation.terms(key, model, xs, objective=objective)
    assert kl.mean.sum() == pytest.approx(terms.rate.mean(), rel=1e-5)


class OtherLayers(nnx.Module):
    """A model whose prior has the layers of another."""

    def __init__(self):
        self.a, self.b = make("hierarchical", (3, 2)), make("hierarchical", (2, 3))

    def prior(self):
        return self.b.prior()

    def posterior(self, x):
        return self.a.posterior(x)

    def likelihood(self, z):
        return self.a.likelihood(z)


def test_kl_per_layer_refuses_what_has_no_layers():
    key, xs = jax.random.key(1), X[None]
    flat = jv.models.vae(jax.random.key(0), (2, 2), latent_dim=2, hidden=(3,))
    with refused("chains", "Independent(Normal)", "kl_per_latent"):
        jv.evaluation.kl_per_layer(key, flat, xs)
    with refused("chains", "(3, 2)", "(2, 3)"):
        jv.evaluation.kl_per_layer(key, OtherLayers(), xs)
    with refused("num_samples", "0"):
        jv.evaluation.kl_per_layer(key, make("ladder"), xs, num_samples=0)


# The chain by itself.


def gaussian(size, out, seed):
    net = MLP(size, (), 2 * out, rngs=nnx.Rngs(jax.random.key(seed)))
    return GaussianLayer(net, out)


def bits_given(weight):
    return jax.tree_util.Partial(lambda w, h, *_: FloatBernoulli(w @ h).to_event(1), weight)


def bit_chain(order=None, sizes=(2, 1)):
    first = FloatBernoulli(jnp.array([0.5, -1.0])).to_event(1)
    return Chain(first, [bits_given(jnp.array([[1.0, 2.0]]))], sizes=sizes, order=order)


def test_a_chain_of_bits_sums_to_one_and_has_no_pathwise_gradient():
    chain = bit_chain(order=(1, 0), sizes=(1, 2))
    states = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=3)), jnp.float32)
    probs = np.exp(np.float64(chain.log_prob(states)))
    assert probs.sum() == pytest.approx(1, abs=1e-6)
    keys = jax.random.split(jax.random.key(1), 8192)
    drawn = np.asarray(jax.vmap(lambda key: sample(chain, key))(keys))
    hits = (drawn[:, None] == np.asarray(states)).all(-1)
    assert_mean(hits, probs, false_alarm=FALSE_ALARM, what="frequencies")
    assert not chain.has_rsample
    mixed = Chain(
        dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1), chain.conditionals, sizes=(2, 1)
    )
    assert not mixed.has_rsample
    with pytest.raises(NotImplementedError):
        chain.rsample(jax.random.key(1))


def test_conditionals_see_all_earlier_blocks_the_nearest_first():
    seen = []

    def third(near, far):
        seen.append((near.shape, far.shape))
        return dist.Normal(jnp.concatenate([near, far]), 1.0).to_event(1)

    first = dist.Normal(jnp.zeros(1), jnp.ones(1)).to_event(1)
    chain = Chain(first, [gaussian(1, 2, 0), third], sizes=(3, 1, 2), order=(1, 2, 0))
    z = sample(chain, jax.random.key(1))
    assert seen == [((2,), (1,))]
    residual = z[:3] - jnp.concatenate([z[4:], z[3:4]])
    expected = stats.norm.logpdf(np.float64(residual)).sum()
    assert float(chain.log_prob_each(z)[0]) == pytest.approx(expected, rel=1e-5)


def test_bad_chains_are_refused_in_words():
    first = dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)
    with refused("sizes", "expected 2", "(2,)"):
        Chain(first, [gaussian(2, 1, 0)], sizes=(2,))
    with refused("order", "(0, 2)"):
        Chain(first, [gaussian(2, 1, 0)], sizes=(2, 1), order=(0, 2))
    with refused("order", "(0, 0)"):
        Chain(first, [gaussian(2, 1, 0)], sizes=(2, 1), order=(0, 0))
    wrong = Chain(first, [gaussian(2, 3, 0)], sizes=(2, 1))
    with refused("sizes", "vector of 1", "block 1", "(3,)"):
        sample(wrong, jax.random.key(0))
    scalar = Chain(dist.Normal(jnp.zeros(2), 1.0), sizes=(2,))
    with refused("sizes", "batch shape (2,)"):
        log_prob(scalar, jnp.zeros(2))
    with refused("value", "[..., 3]", "(2,)"):
        log_prob(Chain(first, [gaussian(2, 1, 0)], sizes=(2, 1)), jnp.zeros(2))


@EACH
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer_dims": (4,)}, ("layer_dims", "(4,)", "vae")),
        ({"layer_dims": (4, 0)}, ("layer_dims", "0")),
        ({"layer_dims": 4}, ("layer_dims", "4")),
        ({"event_shape": (0,)}, ("event_shape", "(0,)")),
        ({"hidden": 3}, ("hidden", "3")),
        ({"hidden": (3, 2.5)}, ("hidden", "2.5")),
        ({"upper_hidden": (0,)}, ("upper_hidden", "0")),
        ({"activation": "sine"}, ("activation", "'sine'")),
        ({"initializer": "zeros"}, ("initializer", "'zeros'")),
        ({"likelihood": "poisson!"}, ("likelihood", "'poisson!'")),
    ],
)
def test_bad_arguments_are_refused_by_name(name, options, words):
    with refused(*words):
        make(name, **options)


@EACH
def test_a_batch_of_examples_is_refused(name):
    with refused("x", "vmap"):
        make(name).posterior(jnp.stack([X, X]))
