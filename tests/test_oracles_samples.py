"""Samples, their densities, keys and batches against NumPy, SciPy and quadrature. False alarm of a z-test: 1e-6."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.lax import stop_gradient
from scipy import integrate, special, stats

import jaxvae as jv
from jaxvae import batching, bounds, log_weights
from jaxvae.binding import bind
from jaxvae.keys import fold_each
from tests.support import oracles
from tests.support.statistics import assert_mean
from tests.test_binding import check_evidence


def key():
    return jax.random.key(3)


@cache
def example():
    model = oracles.linear_gaussian(0)
    return model, jnp.asarray(oracles.draw_x(model, 9, 1)[0])


class Densities(NamedTuple):
    """Of latents [K, D] under the linear-Gaussian model, float64."""

    log_p_x_z: np.ndarray
    log_p_z: np.ndarray
    log_q_z_x: np.ndarray


def moments(p, x):
    return p.encoder @ np.float64(x) + p.offset, np.exp(p.log_diagonal)


def densities(model, x, z):
    p, z = oracles.parameters(model), np.float64(z)
    mean, scale = moments(p, x)
    decoded = z @ p.weight.T + p.bias
    return Densities(
        stats.norm.logpdf(np.float64(x), decoded, np.exp(p.log_scale)).sum(-1),
        stats.norm.logpdf(z).sum(-1),
        stats.norm.logpdf(z, mean, scale).sum(-1),
    )


# Samples and log-densities.


@cache
def drawn():
    """6,000 samples at once, and the same in chunks."""
    model, x = example()
    options = {"num_samples": 6000, "bound": bounds.elbo, "chunk_size": 2500}
    whole = jax.jit(log_weights.draw, static_argnums=3)(key(), model, x, 6000)
    return whole, jax.jit(lambda m: log_weights.problem(key(), m, x, **options).draw())(model)


def check_samples(s):
    """Moments of z under q(z|x), and the three densities of every sample by SciPy."""
    model, x = example()
    mean, scale = moments(oracles.parameters(model), x)
    white = (np.float64(s.z) - mean) / scale
    pairs = white[:, :1] * white[:, 1:]
    rows = np.concatenate([white, white**2, pairs], axis=1)
    assert_mean(rows, [0, 0, 1, 1, 0], rounding=1e-5, what="moments")
    exact = densities(model, x, s.z)
    for name, value in exact._asdict().items():
        np.testing.assert_allclose(getattr(s, name), value, rtol=1e-5, atol=1e-5, err_msg=name)
    log_w = exact.log_p_x_z + exact.log_p_z - exact.log_q_z_x
    np.testing.assert_allclose(s.log_w, log_w, rtol=1e-5, atol=1e-5)


def test_samples_are_of_q_and_carry_their_densities():
    for s in drawn():
        check_samples(s)


def of_the_prior(s):
    model, x = example()
    z = np.random.default_rng(0).normal(size=s.z.shape)
    d = densities(model, x, z)
    return s._replace(z=z, **{name: jnp.float32(value) for name, value in d._asdict().items()})


@pytest.mark.parametrize(
    "twin",
    [
        of_the_prior,
        lambda s: s._replace(log_q_z_x=s.log_q_z_x / 2),
        lambda s: s._replace(log_p_x_z=jnp.roll(s.log_p_x_z, 1)),
        lambda s: s._replace(log_p_z=s.log_q_z_x, log_q_z_x=s.log_p_z),
    ],
    ids=["of the prior", "averaged", "at other samples", "exchanged"],
)
def test_check_of_samples_rejects(twin):
    with pytest.raises(AssertionError):
        check_samples(twin(drawn()[0]))


def check_log_likelihood(function):
    model, x = example()
    zs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
    got = jax.jit(jax.vmap(function, (None, None, 0)))(model, x, zs)
    np.testing.assert_allclose(got, densities(model, x, zs).log_p_x_z, rtol=1e-5)


def test_log_likelihood_of_one_latent():
    check_log_likelihood(log_weights.log_p_x_given_z)
    with pytest.raises(AssertionError):
        check_log_likelihood(lambda model, x, z: log_weights.log_p_x_given_z(model, x, z) / x.size)


def check_mean(mean):
    """Alike without weights; else `sum_k weight_k f_k`."""
    values, weight = np.array([1.0, -2.0, 4.0]), np.array([0.5, 0.3, 0.2])
    s = log_weights.Samples(*[jnp.zeros(3)] * 6)
    weighed = s._replace(weight=jnp.float32(weight))
    np.testing.assert_allclose(mean(s, jnp.float32(values)), values.mean(), rtol=1e-6)
    np.testing.assert_allclose(mean(weighed, jnp.float32(values)), weight @ values, rtol=1e-6)


def test_expectations_over_samples():
    check_mean(lambda s, values: s.mean(values))
    for twin in (lambda s, values: jnp.mean(values), lambda s, values: s.mean(values) / 3):
        with pytest.raises(AssertionError):
            check_mean(twin)


# The parts of a problem.

BETA = 0.7


@cache
def parts():
    """Of each way to the rate: the latents, the parts of the problem, and what they are not."""
    model, x = example()

    @jax.jit
    def found(model):
        out = {}
        for kl in ("monte_carlo", "entropy", "analytic"):
            options = {"num_samples": 4, "bound": bounds.iwae, "beta": BETA}
            rate = log_weights.RATES[kl]
            task = log_weights.problem(key(), model, x, rate=rate, **options)
            s = task.draw()
            log_w, exact = task.log_w(s), task.rate.closed(s.q, s.p)
            sampled_alone = log_weights.Rate(kl, rate.sampled, lambda q, p: jnp.zeros(()))
            out[kl] = {
                "z": s.z,
                "log_w": log_w,
                "exact": exact,
                "value": task.value(s),
                "rate": rate(s),
                "sampled part of the rate": sampled_alone(s),
                "without beta": s.log_w,
                "of another sign": -exact,
                "exact without beta": task.bound(log_w) - exact,
                "another bound": jnp.mean(log_w) - BETA * exact,
            }
        return out

    return found(model)


def check_problem(*names):
    """`log_w`, what is exact, the value and the whole rate, in all three forms."""
    model, x = example()
    mean, scale = moments(oracles.parameters(model), x)
    entropy = np.sum(np.log(scale)) + len(scale) * 0.5 * np.log(2 * np.pi * np.e)
    rate = 0.5 * np.sum(mean**2 + scale**2 - 1) - np.sum(np.log(scale))
    for kl, found in parts().items():
        d = densities(model, x, found["z"])
        log_w, exact = {
            "monte_carlo": (d.log_p_x_z + BETA * (d.log_p_z - d.log_q_z_x), 0.0),
            "entropy": (d.log_p_x_z + BETA * d.log_p_z, -entropy),
            "analytic": (d.log_p_x_z, rate),
        }[kl]
        value = special.logsumexp(log_w) - np.log(4) - BETA * exact
        whole = exact + np.mean(d.log_p_x_z - log_w) / BETA
        for name, expected in zip(names, (log_w, exact, value, whole), strict=True):
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=kl)


def test_the_parts_of_a_problem():
    check_problem("log_w", "exact", "value", "rate")


def test_check_of_the_parts_rejects():
    for names in (
        ("without beta", "exact", "value", "rate"),
        ("log_w", "of another sign", "value", "rate"),
        ("log_w", "exact", "exact without beta", "rate"),
        ("log_w", "exact", "another bound", "rate"),
        ("log_w", "exact", "value", "sampled part of the rate"),
    ):
        with pytest.raises(AssertionError):
            check_problem(*names)


def check_kl_each(function):
    """By quadrature over each latent alone."""
    q, p = ([0.3, -1.0], [0.5, 2.0]), ([0.0, 1.0], [1.0, 0.7])

    def kl(m, s, n, t):
        a, b = stats.norm(m, s), stats.norm(n, t)
        integrand = lambda z: a.pdf(z) * (a.logpdf(z) - b.logpdf(z))  # noqa: E731
        return integrate.quad(integrand, m - 12 * s, m + 12 * s, epsabs=1e-11)[0]

    exact = [kl(*row) for row in zip(*q, *p, strict=True)]
    normals = [dist.Normal(*map(jnp.float32, each)).to_event(1) for each in (q, p)]
    np.testing.assert_allclose(function(*normals), exact, rtol=1e-5)


def test_kl_of_each_latent_is_the_integral():
    check_kl_each(log_weights.kl_each)
    for twin in (
        lambda q, p: log_weights.kl_each(p, q),
        lambda q, p: jnp.broadcast_to(jnp.mean(log_weights.kl_each(q, p)), (2,)),
    ):
        with pytest.raises(AssertionError):
            check_kl_each(twin)


# Chunks and scaled gradients.


def check_over_samples(function):
    """`sum_k g_k tanh(a z_k)` and its slope in a by NumPy, in chunks that do not divide 7, in one, and whole."""
    z, g = np.random.default_rng(0).normal(size=(2, 7, 2))

    def value(a, chunk_size):
        each = function(lambda rows: jnp.tanh(a * rows), jnp.float32(z), chunk_size)
        return jnp.sum(jnp.float32(g) * each), each

    @jax.jit
    def all_of_them(a):
        grad = jax.grad(value, has_aux=True)
        return [grad(a, size) for size in (2, 7, None)]

    for slope, each in all_of_them(jnp.float32(0.8)):
        np.testing.assert_allclose(each, np.tanh(0.8 * z), rtol=1e-5)
        exact = np.sum(g * z / np.cosh(0.8 * z) ** 2)
        np.testing.assert_allclose(slope, exact, rtol=1e-5)


def first_for_the_rest(some, rows, chunk_size):
    size = min(chunk_size or len(rows), len(rows))
    whole = len(rows) // size * size
    return log_weights.over_samples(some, rows.at[whole:].set(rows[0]), chunk_size)


def stopped_in_chunks(some, rows, chunk_size):
    done = log_weights.over_samples(some, rows, chunk_size)
    return done if chunk_size is None else stop_gradient(done)


def test_chunks_are_the_whole_in_value_and_gradient():
    check_over_samples(log_weights.over_samples)
    for twin in (first_for_the_rest, stopped_in_chunks):
        with pytest.raises(AssertionError):
            check_over_samples(twin)


def check_scale_gradient(function):
    """z to the bit; its cotangent times the scale of the row; none for the scale."""
    rng = np.random.default_rng(0)
    z, g = rng.normal(size=(2, 4, 3)).astype(np.float32)
    scale = np.float32([0.0, 1.0, -2.0, 0.3])

    @jax.jit
    def both(z, scale):
        value, back = jax.vjp(function, z, scale)
        return value, *back(jnp.asarray(g))

    value, by_z, by_scale = both(jnp.asarray(z), jnp.asarray(scale))
    np.testing.assert_array_equal(value, z)
    np.testing.assert_allclose(by_z, scale[:, None] * g, rtol=1e-6)
    np.testing.assert_array_equal(by_scale, 0)


def test_a_scaled_gradient_leaves_the_value():
    check_scale_gradient(log_weights.scale_gradient)
    for twin in (
        lambda z, scale: z,
        lambda z, scale: log_weights.scale_gradient(z, scale**2),
        lambda z, scale: scale[:, None] * z,
        lambda z, scale: scale[:, None] * z + stop_gradient((1 - scale)[:, None] * z),
    ):
        with pytest.raises(AssertionError):
            check_scale_gradient(twin)


# Keys and batches.


def one_key(objective, keys, model, examples):
    return jax.vmap(partial(objective, keys[0], model))(examples.x)


def in_another_order(objective, keys, model, examples):
    return batching.over_batch(objective, keys, model, examples._replace(x=examples.x[::-1]))


@cache
def batches():
    """Three examples, and the terms of 4,000 batches of them, right and wrong."""
    model = example()[0]
    xs = oracles.draw_x(model, 1, 3)
    examples = batching.unpack(jnp.asarray(xs))

    @jax.jit
    @jax.vmap
    def terms(key):
        keys = fold_each(key, examples.index)
        ways = batching.over_batch, one_key, in_another_order
        return [way(jv.elbo, keys, model, examples) for way in ways]

    return xs, terms(jax.random.split(key(), 4000))


def check_batches(terms):
    """The expectation of the ELBO of each example in closed form, and noise that is not shared."""
    p = oracles.parameters(example()[0])
    exact = [oracles.elbo(p, np.float64(x)).bound for x in batches()[0]]
    assert_mean(terms.bound, exact, rounding=1e-5, what="bound")
    noise = np.corrcoef(np.float64(terms.distortion), rowvar=False)
    assert np.all(np.abs(noise[np.triu_indices(3, 1)]) < 0.08), "shared noise"  # 5 / sqrt(4000)


def test_a_batch_is_its_examples_with_their_own_keys():
    right, *wrong = batches()[1]
    check_batches(right)
    for terms in wrong:
        with pytest.raises(AssertionError):
            check_batches(terms)


def check_fill_absent(function):
    """A weighted mean and its gradient are those of the rows that count, whatever the others hold."""
    x, weight = np.array([[np.nan, 1.0], [2.0, 3.0], [np.inf, 0.0], [4.0, -1.0]]), [0, 2, 0, 1]
    examples = batching.unpack({"x": jnp.float32(x), "weight": jnp.float32(weight)})

    def mean(a):
        each = jnp.sum(jnp.square(a * function(examples).x), axis=1)
        return examples.weight @ each / jnp.sum(examples.weight)

    exact = (2 * 13 + 17) / 3
    value, slope = jax.value_and_grad(mean)(jnp.float32(1.5))
    np.testing.assert_allclose([value, slope], [1.5**2 * exact, 3 * exact], rtol=1e-6)


def test_rows_that_do_not_count_are_filled():
    check_fill_absent(batching.fill_absent)
    for twin in (
        lambda examples: examples,
        lambda examples: examples._replace(x=jnp.nan_to_num(examples.x) + examples.x[1][None]),
    ):
        with pytest.raises(AssertionError):
            check_fill_absent(twin)


def test_a_bound_mask_integrates_out_what_it_hides():
    check_evidence(lambda model, mask: bind(model, mask=mask))
    for twin in (lambda model, mask: bind(model), lambda model, mask: bind(model, mask=1 - mask)):
        with pytest.raises(AssertionError):
            check_evidence(twin)
