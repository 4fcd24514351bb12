"""Scores of disentanglement against closed forms, scikit-learn, and twins with a bug each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score, mutual_info_score

import jaxvae as jv
from jaxvae.evaluation import dci, factor_information, mig, modularity, sap
from tests.support import oracles
from tests.support.refusals import refused

GRID = np.array(list(np.ndindex(3, 4, 7, 7)))
"""Every combination of four factors, once: independent of each other exactly."""
RNG = np.random.default_rng(0)
NOISY = GRID + 0.6 * RNG.normal(size=GRID.shape)
MIXED = NOISY @ RNG.normal(size=(4, 6))
CASES = {"factors": GRID, "noisy": NOISY, "mixed": MIXED, "noise": RNG.normal(size=(588, 5))}


def binned(codes, num_bins=20):
    """Equal-width bins by NumPy's own histogram edges."""
    edges = [np.histogram_bin_edges(z, num_bins)[1:-1] for z in codes.T]
    return np.stack([np.digitize(z, e) for z, e in zip(codes.T, edges, strict=True)], axis=1)


def information(codes, factors, num_bins=20):
    """scikit-learn's mutual information, nats."""
    bins = binned(codes, num_bins)
    return np.array([[mutual_info_score(b, f) for f in factors.T] for b in bins.T])


def entropies(factors):
    return np.array([entropy(np.bincount(f)) for f in factors.T])


@pytest.mark.parametrize("name", CASES)
def test_information_is_scikit_learns(name):
    for num_bins in (20, 7):
        found = factor_information(CASES[name], GRID, num_bins=num_bins)
        # Codes on the edge of a bin may fall to either side of it.
        expected = information(CASES[name] + 1e-9, GRID, num_bins)
        np.testing.assert_allclose(found, expected, atol=1e-10)


def mean_gap(scores):
    ordered = np.sort(scores, axis=0)
    return ordered[-1] - ordered[-2]


def check_mig(score):
    """1 where each latent is one factor, 0 where two are told alike by two, scikit-learn's between."""
    assert score(GRID, GRID) == pytest.approx(1)
    assert score(GRID[:, [2, 0, 3, 1]] * [-1, 2, 3, 0.1], GRID) == pytest.approx(1)
    # Two factors of seven values, turned by 45 degrees: u and v tell as much of either.
    u, v = GRID[:, 2] + GRID[:, 3], GRID[:, 2] - GRID[:, 3]
    assert abs(score(np.stack([u, v], 1) + 0.01, GRID[:, 2:])) < 0.01
    for codes in (NOISY, MIXED):
        expected = np.mean(mean_gap(information(codes, GRID)) / entropies(GRID))
        assert score(codes, GRID) == pytest.approx(expected, abs=1e-9)


def mig_in_nats(codes, factors):
    return np.mean(mean_gap(factor_information(codes, factors)))


def mig_of_one_latent(codes, factors):
    return np.mean(factor_information(codes, factors).max(0) / entropies(factors))


def mig_over_factors(codes, factors):
    """The gap between the two factors that a latent tells most of."""
    found = factor_information(codes, factors)
    return np.mean(mean_gap(found.T) / entropies(factors).max())


def mig_to_the_worst(codes, factors):
    found = factor_information(codes, factors)
    return np.mean((found.max(0) - found.min(0)) / entropies(factors))


def test_mig():
    check_mig(mig)
    for twin in (mig_in_nats, mig_of_one_latent, mig_over_factors, mig_to_the_worst):
        with pytest.raises(AssertionError):
            check_mig(twin)


def best_guesses(codes, factors):
    """scikit-learn's balanced accuracy of the value that each bin is likeliest under."""
    accuracy = np.zeros((codes.shape[1], factors.shape[1]))
    for d, bins in enumerate(binned(codes).T):
        for f, factor in enumerate(factors.T):
            table = np.zeros((20, factor.max() + 1))
            np.add.at(table, (bins, factor), 1)
            guess = (table / table.sum(0)).argmax(1)[bins]
            accuracy[d, f] = balanced_accuracy_score(factor, guess)
    return accuracy


def check_sap(score):
    """1 - 1 / K for latents that are factors of K values; scikit-learn's accuracies between."""
    assert score(GRID, GRID) == pytest.approx(np.mean(1 - 1 / np.array([3, 4, 7, 7])))
    uneven = np.repeat(GRID, 1 + 3 * (GRID[:, 0] == 0), axis=0)  # one value four times as often
    noisy = uneven + 0.6 * np.random.default_rng(1).normal(size=uneven.shape)
    for codes, factors in ((NOISY, GRID), (MIXED, GRID), (noisy, uneven)):
        expected = np.mean(mean_gap(best_guesses(codes, factors)))
        assert score(codes, factors) == pytest.approx(expected, abs=1e-9)


def sap_of_frequent_values(codes, factors):
    """Accuracy that is not balanced: of the most frequent value of each bin."""
    gaps = []
    for f in factors.T:
        tables = [np.histogram2d(z, f, (20, f.max() + 1))[0] / len(f) for z in codes.T]
        gaps.append(mean_gap(np.array([[t.max(1).sum()] for t in tables])))
    return np.mean(gaps)


def test_sap():
    check_sap(sap)
    for twin in (sap_of_frequent_values, lambda c, f: np.mean(best_guesses(c, f).max(0)), mig):
        with pytest.raises(AssertionError):
            check_sap(twin)


def check_modularity(score):
    """1 for latents of one factor, though several share it; 0 for one of all alike; by hand between."""
    assert score(GRID, GRID) == pytest.approx(1)
    assert score(np.repeat(GRID, 2, axis=1), GRID) == pytest.approx(1)
    total = GRID[:, 2:].sum(1, keepdims=True)
    assert score(total, GRID[:, 2:]) == pytest.approx(0)
    # A dead latent beside a live one counts as 0.
    assert score(np.c_[GRID[:, :1], np.ones(len(GRID))], GRID) == pytest.approx(0.5)
    # Of two factors told with I = log 4 and log 3, modularity is 1 - (log 3 / log 4)^2.
    pair = GRID[:, :1] + 3 * GRID[:, 1:2]
    assert score(pair, GRID) == pytest.approx(1 - (np.log(3) / np.log(4)) ** 2 / 3)


def told_and_others(codes, factors):
    squares = factor_information(codes, factors) ** 2
    return squares.max(1), squares.sum(1) - squares.max(1)


def modularity_of_all_factors(codes, factors):
    """Divided by F in the place of F - 1."""
    best, others = told_and_others(codes, factors)
    return np.mean(np.where(best > 1e-9, 1 - others / np.maximum(best, 1e-9) / factors.shape[1], 0))


def modularity_without_squares(codes, factors):
    found = factor_information(codes, factors)
    others = (found.sum(1) - found.max(1)) / np.maximum(found.max(1), 1e-9)
    return np.mean(np.where(found.max(1) > 1e-9, 1 - others / (factors.shape[1] - 1), 0))


def modularity_of_the_dead(codes, factors):
    best, others = told_and_others(codes, factors)
    return np.mean(1 - others / np.maximum(best, 1e-9) / (factors.shape[1] - 1))


def completeness(codes, factors):
    return modularity(factors, binned(codes).astype(int))


def test_modularity():
    check_modularity(modularity)
    for twin in (
        modularity_of_all_factors,
        modularity_without_squares,
        modularity_of_the_dead,
        completeness,
    ):
        with pytest.raises((AssertionError, jv.InputError)):
            check_modularity(twin)


def check_dci(score):
    """Of importances that are known, and of those found, by scipy's entropies."""
    d, c, i, importance = score(GRID, GRID)
    assert (d, c, i) == pytest.approx((1, 1, 1))
    np.testing.assert_allclose(importance, np.eye(4), atol=1e-12)
    # One factor is told by two latents, half of it each: 3 of 4 latents matter for one factor each,
    # so nothing is entangled, but that factor is told by two of five latents.
    low, high = GRID[:, 3] % 2, GRID[:, 3] // 2
    split = score(np.c_[GRID[:, :3], low, high], GRID)
    assert split.disentanglement == pytest.approx(1)
    share = split.importance[3:, 3]
    assert split.completeness == pytest.approx(1 - entropy(share) / np.log(5) / 4)
    # Two factors in one latent.
    both = score(np.c_[GRID[:, 0] + 3 * GRID[:, 1], GRID[:, 2:]], GRID)
    assert both.completeness == pytest.approx(1)
    assert both.disentanglement == pytest.approx((2 * (1 - np.log(2) / np.log(4)) + 2) / 4)
    d, c, i, importance = score(MIXED, GRID)
    np.testing.assert_allclose(importance.sum(0), 1)
    each = 1 - entropy(importance, axis=1, base=4)
    assert d == pytest.approx(np.average(each, weights=importance.sum(1)))
    assert c == pytest.approx(np.mean(1 - entropy(importance, axis=0, base=6)))
    assert 0.4 < i < 0.9


def test_dci():
    check_dci(dci)


def entropy_in_nats(codes, factors):
    found = dci(codes, factors)
    mass = found.importance.sum(1)
    each = 1 - entropy(found.importance[mass > 0], axis=1)
    return found._replace(disentanglement=np.average(each, weights=mass[mass > 0]))


def exchanged(codes, factors):
    d, c, i, importance = dci(codes, factors)
    return type(dci(GRID, GRID))(c, d, i, importance)


def latents_count_alike(codes, factors):
    found = dci(codes, factors)
    rows = found.importance[found.importance.sum(1) > 0]
    return found._replace(disentanglement=np.mean(1 - entropy(rows, axis=1, base=4)))


@pytest.mark.parametrize("twin", [entropy_in_nats, exchanged, latents_count_alike])
def test_check_of_dci_rejects(twin):
    with pytest.raises(AssertionError):
        check_dci(twin)


def test_informativeness_is_of_examples_held_out():
    """Codes that have nothing to do with the factors predict them at chance, not from memory."""
    found = dci(RNG.normal(size=(588, 3)), GRID[:, 2:])
    # 147 held-out guesses at one in seven: five standard errors of a mean over two factors.
    assert abs(found.informativeness - 1 / 7) < 5 * np.sqrt(6 / 49 / 147 / 2)


def test_scores_of_a_model_are_those_of_its_means():
    model = oracles.linear_gaussian(2, event_size=4, latent_dim=3)
    xs = (NOISY - NOISY.mean(0)).astype(np.float32)
    found = jv.evaluation.disentanglement(model, xs, GRID, batch_size=100)
    codes = jv.evaluation.posterior_moments(model, xs).mean
    expected = (mig(codes, GRID), sap(codes, GRID), modularity(codes, GRID), *dci(codes, GRID)[:3])
    assert found == pytest.approx(expected)
    assert found == jv.evaluation.disentanglement(model, {"x": jnp.asarray(xs)}, GRID)
    assert 0 < found.mig < 1


def test_order_of_values_and_scale_of_latents_say_nothing():
    renamed = np.array([5, 0, 9, 2, 7, 1, 3])[GRID]
    for score in (mig, sap, modularity):
        assert score(NOISY * 100 + 3, renamed) == pytest.approx(score(NOISY, GRID))


CONSTANT = np.c_[GRID[:, :2], np.full(len(GRID), 7)]


@pytest.mark.parametrize("score", [mig, sap, modularity, dci, factor_information])
@pytest.mark.parametrize(
    ("codes", "factors", "words"),
    [
        (NOISY, GRID[:, 0], ("factors", "[588, F]", "(588,)")),
        (NOISY, GRID[:9], ("factors", "[588, F]", "(9, 4)")),
        (NOISY, GRID / 2, ("factors", "integers", "float64")),
        (NOISY, CONSTANT, ("factors", "two values", "got 7", "column 2")),
        (NOISY[:, 0], GRID, ("codes", "[N, D]", "(588,)")),
        (NOISY * np.nan, GRID, ("codes", "finite", "2,352")),
        (np.array(["a"] * 588)[:, None], GRID, ("codes", "real numbers")),
    ],
)
def test_bad_input(score, codes, factors, words):
    with refused(*words):
        score(codes, factors)


@pytest.mark.parametrize("score", [mig, sap, dci])
def test_one_latent_has_no_second(score):
    with refused("codes", "2 latents or more", "got 1"):
        score(NOISY[:, :1], GRID)


@pytest.mark.parametrize("score", [modularity, dci])
def test_one_factor_has_no_other(score):
    with refused("factors", "at least 2", "(588, 1)"):
        score(NOISY, GRID[:, :1])


def test_bad_bins():
    with refused("num_bins", "0"):
        mig(NOISY, GRID, num_bins=0)


def test_a_model_of_classes_needs_samples():
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,), posterior="planar")
    with refused("num_samples"):
        jv.evaluation.disentanglement(model, np.zeros((588, 4), np.float32), GRID)
