"""Evaluation by hand, by NumPy and by scikit-learn, and what its results say of themselves.

False-alarm rate of each z-test: 1e-6 over all entries.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, mutual_info_score
from sklearn.preprocessing import StandardScaler

import jaxvae as jv
from jaxvae import evaluation
from jaxvae.evaluation import LogLikelihood, MutualInformation, Reliance, mean_and_error
from jaxvae.evaluation.aggregate import AggregateMMD
from jaxvae.evaluation.annealing import AIS
from jaxvae.evaluation.gaps import FamilyGap, Gaps
from jaxvae.evaluation.rate_distortion import RateDistortion
from jaxvae.evaluation.sandwich import BDMC
from jaxvae.semi_supervised import label_log_probs
from tests.support import oracles
from tests.support.statistics import assert_mean
from tests.test_oracles_models import ROWS, costs_of, least_cost, mlp, moved
from tests.test_probes import by_hand

# Means and errors of results.

VALUES = np.array([1.0, 2.0, 6.0, -3.0])
ERRORS = np.array([0.1, 0.4, 0.2, 0.3])
K_HATS = np.array([0.1, 0.75, np.nan, 0.95])


def log_likelihood():
    return LogLikelihood(VALUES, ERRORS, np.ones(4), K_HATS)


def ais(values):
    return AIS(values, ERRORS, np.ones(4), np.ones(4))


def gaps():
    family = FamilyGap(VALUES - 1, ERRORS, 2 * VALUES, 3 * VALUES)
    families = {"diagonal": family}
    return Gaps(VALUES + 9, ERRORS, VALUES, ERRORS, 5 * VALUES, families, "diagonal", "exact")


def check_mean(function, scale=1.0):
    """sd / sqrt(N) with the divisor N - 1."""
    mean = VALUES.sum() / 4
    error = np.sqrt(np.sum((VALUES - mean) ** 2) / 3 / 4)
    np.testing.assert_allclose(function(), (scale * mean, scale * error), rtol=1e-12)


def test_means_have_the_error_of_a_sample_of_examples():
    check_mean(lambda: mean_and_error(VALUES))
    check_mean(lambda: log_likelihood().mean())
    check_mean(lambda: ais(VALUES).mean())
    check_mean(lambda: BDMC(ais(VALUES), ais(2 * VALUES), np.zeros(4)).gap)
    check_mean(lambda: gaps().mean("total"), 5)
    check_mean(lambda: gaps().mean("amortisation", "diagonal"), 3)
    for twin in (
        lambda: (VALUES.mean(), VALUES.std() / 2),
        lambda: (VALUES.mean(), VALUES.std(ddof=1)),
        lambda: (VALUES.mean(), log_likelihood().monte_carlo_error()),
        lambda: BDMC(ais(2 * VALUES), ais(VALUES), np.zeros(4)).gap,
        lambda: gaps().mean("amortisation", "diagonal"),
    ):
        with pytest.raises(AssertionError):
            check_mean(twin)


def check_monte_carlo_error(function):
    """The spread of the mean of independent estimates of these errors, by 200,000 draws."""
    noise = ERRORS * np.random.default_rng(0).normal(size=(200_000, 4))
    assert_mean(noise.mean(axis=1) ** 2, function() ** 2, what="squared error")


def test_the_monte_carlo_error_is_that_of_the_mean():
    check_monte_carlo_error(log_likelihood().monte_carlo_error)
    for twin in (lambda: ERRORS.mean(), lambda: np.sqrt(np.mean(ERRORS**2))):
        with pytest.raises(AssertionError, match="squared error"):
            check_monte_carlo_error(twin)


def check_unreliable(function):
    """Two of four above 0.7, one above 0.9, of which one has no k-hat."""
    assert (function(), function(0.9), function(0.05)) == (0.5, 0.25, 0.75)


def test_the_share_of_unreliable_estimates():
    check_unreliable(log_likelihood().unreliable)
    for twin in (
        lambda threshold=0.7: np.mean(np.greater(K_HATS[[0, 1, 3]], threshold)),
        lambda threshold=0.7: log_likelihood().unreliable(0.7),
        lambda threshold=0.7: np.mean(~np.less_equal(K_HATS, threshold)),
    ):
        with pytest.raises(AssertionError):
            check_unreliable(twin)


def check_deviations(function):
    null = np.array([0.1, 0.3, 0.2, -0.2])
    spread = np.sqrt(np.sum((null - 0.1) ** 2) / 3)
    np.testing.assert_allclose(function(AggregateMMD(1.0, 0.2, null)), 0.9 / spread, rtol=1e-12)


def test_deviations_from_the_null():
    check_deviations(lambda test: test.deviations)
    for twin in (lambda t: t.mmd2 / t.null.std(ddof=1), lambda t: 0.9 / t.null.std()):
        with pytest.raises(AssertionError):
            check_deviations(twin)


def check_near_ceiling(function):
    """Above 90 % of log N."""
    for mean, expected in ((0.89, False), (0.91, True)):
        of = MutualInformation(np.zeros(3), (mean * np.log(3), 0.0), np.log(3), None)
        assert function(of) == expected


def test_what_is_near_the_ceiling():
    check_near_ceiling(lambda of: of.near_ceiling)
    for twin in (lambda of: of.mean[0] > 0.9, lambda of: of.mean[0] > of.ceiling):
        with pytest.raises(AssertionError):
            check_near_ceiling(twin)


def curve(rate, distortion, regret=(0.0, 0.0, 0.0)):
    zero, beta = np.zeros(3), np.array([0.5, 1.0, 3.0])
    rate, distortion, regret = map(np.asarray, (rate, distortion, regret))
    elbo = -(rate + distortion)
    spread = np.full(3, 0.1)
    return RateDistortion(
        beta, rate, zero, distortion, zero, elbo, zero, regret, spread, np.array([1, 0, 0])
    )


def check_shape(slope, monotone, convex, beaten):
    """Of a curve by hand: convex; falling but dented; not falling; and one model behind."""
    np.testing.assert_allclose(slope(curve([6.0, 4.0, 1.0], [1.0, 2.0, 8.0])), [-0.5, -2.0])
    for rate, distortion, expected in (
        ([6.0, 4.0, 1.0], [1.0, 2.0, 8.0], (True, True)),
        ([6.0, 4.0, 1.0], [1.0, 5.0, 8.0], (True, False)),
        ([6.0, 7.0, 1.0], [1.0, 2.0, 8.0], (False, False)),
    ):
        of = curve(rate, distortion)
        assert (monotone(of), convex(of)) == expected
    behind = curve([6.0, 4.0, 1.0], [1.0, 2.0, 8.0], [0.29, 0.31, 0.0])
    assert beaten(behind).tolist() == [False, True, False]
    (said,) = behind.faults()
    assert said.startswith("beta 1: the model of beta 0.5 has 0.31 +- 0.10 nats less")


def test_the_shape_of_a_curve():
    slope, monotone = lambda of: of.slope, lambda of: of.monotone
    convex, beaten = lambda of: of.convex, lambda of: of.beaten
    check_shape(slope, monotone, convex, beaten)
    for twin in (
        (lambda of: 1 / of.slope, monotone, convex, beaten),
        (slope, lambda of: True, convex, beaten),
        (slope, monotone, monotone, beaten),
        (slope, monotone, convex, lambda of: of.regret > 0),
    ):
        with pytest.raises(AssertionError):
            check_shape(*twin)


def reliance(drop, error, rate, verdict):
    return Reliance(np.full(2, rate), np.full(2, drop), (rate, 0.1), (drop, error), verdict)


def check_unused(function):
    """Numbers and words of a decoder that ignores z, of one that may, and of one that does not."""
    said = function(reliance(0.02, 0.01, 7.5, "ignored"))
    assert said.startswith("The decoder ignores z:")
    assert "0.02 +- 0.01 nats, the rate is 7.50" in said
    assert "not decided" in function(reliance(0.2, 0.3, 7.5, "undecided"))
    assert function(reliance(5.0, 0.1, 7.5, "used")) is None


def rate_for_drop(found):
    return evaluation.unused_latents(found._replace(mean_drop=found.mean_rate))


def test_latents_that_the_decoder_ignores_are_said():
    check_unused(evaluation.unused_latents)
    for twin in (rate_for_drop, lambda of: evaluation.unused_latents(of._replace(verdict="used"))):
        with pytest.raises((AssertionError, AttributeError)):
            check_unused(twin)


def units(*variance):
    active = np.array(variance) > 0.01
    return evaluation.ActiveUnits(np.array(variance), active, int(active.sum()))


def check_dead(function):
    assert function(units(0.5, 0.2)) is None
    assert "2 of 3 latents are dead: z[0], z[2]." in function(units(0.0, 0.5, 0.001))
    assert "All 2 latents are dead" in function(units(0.0, 0.0))


def test_dead_latents_are_said():
    check_dead(evaluation.dead_latents)
    for twin in (
        lambda of: evaluation.dead_latents(of._replace(active=~of.active)),
        lambda of: evaluation.dead_latents(of._replace(active=of.variance > 0.3)) or "",
    ):
        with pytest.raises((AssertionError, TypeError)):
            check_dead(twin)


# A linear-Gaussian model of four values and three latents.


@cache
def example():
    model = oracles.linear_gaussian(2, event_size=4, latent_dim=3)
    model.encoder[...] = model.encoder[...].at[1].set(0.0)
    return model, oracles.draw_x(model, 0, 20)


def exact_means():
    model, xs = example()
    p = oracles.parameters(model)
    return np.float64(xs) @ p.encoder.T + p.offset


def check_moments(mean, variance):
    np.testing.assert_allclose(mean, exact_means(), rtol=1e-4, atol=1e-6)
    exact = np.exp(2 * oracles.parameters(example()[0]).log_diagonal)
    np.testing.assert_allclose(variance, np.broadcast_to(exact, (20, 3)), rtol=1e-5)


def test_posterior_moments():
    mean, variance = evaluation.posterior_moments(*example(), batch_size=6)
    check_moments(mean, variance)
    for twin in ((mean, np.sqrt(variance)), (mean[::-1], variance), (mean[:18], variance[:18])):
        with pytest.raises(AssertionError):
            check_moments(*twin)


def check_active(function):
    """The variance over examples of the exact means; the second latent does not follow x."""
    found = function(*example())
    exact = np.cov(exact_means(), rowvar=False)
    np.testing.assert_allclose(found.variance, np.diag(exact), rtol=1e-4, atol=1e-10)
    assert (found.active.tolist(), found.count) == ([True, False, True], 2)


def by_posterior_variance(model, xs):
    variance = evaluation.posterior_moments(model, xs).variance.mean(0)
    return evaluation.ActiveUnits(variance, variance > 0.01, int((variance > 0.01).sum()))


def test_active_units():
    check_active(evaluation.active_units)
    for twin in (
        by_posterior_variance,
        lambda *args: evaluation.active_units(*args, threshold=-1.0),
        lambda *args: (lambda of: of._replace(variance=of.variance * 19 / 20))(
            evaluation.active_units(*args)
        ),
    ):
        with pytest.raises(AssertionError):
            check_active(twin)


def check_kl_per_latent(function):
    """The mean over examples of each `KL(N(m, s^2) || N(0, 1))`."""
    scale = np.exp(oracles.parameters(example()[0]).log_diagonal)
    each = 0.5 * (exact_means() ** 2 + scale**2 - 1) - np.log(scale)
    np.testing.assert_allclose(function(*example()), each.mean(axis=0), rtol=1e-5)


def test_kl_of_each_latent_over_examples():
    check_kl_per_latent(evaluation.kl_per_latent)
    for twin in (
        lambda model, xs: evaluation.kl_per_latent(model, xs[:10]),
        lambda model, xs: np.full(3, evaluation.kl_per_latent(model, xs).mean()),
    ):
        with pytest.raises(AssertionError):
            check_kl_per_latent(twin)


def check_likelihood_means(function):
    model, zs = example()[0], np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    p = oracles.parameters(model)
    np.testing.assert_allclose(function(model, zs), zs @ p.weight.T + p.bias, atol=1e-5)


def test_means_of_the_likelihood():
    check_likelihood_means(partial(evaluation.likelihood_means, batch_size=3))
    for twin in (
        lambda model, zs: evaluation.likelihood_means(model, zs[::-1]),
        lambda model, zs: evaluation.likelihood_means(model, zs) - np.float32(model.bias[...]),
    ):
        with pytest.raises(AssertionError):
            check_likelihood_means(twin)


def check_terms(found):
    """The mean of the ELBO of 600 copies of each of three examples, in closed form."""
    model, xs = example()
    exact = [oracles.elbo(oracles.parameters(model), np.float64(x)) for x in xs[:3]]
    for name in ("bound", "distortion", "rate"):
        rows = np.float64(getattr(found, name)).reshape(3, 600).T
        assert_mean(rows, [getattr(e, name) for e in exact], rounding=1e-5, what=name)
    noise = np.float64(found.distortion).reshape(3, 600)
    assert len(np.unique(noise[0])) > 590, "shared noise"


def test_terms_of_every_example():
    model, xs = example()
    copies = np.repeat(xs[:3], 600, axis=0)
    found = evaluation.terms(jax.random.key(3), model, copies, objective=jv.elbo)
    check_terms(found)
    for twin in (
        jax.tree.map(lambda column: column[::-1], found),
        jax.tree.map(lambda column: np.repeat(column[::600], 600), found),
        found._replace(rate=found.rate / 3),
    ):
        with pytest.raises(AssertionError):
            check_terms(twin)


# Classes and clusters.


def check_kmeans(function):
    """The cost of the best of all partitions, by enumeration."""
    assigned = function(ROWS, 3)
    cost = costs_of(np.eye(3)[assigned], np.ones(len(ROWS)))
    np.testing.assert_allclose(cost, least_cost(False), rtol=1e-6)


def test_clusters_of_codes_are_the_best_partition():
    check_kmeans(evaluation.kmeans_assignments)
    for twin in (
        lambda rows, c: (evaluation.kmeans_assignments(rows, c) + np.eye(8, dtype=int)[3]) % 3,
        lambda rows, c: evaluation.kmeans_assignments(rows[:, :1] * [[1, 0]], c),
    ):
        with pytest.raises(AssertionError):
            check_kmeans(twin)


def check_knn(probe):
    rng = np.random.default_rng(3)
    train, test = (rng.normal(size=(60, 3)) for _ in range(2))
    labels = [np.digitize(x[:, 0] + 0.5 * x[:, 1], [-0.5, 0.5]) for x in (train, test)]
    sides = train, labels[0], test, labels[1]
    for k in (1, 4, 60):
        assert probe(*sides, num_neighbours=k) == pytest.approx(by_hand(*sides, num_neighbours=k))


def test_the_probe_of_neighbours():
    check_knn(evaluation.knn_probe)

    def one_more(*sides, num_neighbours):
        return evaluation.knn_probe(*sides, num_neighbours=min(num_neighbours + 1, 60))

    def judged_on_train(codes, labels, *_, num_neighbours):
        return evaluation.knn_probe(codes, labels, codes, labels, num_neighbours=num_neighbours)

    for twin in (one_more, judged_on_train):
        with pytest.raises(AssertionError):
            check_knn(twin)


def labelled():
    model, xs = example()
    labels = (np.float64(xs) @ [1, 0.5, -1, 0.2] > 0).astype(int)
    return model, {"x": xs[:12], "label": labels[:12]}, {"x": xs[12:], "label": labels[12:]}


def check_probes(function):
    """scikit-learn's regression of standardised codes, and neighbours by hand, of exact means and of x."""
    _, train, test = labelled()
    found, means = function(*labelled()), exact_means()
    for codes, linear, knn in (
        ((means[:12], means[12:]), found.linear, found.knn),
        ((train["x"], test["x"]), found.linear_of_x, found.knn_of_x),
    ):
        a, b = np.float64(codes[0]), np.float64(codes[1])
        scaler = StandardScaler().fit(a)
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(a), train["label"])
        score = model.score(scaler.transform(b), test["label"])
        assert linear.accuracy == pytest.approx(score)
        assert knn == pytest.approx(by_hand(a, train["label"], b, test["label"], num_neighbours=3))


def test_probes_of_means_and_of_x():
    call = partial(evaluation.probes, num_neighbours=3)
    check_probes(call)

    def exchanged(model, train, test):
        found = call(model, train, test)
        return found._replace(linear=found.linear_of_x, knn=found.knn_of_x)

    for twin in (exchanged, lambda model, train, test: call(model, train, train)):
        with pytest.raises(AssertionError):
            check_probes(twin)


@cache
def classifier():
    model = moved(
        jv.models.ssvae(
            jax.random.key(0),
            (3,),
            num_classes=3,
            latent_dim=1,
            hidden=(4,),
            classifier_activation="tanh",
        ),
        1.0,
    )
    rng = np.random.default_rng(0)
    xs, labels = np.float32(rng.random((40, 3)) > 0.5), rng.integers(0, 3, 40)
    return model, xs, labels, np.stack([mlp(model.classifier, x) for x in xs])


def check_classification(function):
    """scikit-learn's confusion of the classifier in NumPy."""
    model, xs, labels, logits = classifier()
    found = function(model, xs, labels)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, logits.argmax(1)))
    right = logits.argmax(1) == labels
    np.testing.assert_allclose(found.accuracy, right.mean())
    np.testing.assert_allclose(found.standard_error, right.std() / np.sqrt(40))


def test_classification_is_scikit_learns():
    check_classification(evaluation.classification)

    def transposed(*args):
        found = evaluation.classification(*args)
        return found._replace(confusion=found.confusion.T)

    for twin in (
        transposed,
        lambda model, xs, labels: evaluation.classification(model, xs[::-1], labels),
    ):
        with pytest.raises(AssertionError):
            check_classification(twin)


def check_label_log_probs(function):
    model, xs, labels, logits = classifier()
    exact = special.log_softmax(logits, axis=1)[np.arange(40), labels]
    np.testing.assert_allclose(function(model, xs, jnp.asarray(labels)), exact, rtol=1e-4)


def test_log_probabilities_of_labels():
    check_label_log_probs(label_log_probs)
    for twin in (
        lambda model, xs, ys: jax.vmap(model.classifier)(xs)[jnp.arange(40), ys],
        lambda model, xs, ys: label_log_probs(model, xs, (ys + 1) % 3),
    ):
        with pytest.raises(AssertionError):
            check_label_log_probs(twin)


def check_information(function):
    """scikit-learn's mutual information of ten bins with each factor."""
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, k, 500) for k in (3, 4)], axis=1)
    codes = factors @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(500, 3))
    exact = np.zeros((3, 2))
    for d, f in np.ndindex(3, 2):
        edges = np.histogram_bin_edges(codes[:, d], 10)[1:-1]
        exact[d, f] = mutual_info_score(np.digitize(codes[:, d], edges), factors[:, f])
    np.testing.assert_allclose(function(codes, factors, num_bins=10), exact, atol=1e-10)


def test_information_of_codes_about_factors():
    check_information(evaluation.factor_information)
    for twin in (
        lambda *args, num_bins: evaluation.factor_information(*args, num_bins=num_bins + 1),
        lambda *args, num_bins: evaluation.factor_information(*args, num_bins=10) / np.log(2),
    ):
        with pytest.raises(AssertionError):
            check_information(twin)


def check_disentanglement(function):
    """The scores of NumPy's own posterior means, whatever the posterior variance."""
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, k, 300) for k in (3, 4)], axis=1)
    model = example()[0]
    xs = np.float32(factors @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(300, 4)))
    p = oracles.parameters(model)
    live = [0, 2]
    codes = (np.float64(xs) @ p.encoder.T + p.offset)[:, live]
    found = function(model, xs, factors)
    exact = [f(codes, factors) for f in (evaluation.mig, evaluation.sap)]
    assert [found.mig, found.sap] == pytest.approx(exact, abs=2e-2)


def test_scores_of_a_model_are_those_of_exact_means():
    check_disentanglement(evaluation.disentanglement)

    def of_x(model, xs, factors):
        return evaluation.Disentanglement(
            evaluation.mig(xs, factors), evaluation.sap(xs, factors), 0.0, 0.0, 0.0, 0.0
        )

    for twin in (of_x, lambda m, xs, f: evaluation.disentanglement(m, xs, f[::-1])):
        with pytest.raises(AssertionError):
            check_disentanglement(twin)


# What z is worth to a decoder.


class Copies:
    """z is x up to noise, and p(x|z) = N(2 z, 1)."""

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def posterior(self, x):
        return dist.Normal(x, 0.5).to_event(1)

    def likelihood(self, z):
        return dist.Normal(2 * z, 1.0).to_event(1)


def check_reliance(function):
    """`E log p(x|z) - E log p(x|z')` is the mean of `(x - 2 x')^2 - x^2`, over 2, and the rate is known."""
    xs = np.random.default_rng(0).normal(size=(300, 2))
    found = function(jax.random.key(0), Copies(), np.float32(xs))
    other = np.roll(xs, -1, axis=0)
    exact = np.sum((xs - 2 * other) ** 2 - xs**2, axis=1) / 2
    assert_mean(np.float64(found.drop) - exact, 0.0, rounding=1e-5, what="drop")
    rate = np.sum(xs**2 + 0.25 - 1, axis=1) / 2 - 2 * np.log(0.5)
    np.testing.assert_allclose(found.rate, rate, rtol=1e-4)
    np.testing.assert_allclose(found.mean_drop[0], exact.mean(), rtol=0.05)
    assert found.verdict == "used"


def test_what_the_decoder_makes_of_z():
    call = partial(evaluation.reliance_on_latents, num_samples=50)
    check_reliance(call)
    for twin in (
        lambda *args: call(*args)._replace(drop=-call(*args).drop),
        lambda *args: call(*args)._replace(verdict="ignored"),
        lambda key, model, xs: call(key, model, xs[::-1]),
    ):
        with pytest.raises(AssertionError):
            check_reliance(twin)
