"""Probes and clusterings against hand values and scikit-learn, and twins with a bug each."""

import itertools
from math import comb

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import jaxvae as jv
from jaxvae.evaluation import clustering, kmeans_assignments, knn_probe, linear_probe, probes
from jaxvae.evaluation.probes import Probe
from tests.support import oracles
from tests.support.refusals import refused

RNG = np.random.default_rng(0)


def squares(size, seed):
    """Points around the corners of a square; opposite corners are of one class."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 2, (size, 2))
    return corner + 0.1 * rng.normal(size=(size, 2)), corner[:, 0] ^ corner[:, 1]


def two_bells(size, seed):
    """N(-1, 1) and N(1, 1), equally often, the second of another scale and without use."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, size)
    codes = np.stack([2 * label - 1 + rng.normal(size=size), 1e3 * rng.normal(size=size)], axis=1)
    return codes, label


def check_linear(probe):
    """The share of a bell on its own side of 0 is 0.8413; a square of opposite corners has no line."""
    found = probe(*two_bells(4_000, 1), *two_bells(40_000, 2))
    error = np.sqrt(0.8413 * 0.1587 / 40_000)
    assert found.standard_error == pytest.approx(error, rel=0.02)
    assert abs(found.accuracy - 0.8413) < 5 * error
    assert abs(probe(*squares(400, 1), *squares(4_000, 2)).accuracy - 0.5) < 0.25
    few = two_bells(6, 3)
    labels = RNG.integers(0, 2, 2_000)
    other = probe(*few, RNG.normal(size=(2_000, 2)), labels)
    assert abs(other.accuracy - 0.5) < 5 * np.sqrt(0.25 / 2_000)


def test_linear_probe():
    check_linear(linear_probe)


def judged_on_train(train_codes, train_labels, test_codes, test_labels):
    return linear_probe(train_codes, train_labels, train_codes, train_labels)


def spread_for_error(*sides):
    found = linear_probe(*sides)
    return found._replace(standard_error=np.sqrt(found.accuracy * (1 - found.accuracy)))


@pytest.mark.parametrize("twin", [judged_on_train, spread_for_error, knn_probe])
def test_check_of_linear_probe_rejects(twin):
    with pytest.raises(AssertionError):
        check_linear(twin)


def check_scales(probe):
    """Scale and offset of a latent say nothing."""
    (codes, label), (others, their) = two_bells(500, 1), two_bells(500, 2)
    moved = probe(codes * [3, 1e-7] + 7, label, others * [3, 1e-7] + 7, their)
    assert moved == pytest.approx(probe(codes * [1e-3, 1], label, others * [1e-3, 1], their))


def not_standardised(train_codes, train_labels, test_codes, test_labels):
    accuracy = LogisticRegression().fit(train_codes, train_labels).score(test_codes, test_labels)
    return Probe(accuracy, np.sqrt(accuracy * (1 - accuracy) / len(test_labels)))


def standardised_apart(train_codes, train_labels, test_codes, test_labels):
    apart = [(x - x[:9].mean(0)) / x[:9].std(0) for x in (train_codes, test_codes)]
    return not_standardised(apart[0], train_labels, apart[1], test_labels)


def test_linear_probe_does_not_see_scale_and_offset():
    check_scales(linear_probe)
    for twin in (not_standardised, knn_probe):
        with pytest.raises(AssertionError):
            check_scales(twin)
    with pytest.raises(AssertionError):
        check_linear(standardised_apart)


def by_hand(codes, labels, test_codes, test_labels, *, num_neighbours=5):
    """Neighbours one by one; of classes with as many votes the lowest."""
    right = []
    for code, label in zip(test_codes, test_labels, strict=True):
        nearest = np.argsort(((codes - code) ** 2).sum(1), kind="stable")[:num_neighbours]
        right.append(np.bincount(labels[nearest]).argmax() == label)
    accuracy = float(np.mean(right))
    return Probe(accuracy, np.sqrt(accuracy * (1 - accuracy) / len(right)))


@pytest.mark.parametrize("num_neighbours", [1, 4, 5, 60])
def test_knn_probe_is_the_one_by_hand(num_neighbours):
    rng = np.random.default_rng(3)
    train, test = (rng.normal(size=(60, 3)) for _ in range(2))
    label, their = (np.digitize(x[:, 0] + 0.5 * x[:, 1], [-0.5, 0.5]) for x in (train, test))
    found = knn_probe(train, label, test, their, num_neighbours=num_neighbours)
    assert found == pytest.approx(by_hand(train, label, test, their, num_neighbours=num_neighbours))
    fewer = knn_probe(train, label, test, their, num_neighbours=2)
    assert num_neighbours != 60 or found != fewer


def test_neighbours_see_what_no_line_does():
    assert knn_probe(*squares(400, 1), *squares(400, 2)).accuracy == 1


class Mixed:
    """q(z|x) = N(x / 2, 1): codes that hold x."""

    def prior(self):
        return jv.models.vae(jax.random.key(0), (64,), latent_dim=64, hidden=(2,)).prior()

    def posterior(self, x):
        import numpyro.distributions as dist

        return dist.Normal(x / 2, 1.0).to_event(1)

    def likelihood(self, z):
        raise AssertionError("a probe does not decode")


def test_probes_of_a_model_are_those_of_its_means_and_of_x():
    digits = load_digits()
    x, label = digits.data.astype(np.float32) / 16, digits.target
    train = {"x": x[:600], "label": label[:600]}
    test = {"x": x[600:900], "label": label[600:900]}
    found = probes(Mixed(), train, test)
    assert found.linear == found.linear_of_x  # standardised, x / 2 is x
    assert (
        found.knn == found.knn_of_x == knn_probe(x[:600], label[:600], x[600:900], label[600:900])
    )
    assert found.linear.accuracy > 0.85
    assert str(found).startswith(f"linear {found.linear.accuracy:.3f} +- ")
    model = oracles.linear_gaussian(2, event_size=64, latent_dim=3)
    narrow = probes(model, train, test, num_neighbours=3, batch_size=100)
    codes = [jv.evaluation.posterior_moments(model, part["x"]).mean for part in (train, test)]
    sides = codes[0], train["label"], codes[1], test["label"]
    assert narrow.linear == linear_probe(*sides)
    assert narrow.knn == knn_probe(*sides, num_neighbours=3)
    assert narrow.linear.accuracy < narrow.linear_of_x.accuracy


CLASSES = np.repeat(np.arange(3), [20, 30, 50])
CLUSTERS = np.where(RNG.random(100) < 0.3, RNG.integers(0, 5, 100), (CLASSES + 1) % 3)


def nmi_by_hand(table):
    p = table / table.sum()
    rows, columns = p.sum(1), p.sum(0)
    seen = p > 0
    information = np.sum(p[seen] * np.log(p[seen] / np.outer(rows, columns)[seen]))
    entropies = [-np.sum(m[m > 0] * np.log(m[m > 0])) for m in (rows, columns)]
    return information / np.mean(entropies)


def ari_by_hand(table):
    pairs = [
        sum(comb(int(n), 2) for n in part) for part in (table.ravel(), table.sum(0), table.sum(1))
    ]
    expected = pairs[1] * pairs[2] / comb(int(table.sum()), 2)
    return (pairs[0] - expected) / ((pairs[1] + pairs[2]) / 2 - expected)


def best_matching(table):
    """Every matching of classes with clusters, one by one."""
    ways = itertools.permutations(range(table.shape[1]), table.shape[0])
    return max(sum(table[np.arange(len(way)), way]) for way in ways) / table.sum()


def check_clustering(score):
    """By hand, from the table of classes and clusters; 1 for the classes under other names."""
    table = np.zeros((3, 5))
    np.add.at(table, (CLASSES, CLUSTERS), 1)
    assert score(CLUSTERS, CLASSES) == pytest.approx(
        (nmi_by_hand(table), ari_by_hand(table), best_matching(table))
    )
    assert score(7 - 2 * CLASSES, CLASSES) == pytest.approx((1, 1, 1))
    assert score(np.zeros(100, int), CLASSES) == pytest.approx((0, 0, 0.5))
    # A cluster for each example: all information, none by chance, three in a hundred matched.
    alone = score(np.arange(100), CLASSES)
    assert alone.ari == pytest.approx(0)
    assert alone.accuracy == 0.03


def unmatched(assignments, labels):
    return clustering(assignments, labels)._replace(accuracy=np.mean(assignments == labels))


def purity(assignments, labels):
    """Each cluster counts as its most frequent class, so several may be one."""
    best = [np.bincount(labels[assignments == c]).max() for c in np.unique(assignments)]
    return clustering(assignments, labels)._replace(accuracy=sum(best) / len(labels))


def nmi_over_the_lesser(assignments, labels):
    nmi = normalized_mutual_info_score(labels, assignments, average_method="min")
    return clustering(assignments, labels)._replace(nmi=nmi)


def unadjusted(assignments, labels):
    same = [x[:, None] == x[None] for x in (assignments, labels)]
    return clustering(assignments, labels)._replace(ari=np.mean(same[0] == same[1]))


def test_clustering():
    check_clustering(clustering)
    assert clustering(CLUSTERS, CLASSES).ari == adjusted_rand_score(CLASSES, CLUSTERS)
    for twin in (unmatched, purity, nmi_over_the_lesser, unadjusted):
        with pytest.raises(AssertionError):
            check_clustering(twin)


def test_kmeans_finds_groups_that_lie_apart():
    centres = 20 * RNG.normal(size=(3, 4))
    codes = centres[CLASSES] + RNG.normal(size=(100, 4))
    found = kmeans_assignments(codes, 3)
    assert clustering(found, CLASSES) == pytest.approx((1, 1, 1))
    np.testing.assert_array_equal(found, kmeans_assignments(codes, 3))


def test_the_components_of_a_mixture_are_a_clustering():
    model = jv.models.gaussian_mixture(jax.random.key(0), (2,), num_components=3)
    xs = RNG.normal(size=(40, 2)).astype(np.float32)
    component = jv.evaluation.posterior_moments(model, xs).mean.argmax(1)
    assert clustering(component, component) == pytest.approx((1, 1, 1))


CODES, LABELS = RNG.normal(size=(9, 2)), np.arange(9) % 3


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ((CODES, LABELS * 0 + 4, CODES, LABELS), ("train_labels", "two classes", "got 4")),
        ((CODES, LABELS[:5], CODES, LABELS), ("train_labels", "(9,)", "(5,)")),
        ((CODES, LABELS, CODES, LABELS / 1), ("test_labels", "integers", "float64")),
        ((CODES, LABELS, CODES[:, :1], LABELS), ("test_codes", "2 latents", "got 1")),
        ((CODES[:, 0], LABELS, CODES, LABELS), ("train_codes", "[N, D]", "(9,)")),
        ((CODES, LABELS, CODES * np.inf, LABELS), ("test_codes", "finite", "18")),
        ((CODES, LABELS, CODES[:0], LABELS[:0]), ("test_codes", "(0, 2)")),
    ],
)
def test_bad_input(probe, sides, words):
    with refused(*words):
        probe(*sides)


def test_other_bad_input():
    with refused("num_neighbours", "at most 9", "got 10"):
        knn_probe(CODES, LABELS, CODES, LABELS, num_neighbours=10)
    with refused("num_neighbours", "0"):
        knn_probe(CODES, LABELS, CODES, LABELS, num_neighbours=0)
    x = np.zeros((3, 4), np.float32)
    labelled = {"x": x, "label": np.arange(3)}
    with refused("train", "label", "without labels"):
        probes(oracles.linear_gaussian(), {"x": x}, labelled)
    with refused("test", "label", "without labels"):
        probes(oracles.linear_gaussian(), labelled, x)
    with refused("assignments", "(9,)", "(3,)"):
        clustering([0, 1, 2], LABELS)
    with refused("labels", "integers"):
        clustering(LABELS, LABELS / 2)
    with refused("labels", "none"):
        clustering([], [])
    with refused("num_clusters", "at most 9", "got 10"):
        kmeans_assignments(CODES, 10)
    with refused("num_starts", "0"):
        kmeans_assignments(CODES, 2, num_starts=0)
