"""Laws of batches, for every model x objective x estimator that is not refused: counts in CONTRIBUTING.md.

Slow: all of one model of each kind, and of all models with `JAXVAE_LAWS=all`. Fast: a sample,
and for each law a twin that its check rejects.
"""

import inspect
from functools import partial

import jax
import pytest

import jaxvae as jv
from tests.support import combinations, law_twins, laws
from tests.support.combinations import MODELS, allowed, asked
from tests.support.slow import one_of_each_kind, slow_but

SAMPLE = {
    "conditional_vae": (
        "elbo, analytic; pathwise",
        "iwae; dreg",
        "iwae; vimco",
    ),
    "vae of posterior bernoulli": (
        "elbo, analytic; disarm",
        "elbo, entropy; gumbel_softmax",
        "iwae; rws",
    ),
    "vae": (
        "importance_weighted, renyi; pathwise",
        "multiply_iwae; dreg",
        "partially_iwae",
        "autonomous_encoder",
    ),
    "ssvae": ("semi_supervised",),
}
"""What the fast suite takes: each estimator's kind, a label, classes, bits."""

OF_BOTH = ("pathwise", "enumerate", "score"), ("dreg", "vimco", "score")
"""Which estimators of an ELBO and of `iwae` are computed alone and in float64: the first that is allowed."""


def every_law(name, chosen):
    program = laws.Program(MODELS[name], {n: asked(name)[n] for n in chosen})
    for law in laws.LAWS:
        law(program)
    return program


def of_each_kind(name):
    """An ELBO and an importance-weighted bound of a model, by name."""
    for forms, estimators in zip((("elbo",), ("iwae",)), OF_BOTH, strict=True):
        found = [
            n
            for gradient in estimators
            for n in allowed(name)
            if n.startswith(forms) and n.endswith(f"; {gradient}")
        ]
        yield from found[:1]


@pytest.mark.parametrize("name", slow_but(SAMPLE, "vae", "ssvae"))
def test_a_sample_keeps_the_laws(name):
    every_law(name, SAMPLE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind(MODELS))
def test_all_combinations_keep_the_laws(name):
    program = every_law(name, allowed(name))
    chosen = {n: asked(name)[n] for n in of_each_kind(name)}
    assert chosen
    check_alone(program, chosen)


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind(MODELS))
def test_the_table_of_combinations_is_true(name):
    assert combinations.find(name) == combinations.table()[name], (
        "run python -m tests.support.combinations --write"
    )


def check_alone(program, chosen):
    expected = {name: terms for name, terms in program.of_row(1).items() if name in chosen}
    laws.require_same("a row alone, in float64", laws.alone(program, chosen), expected)


def test_a_row_alone_in_chunks_and_in_float64_is_that_of_the_batch():
    chosen = {n: asked("ppca")[n] for n in of_each_kind("ppca")}
    assert set(chosen) == {"elbo, analytic; pathwise", "iwae; dreg"}
    check_alone(laws.Program(MODELS["ppca"], chosen), chosen)


# The twins.

ELBO = {"elbo": partial(jv.elbo, num_samples=2)}


@pytest.mark.parametrize(
    ("bug", "law"),
    [
        ("weights are left out", laws.mean_of_rows),
        ("weights are left out", laws.absence_by_weight),
        ("masks are left out", laws.absence_by_mask),
        ("weights are squared", laws.duplicates),
        ("absent rows count 0 times", laws.absence_by_weight),
        ("absent rows count 0 times", laws.mean_of_rows),
        ("keys by place", laws.permutation),
        ("keys by place", laws.neighbours),
        ("x is centred by its batch", laws.neighbours),
    ],
)
def test_laws_reject(bug, law, broken):
    with pytest.raises(AssertionError):
        law(broken(bug))


@pytest.fixture(scope="module")
def broken():
    """The program of the ELBO with a bug, made once."""
    made = {}

    def make(bug):
        if bug not in made:
            step = law_twins.STEPS[bug]
            made[bug] = laws.Program(MODELS["ppca"], ELBO, make_step=step)
        return made[bug]

    return make


def test_law_of_values_rejects_an_estimator_that_changes_the_value():
    objectives = {
        "iwae; pathwise": partial(jv.iwae, num_samples=3),
        "iwae; own": law_twins.of_its_own_value,
    }
    with pytest.raises(AssertionError, match="does not change the value"):
        laws.values_of_estimators(laws.Program(MODELS["ppca"], objectives))


def test_law_of_one_row_alone_rejects():
    program = laws.Program(MODELS["ppca"], law_twins.ALONE)
    found, batched = laws.alone(program, law_twins.ALONE), program.of_row(1)
    for name in law_twins.ALONE:
        with pytest.raises(AssertionError):
            laws.require_same(name, {name: found[name]}, {name: batched[name]})


# The table.


def test_every_public_objective_is_in_the_table():
    def takes(function, *names):
        return (
            inspect.isfunction(function)
            and tuple(inspect.signature(function).parameters)[: len(names)] == names
        )

    objectives = {n for n in jv.__all__ if takes(getattr(jv, n), "key", "model", "x")}
    assert objectives == {"elbo", "iwae", *(n.split(",")[0] for n in combinations.OTHERS)} | {
        "partially_iwae"
    }
    bounds = {n for n, f in vars(jv.bounds).items() if n[0] != "_" and takes(f, "log_w")}
    assert bounds == {*combinations.BOUNDS, "multiply_iwae"}
    coupled = {
        n for n in jv.coupled.__all__ if takes(getattr(jv.coupled, n), "keys", "model", "xs")
    }
    assert coupled == {n.split(",")[0] for n in combinations.COUPLED}
    wrappers = {n for n, f in vars(jv.autonomous).items() if takes(f, "objective", "encoder_loss")}
    assert wrappers == set(combinations.WITHOUT_CHOICE) & wrappers
    (labelled,) = [
        n
        for n, f in vars(jv.semi_supervised).items()
        if n[0] != "_" and takes(f, "key", "model", "x")
    ]
    assert labelled in combinations.WITHOUT_CHOICE


def test_the_counts_in_contributing_are_those_of_the_table():
    found = combinations.PLACE.search(combinations.SENTENCE.read_text())
    assert found, "CONTRIBUTING.md has no place for the counts"
    assert found[2] == combinations.counts(), "run python -m tests.support.combinations --write"


@pytest.mark.parametrize("name", SAMPLE)
def test_the_sample_is_in_the_table(name):
    assert set(SAMPLE[name]) <= set(combinations.table()[name])


def test_every_model_is_in_the_table():
    assert list(combinations.table()) == list(MODELS)
    assert jax.random.key_impl(jax.random.key(0, impl=laws.SAME_NOISE)) == laws.SAME_NOISE
