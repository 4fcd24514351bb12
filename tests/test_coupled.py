"""Objectives that couple a batch. False-alarm rate of every z-test: 1e-6."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from scipy import integrate, special, stats
from sklearn.datasets import load_digits

import jaxvae as jv
from jaxvae import coupled
from jaxvae.coupled.terms import draw_each, elbo_of, latents
from jaxvae.distributions import sample
from jaxvae.keys import OfExample, stream_key
from tests.support import oracles
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import assert_mean

INFO = partial(coupled.info_vae, alpha=0.5, lambda_=20.0)
TC = partial(coupled.beta_tc_vae, dataset_size=1000, beta=4.0)
TC_STRATIFIED = partial(TC, weights="stratified")
FACTOR = partial(coupled.factor_vae, gamma=3.0)
DIP_I = partial(coupled.dip_vae, lambda_off_diagonal=5.0, lambda_diagonal=2.0)
DIP_II = partial(DIP_I, form="ii")
EVERY = {
    "info imq": INFO,
    "info rbf": partial(INFO, kernel="rbf"),
    "tc minibatch": TC,
    "tc stratified": TC_STRATIFIED,
    "factor": FACTOR,
    "dip i": DIP_I,
    "dip ii": DIP_II,
}
every = pytest.mark.parametrize("objective", EVERY.values(), ids=EVERY)


def keys(seed, *shape):
    return jax.random.split(jax.random.key(seed), shape)


def with_discriminator(vae):
    return coupled.FactorVAE.of(jax.random.key(77), vae, hidden=(8,))


def linear(seed=0, size=6):
    model = with_discriminator(oracles.linear_gaussian(seed))
    return model, jnp.asarray(oracles.draw_x(model.vae, 1, size))


def centred(seed=0, offset=0.0):
    """A model whose aggregate posterior under x ~ N(0, I) is N(offset, covariance)."""
    p = oracles.parameters(oracles.linear_gaussian(seed))
    p = p._replace(offset=np.full(2, offset))
    covariance = p.encoder @ p.encoder.T + np.diag(np.exp(2 * p.log_diagonal))
    return oracles.LinearGaussian(p, full=False), covariance


def replicate(function, model, *, draws, batch, seed=0):
    """`function(keys, model, xs)` on `draws` independent batches of x ~ N(0, I_3)."""
    xs = jax.random.normal(jax.random.key(seed + 1), (draws, batch, 3))
    call = jax.jit(jax.vmap(function, (0, None, 0)))
    return jax.tree.map(np.asarray, call(keys(seed, draws, batch), model, xs))


# All of them.


@pytest.mark.slow
@every
def test_bound_is_that_of_each_example_alone(objective):
    model, xs = linear()
    kl = "monte_carlo" if objective.func is coupled.beta_tc_vae else "analytic"

    @jax.jit
    def both(model, xs):
        each = jax.vmap(lambda key, x: jv.elbo(key, model, x, kl=kl))(keys(2, 6), xs)
        return objective(keys(2, 6), model, xs), each

    terms, alone = both(model, xs)
    for name in ("bound", "distortion", "rate"):
        np.testing.assert_allclose(getattr(terms, name), getattr(alone, name), rtol=1e-5)
    assert np.max(np.abs(terms.objective - terms.bound)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "neutral",
    [
        partial(coupled.info_vae, alpha=0.0, lambda_=1.0),
        partial(TC, beta=1.0),
        partial(TC_STRATIFIED, beta=1.0),
        partial(FACTOR, gamma=0.0),
        partial(DIP_I, lambda_off_diagonal=0.0, lambda_diagonal=0.0),
    ],
    ids=["info", "tc minibatch", "tc stratified", "factor", "dip"],
)
def test_neutral_weights_give_the_bound_to_the_bit(neutral):
    model, xs = linear()
    terms = jax.jit(neutral)(keys(2, 6), model, xs)
    np.testing.assert_array_equal(terms.objective, terms.bound)


@every
def test_small_batches_and_wrong_keys_are_refused(objective):
    model, xs = linear()
    with refused("xs", "at least"):
        objective(keys(0, 1), model, xs[:1])
    with refused("xs", "batch"):
        objective(keys(0, 3), model, xs[0])
    with refused("keys", "batch_coupled=True"):
        objective(jax.random.key(0), model, xs)
    with refused("keys", "split"):
        objective(0, model, xs)


def test_wrong_options_are_refused():
    model, xs = linear()
    for words, objective in {
        ("alpha", "at most 1"): partial(INFO, alpha=1.5),
        ("lambda_", "2 = 1 - alpha"): partial(INFO, alpha=-1.0, lambda_=1.0),
        ("kernel", "imq"): partial(INFO, kernel="gauss"),
        ("bandwidth", "above 0"): partial(INFO, bandwidth=0.0),
        ("dataset_size", "5 examples", "batch of 6"): partial(TC, dataset_size=5),
        ("weights", "stratified"): partial(TC, weights="mss"),
        ("beta", "at least 0"): partial(TC, beta=-1.0),
        ("gamma", "at least 0"): partial(FACTOR, gamma=float("nan")),
        ("form", "ii"): partial(DIP_I, form="iii"),
        ("kl", "monte_carlo"): partial(DIP_I, kl="sampled"),
    }.items():
        with refused(*words):
            objective(keys(0, 6), model, xs)
    with refused("discriminator", "FactorVAE.of"):
        FACTOR(keys(0, 6), model.vae, xs)
    with refused("factorised", "MultivariateNormal"):
        TC(keys(0, 6), oracles.linear_gaussian(0, full=True), xs)
    with refused("xs, ys", "(1, 2)"):
        coupled.mmd2(jnp.ones((1, 2)), jnp.ones((3, 2)))
    with refused("z", "at least 4"):
        coupled.discriminator_log_likelihood(jax.random.key(0), lambda z: z[0], jnp.ones((3, 2)))


@pytest.mark.slow
@every
def test_trains_on_digits(objective):
    xs = jnp.asarray(load_digits().images[:512] > 8, jnp.float32)
    model = with_discriminator(jv.models.vae(jax.random.key(0), (8, 8), latent_dim=4, hidden=(32,)))
    optimizer = optax.adam(5e-3)
    step = jax.jit(jv.training.make_step(objective, optimizer, batch_coupled=True))
    state, losses = jv.training.init(jax.random.key(1), model, optimizer), []
    for i in range(50):
        state, metrics = step(state, xs[64 * (i % 8) :][:64])
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 5
    assert step._cache_size() <= 1  # 0 where a long session has evicted it


# InfoVAE: the MMD has a closed form between Gaussians.

FIRST = np.array([0.5, -0.3]), np.array([[1.0, 0.4], [0.4, 0.5]])
SECOND = np.array([-0.2, 0.1]), np.array([[0.6, -0.2], [-0.2, 1.3]])


def expected_rbf(first, second, variance):
    """E exp(-|x - y|^2 / (2 variance)) of independent Gaussians."""
    mean, covariance = first[0] - second[0], first[1] + second[1]
    total = covariance + variance * np.eye(len(mean))
    scale = np.sqrt(np.linalg.det(total / variance))
    return np.exp(-mean @ np.linalg.solve(total, mean) / 2) / scale


def expected_imq(first, second, variance):
    """E variance / (variance + |x - y|^2), a mixture of Gaussian kernels of exponential precision."""
    return integrate.quad(
        lambda t: np.exp(-t) * expected_rbf(first, second, variance / (2 * t)), 0, np.inf
    )[0]


def exact_mmd2(first, second, kernel, variance):
    expected = {"rbf": expected_rbf, "imq": expected_imq}[kernel]
    same = expected(first, first, variance) + expected(second, second, variance)
    return same - 2 * expected(first, second, variance)


def check_mmd2(estimator, kernel="rbf", first=FIRST, second=SECOND, draws=40_000):
    def gaussian(key, law, size):
        tril = jnp.asarray(np.linalg.cholesky(law[1]), jnp.float32)
        return jnp.asarray(law[0], jnp.float32)[None] + jax.random.normal(key, (size, 2)) @ tril.T

    def one(key):
        x_key, y_key = jax.random.split(key)
        return estimator(gaussian(x_key, first, 5), gaussian(y_key, second, 4))

    samples = jax.jit(jax.vmap(one))(keys(3, draws))
    assert_mean(samples, exact_mmd2(first, second, kernel, 0.8**2), what=f"mmd2 {kernel}")


def v_statistic(xs, ys, *, bandwidth):
    def k(a, b):
        return jnp.exp(-jnp.sum((a[:, None] - b[None]) ** 2, axis=-1) / (2 * bandwidth**2))

    return jnp.mean(k(xs, xs)) + jnp.mean(k(ys, ys)) - 2 * jnp.mean(k(xs, ys))


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
@pytest.mark.parametrize("second", [SECOND, FIRST], ids=["apart", "equal"])
def test_mmd2_has_no_bias(kernel, second):
    check_mmd2(partial(coupled.mmd2, kernel=kernel, bandwidth=0.8), kernel, second=second)


@pytest.mark.parametrize(
    "twin",
    [
        partial(v_statistic, bandwidth=0.8),
        partial(
            coupled.mmd2, bandwidth=0.8 * np.sqrt(2)
        ),  # exp(-r^2 / h^2) read as exp(-r^2 / (2 h^2))
        partial(coupled.mmd2, kernel="imq", bandwidth=0.8),
        lambda xs, ys: -coupled.mmd2(xs, ys, bandwidth=0.8),
    ],
    ids=["v-statistic", "bandwidth", "kernel", "sign"],
)
def test_check_of_mmd2_rejects(twin):
    with pytest.raises(AssertionError, match="mmd2"):
        check_mmd2(twin)


def test_default_bandwidth_is_the_distance_of_two_prior_samples():
    xs, ys = jax.random.normal(jax.random.key(0), (2, 7, 8))
    for kernel in ("rbf", "imq"):
        mmd2 = partial(coupled.mmd2, xs, ys, kernel=kernel)
        np.testing.assert_allclose(mmd2(), mmd2(bandwidth=4.0), rtol=1e-5)


def check_info(objective):
    """The MMD of the aggregate posterior N(0.4, C) to the prior, through the objective."""
    model, covariance = centred(offset=0.4)
    terms = replicate(
        partial(objective, alpha=-2.0, lambda_=6.0, kernel="rbf", bandwidth=1.5),
        model,
        draws=20_000,
        batch=6,
    )
    mmd = (-terms.distortion - 3.0 * terms.rate - terms.objective) / 3.0
    assert np.ptp(mmd, axis=1).max() < 1e-4  # the same number is added to every example
    aggregate, prior = (np.full(2, 0.4), covariance), (np.zeros(2), np.eye(2))
    exact = exact_mmd2(aggregate, prior, "rbf", 1.5**2)
    assert_mean(mmd.mean(axis=1), exact, what="mmd2 of the objective")


def info_twin(keys, model, xs, *, alpha, lambda_, kernel, bandwidth, bug):
    s = draw_each(keys, model, xs)
    terms, z = elbo_of(s, "analytic"), latents(s)
    prior = jax.vmap(lambda k: sample(model.prior(), jax.random.fold_in(k, 9)))(keys)
    mmd2 = v_statistic if bug == "v-statistic" else partial(coupled.mmd2, kernel=kernel)
    weight = {"lambda alone": lambda_, "minus alpha": lambda_ - alpha}.get(bug, alpha + lambda_ - 1)
    penalty = weight * mmd2(z, prior, bandwidth=bandwidth)
    return terms._replace(objective=-terms.distortion - (1 - alpha) * terms.rate - penalty)


def test_info_vae_has_the_mmd_of_the_aggregate_posterior():
    check_info(coupled.info_vae)
    check_info(partial(info_twin, bug=None))


@pytest.mark.parametrize(
    "bug", slow_but(["v-statistic", "lambda alone", "minus alpha"], "v-statistic")
)
def test_check_of_info_vae_rejects(bug):
    with pytest.raises(AssertionError, match="mmd2 of the objective"):
        check_info(partial(info_twin, bug=bug))


def test_info_vae_weighs_rate_and_mmd_as_written():
    model, xs = linear()
    call = partial(coupled.info_vae, keys(2, 6), model, xs)
    base = call(alpha=1.0, lambda_=1.0)
    mmd = -base.distortion - base.objective
    for alpha, lambda_ in itertools.product([-2.0, 0.0, 0.5, 1.0], [3.0, 7.0]):
        expected = -base.distortion - (1 - alpha) * base.rate - (alpha + lambda_ - 1) * mmd
        np.testing.assert_allclose(
            call(alpha=alpha, lambda_=lambda_).objective, expected, atol=2e-5
        )


# beta-TC-VAE: log q(z) from a batch, by enumeration.


def source_stratified(size, total, weights="stratified"):
    """Appendix C.2 of the source, its one uneven weight on the next example of the batch."""
    others = size - 1
    w = np.full((size, size), 1 / others)
    uneven = np.arange(size), (np.arange(size) + 1) % size
    w[uneven] = (total - others) / (total * others)
    np.fill_diagonal(w, 1 / total)
    return np.log(w)


def stratified_by_column(size, total, weights="stratified"):
    """The matrix of many libraries: strides of M + 1 in a matrix of M + 1 columns miss the diagonal."""
    others = size - 1
    w = np.full((size, size), 1 / others)
    w.reshape(-1)[:: others + 1] = 1 / total
    w.reshape(-1)[1 :: others + 1] = (total - others) / (total * others)
    w[others - 1, 0] = (total - others) / (total * others)
    return np.log(w)


def self_weight_of_batch(size, total, weights="stratified"):
    return np.full((size, size), -np.log(size))


def batches_with(row, size, total):
    """Every ordered batch without replacement that has example 0 at `row`."""
    for others in itertools.permutations(range(1, total), size - 1):
        yield np.array([*others[:row], 0, *others[row:]])


TOTAL, SIZE = 6, 3
DENSITY = np.exp(np.random.default_rng(0).normal(size=TOTAL) * 2)  # q(z|x_n) at z ~ q(z|x_0)


def estimates(log_weights, row, size=SIZE):
    w = np.exp(np.asarray(log_weights(size, TOTAL, "stratified"), np.float64))[row]
    return np.array([w @ DENSITY[batch] for batch in batches_with(row, size, TOTAL)])


def check_unbiased(log_weights):
    for row in range(SIZE):
        mean = estimates(log_weights, row).mean()
        np.testing.assert_allclose(mean, DENSITY.mean(), rtol=1e-6, err_msg=f"row {row}")


def check_exact_on_the_data_set(log_weights):
    for row in range(TOTAL):
        values = estimates(log_weights, row, TOTAL)
        np.testing.assert_allclose(values, DENSITY.mean(), rtol=1e-6)


def test_stratified_estimate_of_q_has_no_bias_and_is_exact_on_the_data_set():
    check_unbiased(coupled.log_weights)
    check_exact_on_the_data_set(coupled.log_weights)


@pytest.mark.parametrize("twin", [stratified_by_column, self_weight_of_batch])
def test_check_of_stratified_weights_rejects(twin):
    with pytest.raises(AssertionError, match="row"):
        check_unbiased(twin)


def test_stratified_weights_vary_no_more_than_the_source_s():
    check_unbiased(source_stratified)
    with pytest.raises(AssertionError):
        check_exact_on_the_data_set(source_stratified)
    ours, source = (estimates(f, 0).var() for f in (coupled.log_weights, source_stratified))
    assert ours < source


@pytest.mark.parametrize("size", range(2, TOTAL + 1))
def test_minibatch_estimate_is_a_lower_bound_of_known_mean(size):
    w = np.exp(np.asarray(coupled.log_weights(size, TOTAL, "minibatch"), np.float64))[0]
    values = np.array([w @ DENSITY[batch] for batch in batches_with(0, size, TOTAL)])
    known = (DENSITY[0] + (size - 1) * DENSITY[1:].mean()) / (TOTAL * size)
    np.testing.assert_allclose(values.mean(), known, rtol=1e-6)
    assert np.log(values).mean() < np.log(DENSITY.mean())
    if size == TOTAL:
        np.testing.assert_allclose(np.log(values), np.log(DENSITY.mean() / TOTAL), rtol=1e-6)


def exact_parts(model, xs, z, log_w):
    """The three parts in float64, one example after the other."""
    p = oracles.parameters(model)
    means, scale = np.float64(xs) @ p.encoder.T + p.offset, np.exp(p.log_diagonal)
    parts = []
    for i, z_i in enumerate(np.float64(z)):
        each = np.array([stats.norm.logpdf(z_i, mean, scale) for mean in means])  # [j, d]
        log_q = special.logsumexp(log_w[i] + each.sum(axis=1))
        product = sum(special.logsumexp(log_w[i] + each[:, d]) for d in range(len(z_i)))
        log_p = stats.norm.logpdf(z_i).sum()
        parts.append([each[i].sum() - log_q, log_q - product, product - log_p])
    return np.array(parts).T


def check_decomposition(objective, kind):
    """Every part at 1e-4 nats, and their sum the rate of the same samples."""
    model, xs = oracles.linear_gaussian(0), jnp.asarray(5 * oracles.draw_x(linear()[0].vae, 4, 6))
    z = draw_each(keys(5, 6), model, xs).z[:, 0]
    total = 50
    w = np.full((6, 6), (total - 1) / (total * 5.0))
    np.fill_diagonal(w, 1 / total)
    w = np.full((6, 6), 1 / (total * 6.0)) if kind == "minibatch" else w
    exact = exact_parts(model, xs, z, np.log(w))
    call = partial(objective, keys(5, 6), model, xs, dataset_size=total, weights=kind)
    none = call(alpha=0.0, beta=0.0, gamma=0.0)
    np.testing.assert_allclose(exact.sum(axis=0), none.rate, atol=1e-4)
    np.testing.assert_allclose(none.objective, -none.distortion, atol=1e-4)
    for name, part in zip(("alpha", "beta", "gamma"), exact, strict=True):
        weighed = call(**{"alpha": 0.0, "beta": 0.0, "gamma": 0.0, name: 1.0})
        np.testing.assert_allclose(none.objective - weighed.objective, part, atol=1e-4)


def tc_twin(keys, model, xs, *, dataset_size, alpha, beta, gamma, weights, bug):
    s = draw_each(keys, model, xs)
    terms, z = elbo_of(s, "monte_carlo"), s.z[:, 0]
    means = jax.vmap(lambda x: model.posterior(x).mean)(xs)
    scale = jnp.exp(model.log_diagonal[...])[None, None]
    log_q = jax.scipy.stats.norm.logpdf(z[:, None], means[None], scale)
    if bug == "transposed":
        log_q = jnp.swapaxes(log_q, 0, 1)
    log_w = coupled.log_weights(len(xs), dataset_size, weights)
    if bug == "no log(N B)":
        log_w = jnp.zeros_like(log_w)
    if bug == "weights by column":
        log_w = jnp.asarray(stratified_by_column(len(xs), dataset_size), jnp.float32)
    axis = 0 if bug == "axis" else 1
    joint = jax.nn.logsumexp(log_w + log_q.sum(2), axis=axis)
    marginals = jax.nn.logsumexp(log_w[:, :, None] + log_q, axis=axis)
    product = jnp.log(jnp.mean(jnp.exp(marginals), axis=1)) if bug == "mean" else marginals.sum(1)
    parts = jnp.diagonal(log_q.sum(2)) - joint, joint - product, product - s.log_p_z[:, 0]
    rate = alpha * parts[0] + beta * parts[1] + gamma * parts[2]
    return terms._replace(objective=-terms.distortion - rate)


@pytest.mark.parametrize("kind", ["minibatch", "stratified"])
def test_parts_of_the_rate_are_exact_and_sum_to_it(kind):
    check_decomposition(coupled.beta_tc_vae, kind)
    check_decomposition(partial(tc_twin, bug=None), kind)


@pytest.mark.parametrize("bug", ["axis", "transposed", "no log(N B)", "weights by column", "mean"])
def test_check_of_parts_rejects(bug):
    with pytest.raises(AssertionError):
        check_decomposition(partial(tc_twin, bug=bug), "stratified")


def test_parts_on_the_whole_data_set_are_those_of_the_aggregate_posterior():
    """E over x in the data set and z: index-code MI <= log N, TC >= 0; by 4,000 batches."""
    model, xs = oracles.linear_gaussian(0), jnp.asarray(3 * oracles.draw_x(linear()[0].vae, 4, 6))
    call = partial(coupled.beta_tc_vae, dataset_size=6, weights="stratified")
    call = jax.jit(jax.vmap(partial(call, alpha=1.0, beta=0.0, gamma=1.0), (0, None, None)))
    terms = call(keys(6, 4000, 6), model, xs)
    tc = np.asarray(terms.objective - terms.bound).mean(axis=1)

    p = oracles.parameters(model)
    means, scale = np.float64(xs) @ p.encoder.T + p.offset, np.exp(p.log_diagonal)
    axes = [
        np.linspace(m.min() - 9 * s, m.max() + 9 * s, 600)
        for m, s in zip(means.T, scale, strict=True)
    ]
    each = [stats.norm.pdf(a, m[:, None], s) for a, m, s in zip(axes, means.T, scale, strict=True)]
    joint = each[0].T @ each[1] / 6
    product = np.outer(each[0].mean(axis=0), each[1].mean(axis=0))
    cell = np.prod([a[1] - a[0] for a in axes])
    exact = np.sum(special.xlogy(joint, joint) - special.xlogy(joint, product)) * cell
    assert exact > 0.05
    assert_mean(tc, exact, what="total correlation")


# FactorVAE: the best discriminator of a Gaussian is quadratic.


class Quadratic(nnx.Module):
    def __init__(self, matrix, constant):
        self.matrix = nnx.Param(jnp.asarray(matrix, jnp.float32))
        self.constant = nnx.Param(jnp.asarray(constant, jnp.float32))

    def __call__(self, z):
        return z @ self.matrix[...] @ z / 2 + self.constant[...]


def best_discriminator(covariance):
    """`log N(z; 0, C) - sum_d log N(z_d; 0, C_dd)`, whose mean is the total correlation, `constant`."""
    variances = np.diag(covariance)
    constant = (np.log(variances).sum() - np.linalg.slogdet(covariance)[1]) / 2
    return Quadratic(np.diag(1 / variances) - np.linalg.inv(covariance), constant)


def correlated():
    model, _ = centred()
    p = oracles.parameters(model)
    p = p._replace(encoder=np.array([[1.0, 0.5, 0.0], [0.8, 0.0, 0.3]]))
    covariance = p.encoder @ p.encoder.T + np.diag(np.exp(2 * p.log_diagonal))
    return oracles.LinearGaussian(p, full=False), covariance


def check_total_correlation(wrap):
    vae, covariance = correlated()
    best = best_discriminator(covariance)
    model = coupled.FactorVAE(vae, wrap(best))
    terms = replicate(partial(coupled.factor_vae, gamma=2.0), model, draws=4000, batch=8)
    estimate = (terms.bound - terms.objective).mean(axis=1) / 2.0
    exact = float(best.constant[...])
    assert exact > 0.1
    assert_mean(estimate, exact, what="total correlation")


def test_best_discriminator_gives_the_total_correlation():
    check_total_correlation(lambda best: best)


@pytest.mark.parametrize(
    "twin",
    [
        lambda d: lambda z: -d(z),
        pytest.param(lambda d: lambda z: jax.nn.log_sigmoid(d(z)), marks=pytest.mark.slow),
        lambda d: lambda z: d(z) - d.constant[...],
        pytest.param(lambda d: lambda z: jax.nn.sigmoid(d(z)), marks=pytest.mark.slow),
    ],
    ids=["sign", "log D", "no constant", "D"],
)
def test_check_of_total_correlation_rejects(twin):
    class Twin(nnx.Module):
        def __init__(self, best):
            self.best = best

        def __call__(self, z):
            return twin(self.best)(z)

    with pytest.raises(AssertionError, match="total correlation"):
        check_total_correlation(Twin)


def unpermuted(key, discriminator, z):
    half = len(z) // 2
    logits = jax.vmap(discriminator)(z)
    true, false = jax.nn.log_sigmoid(logits[:half]), jax.nn.log_sigmoid(-logits[half:])
    return (jnp.mean(true) + jnp.mean(false)) / 2


def permuted_together(key, discriminator, z):
    half = len(z) // 2
    return unpermuted(
        key, discriminator, jnp.concatenate([z[:half], jax.random.permutation(key, z[half:])])
    )


def labels_swapped(key, discriminator, z):
    return coupled.discriminator_log_likelihood(key, lambda z: -discriminator(z), z)


def check_stationary(log_likelihood):
    """At the best discriminator the mean gradient is 0, up to 1 in B / 2 rows left as they were."""
    model, covariance = correlated()
    best = best_discriminator(covariance)

    def gradient(keys, model, xs):
        z = latents(draw_each(keys, model, xs))
        g = jax.grad(
            lambda d: log_likelihood(
                jax.vmap(lambda key: stream_key(key, OfExample.PERMUTATIONS))(keys)[0], d, z
            )
        )(best)
        return jnp.concatenate([g.matrix[...].reshape(-1), g.constant[...][None]])

    assert_mean(replicate(gradient, model, draws=1000, batch=256), 0.0, what="gradient")


def test_discriminator_is_at_rest_at_the_best_one():
    check_stationary(coupled.discriminator_log_likelihood)


@pytest.mark.parametrize(
    "twin",
    [
        unpermuted,
        pytest.param(permuted_together, marks=pytest.mark.slow),
        pytest.param(labels_swapped, marks=pytest.mark.slow),
    ],
)
def test_check_of_rest_rejects(twin):
    with pytest.raises(AssertionError, match="gradient"):
        check_stationary(twin)


def factor_without_stops(keys, model, xs, *, gamma):
    s = draw_each(keys, model, xs)
    terms, z = elbo_of(s, "analytic"), latents(s)
    ratio = jax.vmap(lambda z: model.discriminator(z).reshape(()))(z)
    training = coupled.discriminator_log_likelihood(
        jax.vmap(lambda key: stream_key(key, OfExample.PERMUTATIONS))(keys)[0],
        model.discriminator,
        z,
    )
    return terms._replace(objective=terms.bound - gamma * ratio + training)


def check_apart(objective):
    """The model feels the bound and the ratio alone; the discriminator its own likelihood alone."""
    model, xs = linear(size=8)

    def loss(model):
        return jnp.mean(objective(keys(2, 8), model, xs, gamma=7.0).objective)

    def of_vae(vae):
        s = draw_each(keys(2, 8), vae, xs)
        ratio = jax.vmap(lambda z: model.discriminator(z)[0])(latents(s))
        return jnp.mean(elbo_of(s, "analytic").bound - 7.0 * ratio)

    def of_discriminator(discriminator):
        z = latents(draw_each(keys(2, 8), model, xs))
        return coupled.discriminator_log_likelihood(
            jax.vmap(lambda key: stream_key(key, OfExample.PERMUTATIONS))(keys(2, 8))[0],
            discriminator,
            z,
        )

    parts = {"vae": of_vae, "discriminator": of_discriminator}

    @jax.jit
    def gradients(model):
        alone = {part: jax.grad(f)(getattr(model, part)) for part, f in parts.items()}
        return jax.grad(loss)(model), alone

    got, alone = gradients(model)
    for part, expected in alone.items():
        pairs = zip(jax.tree.leaves(getattr(got, part)), jax.tree.leaves(expected), strict=True)
        for mine, theirs in pairs:
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=part)


@pytest.mark.slow
def test_model_and_discriminator_do_not_feel_each_other_s_gradient():
    check_apart(coupled.factor_vae)
    with pytest.raises(AssertionError):
        check_apart(factor_without_stops)


@pytest.mark.slow
def test_discriminator_learns_the_total_correlation():
    """Trained through the objective beside a held model, from 0 to within 0.05 nats of the exact value."""
    vae, covariance = correlated()
    exact = float(best_discriminator(covariance).constant[...])
    model = coupled.FactorVAE(vae, Quadratic(np.zeros((2, 2)), 0.0))
    optimizer = optax.adam(2e-2)
    graph, parts, held = nnx.split(model, nnx.PathContains("discriminator"), ...)

    @jax.jit
    def step(parts, opt_state, key):
        x_key, z_key = jax.random.split(key)
        xs = jax.random.normal(x_key, (512, 3))

        def loss(parts):
            model = nnx.merge(graph, parts, held)
            terms = coupled.factor_vae(jax.random.split(z_key, 512), model, xs, gamma=1.0)
            return -jnp.mean(terms.objective), jnp.mean(terms.bound - terms.objective)

        gradient, tc = jax.grad(loss, has_aux=True)(parts)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(parts, updates), opt_state, tc

    opt_state, estimates = optimizer.init(parts), []
    for key in keys(8, 400):
        parts, opt_state, tc = step(parts, opt_state, key)
        estimates.append(float(tc))
    assert estimates[0] == 0
    np.testing.assert_allclose(np.mean(estimates[-100:]), exact, atol=0.05)


# DIP-VAE: the covariance of NumPy.


def check_dip(objective, form, full):
    model = oracles.linear_gaussian(0, full=full)
    xs = 4 * oracles.draw_x(model, 1, 7)
    p = oracles.parameters(model)
    covariance = np.cov(np.float64(xs) @ p.encoder.T + p.offset, rowvar=False)
    if form == "ii":
        tril = np.diag(np.exp(p.log_diagonal)) + p.lower
        covariance = covariance + tril @ tril.T
    off_diagonal = np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)
    exact = 3.0 * off_diagonal + 0.5 * np.sum((np.diag(covariance) - 1) ** 2)
    terms = objective(
        keys(2, 7), model, jnp.asarray(xs), lambda_off_diagonal=3.0, lambda_diagonal=0.5, form=form
    )
    np.testing.assert_allclose(
        terms.bound - terms.objective, np.full(7, exact), rtol=2e-4, atol=2e-4
    )


def dip_twin(keys, model, xs, *, lambda_off_diagonal, lambda_diagonal, form, bug):
    s = draw_each(keys, model, xs)
    terms, q = elbo_of(s, "analytic"), s.q
    c = coupled.aggregate_covariance(q, form)
    means = jax.vmap(lambda q: q.mean)(q)
    if bug == "second moment":
        c = means.T @ means / len(means)
    if bug == "divisor":
        c = c * ((len(means) - 1) / len(means))
    if bug == "over examples":
        c = jnp.cov(means)
    if bug == "other form":
        c = coupled.aggregate_covariance(q, "i" if form == "ii" else "ii")
    d = jnp.diagonal(c)
    off = jnp.sum(c**2) if bug == "diagonal twice" else jnp.sum(c**2) - jnp.sum(d**2)
    penalty = lambda_off_diagonal * off + lambda_diagonal * jnp.sum((d - 1) ** 2)
    return terms._replace(objective=terms.bound - penalty)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("form", ["i", "ii"])
def test_dip_vae_penalises_the_covariance_of_numpy(form, full):
    check_dip(coupled.dip_vae, form, full)
    check_dip(partial(dip_twin, bug=None), form, full)


@pytest.mark.parametrize("form", ["i", "ii"])
@pytest.mark.parametrize(
    "bug", ["second moment", "divisor", "over examples", "other form", "diagonal twice"]
)
def test_check_of_dip_vae_rejects(bug, form):
    with pytest.raises(AssertionError):
        check_dip(partial(dip_twin, bug=bug), form, full=False)


def test_dip_vae_refuses_a_posterior_without_moments():
    class LogNormal(oracles.LinearGaussian):
        def posterior(self, x):
            return dist.TransformedDistribution(
                super().posterior(x), dist.transforms.ExpTransform()
            )

    model = LogNormal(oracles.parameters(oracles.linear_gaussian(0)), full=False)
    options = {"lambda_off_diagonal": 1.0, "lambda_diagonal": 1.0, "kl": "monte_carlo"}
    with refused("model.posterior(x)", "mean in closed form"):
        coupled.dip_vae(keys(0, 3), model, jnp.ones((3, 3)), **options)
