"""Mutual information, the parts of the rate, MMD and diagnosis, by quadrature and in closed form."""

import itertools
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import jaxvae as jv
from jaxvae.coupled import mmd2
from jaxvae.evaluation import aggregate, information
from jaxvae.evaluation.aggregate import log_aggregate
from jaxvae.reports import figures
from jaxvae.testing import draw_examples, linear_gaussian
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

surgery, mutual_information = jv.evaluation.elbo_surgery, jv.evaluation.mutual_information
MEANS, SCALE = np.array([-1.5, -1.0, 0.2, 0.3, 2.0]), 0.6


class Encoded(NamedTuple):
    """`q(z|x) = N(gain x, scale^2)` against N(0, I), and a decoder that sees z through `weight`."""

    gain: Any
    scale: Any
    weight: Any

    def prior(self):
        return dist.Normal(jnp.zeros_like(self.scale), jnp.ones_like(self.scale)).to_event(1)

    def posterior(self, x):
        return dist.Normal(self.gain @ x, self.scale).to_event(1)

    def likelihood(self, z):
        mean = self.weight @ z
        return dist.Normal(mean, jnp.full_like(mean, 0.5)).to_event(1)


def one_latent():
    """x is the posterior mean itself."""
    eye = jnp.eye(1)
    return Encoded(eye, jnp.full(1, SCALE), eye)


def column(values=MEANS):
    return np.asarray(values, np.float32)[:, None]


# Mutual information of few examples, by quadrature.


@cache
def quadrature():
    """Mean and variance under q(z|x_n) of log q(z|x_n) - log q(z), q(z) the mixture; by a grid sum."""
    z = np.linspace(-8, 9, 20001)
    log_q = stats.norm(MEANS[:, None], SCALE).logpdf(z[None])
    ratio = log_q - (special.logsumexp(log_q, axis=0) - np.log(len(MEANS)))
    weight = np.exp(log_q) * (z[1] - z[0])
    mean = (weight * ratio).sum(axis=1)
    return mean, (weight * ratio**2).sum(axis=1) - mean**2


def check_each(function, num_samples=4000):
    """KL(q(z|x_n) || q(z)) of every example, within its Monte Carlo error; false alarm 1e-6."""
    mean, variance = quadrature()
    result = function(jax.random.key(0), one_latent(), column(), num_samples=num_samples)
    z = (result.each - mean) / np.sqrt(variance / num_samples)
    assert np.all(np.abs(z) < 5.4), z
    np.testing.assert_allclose(result.mean[0], result.each.mean())
    np.testing.assert_allclose(result.per_latent.mean, [result.mean[0]], rtol=1e-5)
    assert result.ceiling == np.log(5)


def test_mutual_information_is_that_of_the_mixture():
    check_each(mutual_information)


def own_left_out(*args, **options):
    """q(z) of the other N - 1 examples, as a leave-one-out estimate of a density would have it."""
    with pytest.MonkeyPatch.context() as patch:

        def others(model, xs, zs, *, each):
            rows = np.split(np.asarray(zs), len(xs))
            parts = [
                log_aggregate(model, np.delete(xs, i, axis=0), row, each=each)
                for i, row in enumerate(rows)
            ]
            return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

        patch.setattr(information, "log_aggregate", others)
        return mutual_information(*args, **options)


def log_n_forgotten(*args, **options):
    result = mutual_information(*args, **options)
    each = result.each - result.ceiling
    return result._replace(each=each, mean=(each.mean(), result.mean[1]))


@pytest.mark.parametrize("twin", [own_left_out, log_n_forgotten])
def test_check_of_mutual_information_rejects(twin):
    with pytest.raises(AssertionError):
        check_each(twin)


@pytest.mark.slow
def test_neither_batch_nor_chunk_changes_anything(monkeypatch):
    model = one_latent()
    run = partial(mutual_information, jax.random.key(0), model, column(), num_samples=3)
    expected = run()
    monkeypatch.setattr(aggregate, "NUMBERS", 2 * 15)  # two components at a time of five
    for got in (run(batch_size=1), run(batch_size=3)):
        np.testing.assert_allclose(got.each, expected.each, atol=2e-6)


def test_far_posteriors_are_at_the_ceiling():
    result = mutual_information(jax.random.key(0), one_latent(), column(100.0 * np.arange(8)))
    np.testing.assert_allclose(result.each, np.log(8), atol=1e-5)
    assert result.near_ceiling
    assert "near that ceiling it says little" in str(result)
    assert "ceiling" not in str(mutual_information(jax.random.key(0), one_latent(), column()))


def test_discrete_latents_are_enumerated():
    """One bit: I is the entropy of the mean less the mean entropy."""

    class Bits(NamedTuple):
        def prior(self):
            return jv.distributions.FloatBernoulli(jnp.zeros(1)).to_event(1)

        def posterior(self, x):
            return jv.distributions.FloatBernoulli(x).to_event(1)

        def likelihood(self, z):
            raise NotImplementedError  # of no concern to the mutual information of x and z

    logits = np.tile(column([-2.0, 0.5, 3.0]), (400, 1))
    p = special.expit([-2.0, 0.5, 3.0])
    exact = stats.bernoulli(p.mean()).entropy() - stats.bernoulli(p).entropy().mean()
    result = mutual_information(jax.random.key(0), Bits(), logits)
    assert_mean(result.each.reshape(400, 3).mean(axis=1), exact)


# A population in closed form.


@cache
def exact_model():
    """A model with q(z|x) = p(z|x), whose aggregate posterior is the prior, and examples from it."""
    model = linear_gaussian(3, event_size=4, latent_dim=2).with_exact_posterior()
    return model, draw_examples(jax.random.key(0), model, 3000)


@cache
def parts_of_exact():
    model, xs = exact_model()
    return surgery(jax.random.key(1), model, xs[:1500])


def population_information():
    """1/2 log det(cov z) - 1/2 log det(cov z|x), where cov z = I."""
    model, _ = exact_model()
    _, log_det = np.linalg.slogdet(
        np.float64(model.exact_posterior(jnp.zeros(4)).covariance_matrix)
    )
    return -0.5 * log_det


def check_population(each):
    assert_mean(each, population_information(), what="I(x; z)")


def test_information_of_the_population():
    check_population(parts_of_exact().mutual_information.each)
    with pytest.raises(AssertionError):
        check_population(parts_of_exact().mutual_information.each - np.log(2))


def check_parts(parts):
    whole = parts.mutual_information.mean[0] + parts.marginal_kl[0]
    np.testing.assert_allclose(whole, parts.rate[0], atol=1e-6)


def test_parts_sum_to_the_rate():
    parts = parts_of_exact()
    check_parts(parts)
    with pytest.raises(AssertionError):
        check_parts(parts._replace(marginal_kl=parts_of_off_prior().marginal_kl))
    model, xs = exact_model()
    exact = jax.jit(jax.vmap(model.exact_elbo))(xs[:1500])
    for got, of_each in ((parts.rate, exact.rate), (parts.distortion, exact.distortion)):
        assert abs(got[0] - np.mean(of_each)) < 5.3 * got[1]


def check_on_prior(parts):
    """KL(q(z) || p(z)) is 0 but for the bias of N examples, about the mean chi^2(q(z|x) || q(z)) / 2N.

    For these posteriors the chi^2 is below exp(2 I) (1-d: E chi^2 + 1 = 1 / (1 - r^2) = exp(2 I)).
    """
    bias = np.exp(2 * population_information()) / (2 * 1500)
    assert -3 * parts.marginal_kl[1] < parts.marginal_kl[0] < bias + 3 * parts.marginal_kl[1]


def parts_of_off_prior():
    model, xs = exact_model()
    moved = jax.tree.map(jnp.copy, model)
    moved.encoder.bias[...] = moved.encoder.bias[...] + 0.4
    return surgery(jax.random.key(1), moved, xs[:1500])


def test_aggregate_of_the_exact_posterior_is_the_prior():
    check_on_prior(parts_of_exact())
    off = parts_of_off_prior()
    with pytest.raises(AssertionError):
        check_on_prior(off)
    # The mean moves by 0.4 in two latents: KL = 2 * 0.4^2 / 2.
    assert abs(off.marginal_kl[0] - 0.16) < 6 * off.marginal_kl[1] + 0.01


def test_latents_that_do_not_factorise_have_no_numbers_of_their_own():
    assert parts_of_exact().mutual_information.per_latent is None
    assert parts_of_exact().marginal_kl_per_latent is None


# Dead latents.

DEAD = [1, 3]


@cache
def planted():
    """Five latents; those that are dead have q = p and no weight in the decoder."""
    rng = np.random.default_rng(0)
    gain = np.float32(np.linalg.qr(rng.normal(size=(6, 5)))[0].T)
    scale = np.full(5, 0.4, np.float32)
    weight = np.float32(rng.normal(size=(6, 5)))
    gain[DEAD], scale[DEAD], weight[:, DEAD] = 0, 1, 0
    xs = rng.normal(size=(400, 6)).astype(np.float32)
    return Encoded(*map(jnp.asarray, (gain, scale, weight))), xs


@cache
def diagnosis():
    return jv.evaluation.diagnose(jax.random.key(0), *planted())


def check_dead(said):
    """All four numbers find exactly those that were planted."""
    parts = said.surgery
    information = parts.mutual_information.per_latent.mean
    for name, of_latents in (
        ("units", said.units.variance),
        ("kl", said.kl),
        ("information", information),
    ):
        assert list(np.flatnonzero(np.abs(of_latents) < 1e-5)) == DEAD, name
    assert list(np.flatnonzero(np.abs(parts.marginal_kl_per_latent.mean) < 1e-5)) == DEAD
    live = np.delete(np.arange(5), DEAD)
    exact = 0.5 * np.log(1 + 1 / 0.4**2)  # of N(0, 1) examples in orthogonal directions
    error = parts.mutual_information.per_latent.standard_error[live]
    assert np.all(np.abs(information[live] - exact) < 5.2 * error + 0.02)
    assert "2 of 5 latents are dead: z[1], z[3]." in str(said)


def test_dead_latents_are_found():
    check_dead(diagnosis())
    parts = diagnosis().surgery
    shifted = parts.mutual_information._replace(per_latent=parts.marginal_kl_per_latent)
    with pytest.raises(AssertionError):
        check_dead(diagnosis()._replace(surgery=parts._replace(mutual_information=shifted)))


def test_a_decoder_that_ignores_z_is_named():
    model, xs = planted()
    blind = model._replace(weight=jnp.zeros_like(model.weight))
    said = jv.evaluation.diagnose(jax.random.key(0), blind, xs)
    assert said.reliance.verdict == "ignored"
    assert any(s.startswith("The decoder ignores z") for s in said.sentences)
    assert not any(s.startswith("The decoder") for s in diagnosis().sentences)


def test_ceiling_and_marginal_kl_are_named():
    eye = jnp.eye(2)
    xs = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)

    def said(gain, scale):
        model = Encoded(gain * eye, jnp.full(2, scale), eye)
        return str(jv.evaluation.diagnose(jax.random.key(0), model, xs))

    assert "Mutual information is at its ceiling" in said(1.0, 0.01)
    assert "samples from the prior will look worse" in said(3.0, 2.0)
    balanced = said(0.8, 0.6)  # 0.8^2 + 0.6^2 = 1: the aggregate is the prior
    assert balanced == "Nothing is amiss with the latents."


def test_bars_are_the_two_parts():
    parts = diagnosis().surgery
    each = parts.mutual_information.per_latent.mean, parts.marginal_kl_per_latent.mean
    axes = figures.information_bars(*each).axes[0]
    told, rest = (np.array([bar.get_height() for bar in group]) for group in axes.containers)
    np.testing.assert_allclose(told + rest, np.sort(sum(each))[::-1])
    assert [tick.get_text() for tick in axes.get_xticklabels()][-2:] == ["1", "3"]
    with refused("marginal", "(4,)"):
        figures.information_bars(each[0], each[1][:4])


# MMD.


@jax.jit
def pairs(key, model, xs):
    """A draw of q(z|x) and one of the prior for every example, as `aggregate_mmd` takes them."""
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(xs)))
    return jax.vmap(partial(aggregate._pair, model))(keys, jnp.asarray(xs))


def test_mmd_is_that_of_the_coupled_objective():
    model, xs = planted()
    z, prior = pairs(jax.random.key(0), model, xs[:40])
    for kernel, bandwidth in (("rbf", None), ("imq", 0.7)):
        options = {"kernel": kernel, "bandwidth": bandwidth}
        options_of_test = {"num_permutations": 19, **options}
        got = jv.evaluation.aggregate_mmd(jax.random.key(0), model, xs[:40], **options_of_test)
        np.testing.assert_allclose(got.mmd2, mmd2(z, prior, **options), atol=2e-6)
        assert abs(got.mmd2 - mmd2(z, prior + 1, **options)) > 1e-3
        assert got.null.shape == (19,)


def check_null(null):
    """First and second moment over all 20 splits of six points, by `mmd2` of each."""
    points, _ = six_points()
    chosen = np.array(list(itertools.combinations(range(6), 3)))
    rest = np.array([np.delete(np.arange(6), row) for row in chosen])
    every = np.float64(jax.jit(jax.vmap(mmd2))(points[chosen], points[rest]))
    assert_mean(null, np.mean(every), what="mean")
    assert_mean(null**2, np.mean(np.square(every)), what="square")


@cache
def six_points():
    xs = column([-2.0, 0.0, 3.0])
    result = jv.evaluation.aggregate_mmd(jax.random.key(2), one_latent(), xs, num_permutations=5000)
    return jnp.concatenate(pairs(jax.random.key(2), one_latent(), xs)), result


def test_null_is_that_of_all_splits():
    _, result = six_points()
    check_null(result.null)
    with pytest.raises(AssertionError):  # the diagonal, a bias of 1 / N for each sample
        check_null(result.null + 2 / 3)


def check_false_alarms(alarm):
    """5 % of 200 tests on fresh examples, or fewer; 30 or more have a chance below 1e-6."""
    assert stats.binom(200, 0.05).sf(29) < 1e-6
    assert sum(map(alarm, many_on_prior())) < 30


@cache
def many_on_prior():
    model, xs = exact_model()
    test = partial(jv.evaluation.aggregate_mmd, model=model, num_permutations=19)
    batches = np.asarray(xs).reshape(200, 15, 4)
    return [test(jax.random.key(1000 + i), xs=batch) for i, batch in enumerate(batches)]


def test_false_alarms_are_as_rare_as_stated():
    check_false_alarms(lambda test: test.p_value <= 0.0501)
    with pytest.raises(AssertionError):  # as if the MMD were 0 where the laws agree
        check_false_alarms(lambda test: test.mmd2 > 0)


def test_mmd_tells_an_aggregate_off_the_prior():
    model, xs = exact_model()
    on = jv.evaluation.aggregate_mmd(jax.random.key(2), model, xs[:500])
    assert on.p_value > 0.01
    moved = jax.tree.map(jnp.copy, model)
    moved.encoder.bias[...] = moved.encoder.bias[...] + 0.5
    off = jv.evaluation.aggregate_mmd(jax.random.key(2), moved, xs[:500])
    assert off.deviations > 10
    assert off.p_value == 1 / 501
    assert "p = 0.002 of 500 permutations" in str(off)


# Refusals.

FUNCTIONS = [
    mutual_information,
    surgery,
    jv.evaluation.aggregate_mmd,
    jv.evaluation.diagnose,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_example_is_refused(function):
    with refused("xs", "two examples"):
        function(jax.random.key(0), one_latent(), column([1.0]))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_int_is_no_key(function):
    with refused("key", "jax.random.key"):
        function(0, one_latent(), column())


@pytest.mark.parametrize("name", ["num_samples", "batch_size"])
def test_sizes_are_checked(name):
    for function in (mutual_information, surgery):
        with refused(name):
            function(jax.random.key(0), one_latent(), column(), **{name: 0})


def test_options_of_the_mmd_are_checked():
    for name, bad in (("kernel", "cosine"), ("bandwidth", -1.0), ("num_permutations", 0)):
        with refused(name, repr(bad)):
            jv.evaluation.aggregate_mmd(jax.random.key(0), one_latent(), column(), **{name: bad})


def test_posteriors_that_cannot_score_are_refused():
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(4,), posterior="planar")
    with refused("can score a given value"):
        mutual_information(jax.random.key(0), model, np.zeros((3, 4), np.float32))
