"""Intervals of importance-weighted estimates hold the exact log p(x), whatever divides what."""

from functools import cache

import jax
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.testing import draw_examples
from tests.support import oracles

REPEATS = 200
GRID = [(7, 3, 29, 8), (5, 2, 101, 7), (7, 4, 101, 100), (3, 7, 53, 64)]
"""N, batch, K, chunk, of which none divides another."""


@cache
def case(name):
    """A model with a q near the posterior, 7 examples, and their exact log p(x)."""
    if name == "linear-Gaussian":
        model = oracles.with_exact_posterior(oracles.linear_gaussian(), widen=1.2)
        xs = oracles.draw_x(model, 0, 7)
        return model, xs, oracles.log_evidence(model, xs)
    make = {"mixture": jv.testing.gaussian_mixture, "enumerable": jv.testing.discrete}[name]
    model = make()
    xs = np.asarray(draw_examples(jax.random.key(0), model, 7))
    return model, xs, np.array([float(model.log_evidence(x)) for x in xs], np.float64)


def coverage(name, sizes, *, spread=1.0, shift=0.0):
    """The share of 95 % intervals, over repetitions and examples, that hold the exact value."""
    num_examples, batch_size, num_samples, chunk_size = sizes
    model, xs, exact = case(name)
    options = {"num_samples": num_samples, "chunk_size": chunk_size, "batch_size": batch_size}
    results = [
        jv.evaluation.log_likelihood(jax.random.key(seed), model, xs[:num_examples], **options)
        for seed in range(REPEATS)
    ]
    estimate, error = np.stack([[r.estimate, r.standard_error] for r in results], axis=1)
    assert estimate.shape == (REPEATS, num_examples)
    held = np.abs(estimate + shift - exact[:num_examples]) <= 1.96 * spread * error + 2e-5
    return held.mean()


MODELS = ("linear-Gaussian", "mixture", "enumerable")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_intervals_of_the_first_sizes_hold_the_exact_value(name):
    assert 0.90 <= coverage(name, GRID[0]) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("sizes", GRID[1:], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_intervals_hold_the_exact_value(name, sizes):
    assert 0.90 <= coverage(name, sizes) <= 0.99


def test_the_check_rejects_other_errors_and_samples_counted_but_left_out():
    left_out = np.log(24 / 29)  # the last chunk of 8 is not full
    for wrong in ({"spread": 0.6}, {"spread": 1.6}, {"shift": left_out}):
        assert not 0.90 <= coverage("linear-Gaussian", GRID[0], **wrong) <= 0.99
