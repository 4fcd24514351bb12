import json

import numpy as np
import pytest

from jaxvae import evaluation
from jaxvae.cli.main import main
from jaxvae.reports import write_report
from jaxvae.runs import TrainConfig
from jaxvae.runs.evaluate import evaluate, observed
from jaxvae.runs.studies import STUDIES, Settings, _column_mean, study, study_file
from jaxvae.runs.train import load_model, train
from jaxvae.runs.words import ROWS, TITLES, rows_of, sentences_of
from tests.reports.conftest import Page
from tests.support.refusals import refused

TINY = {"hidden": (32,), "latent_dim": 3, "total_steps": 60, "test_num_samples": 5}
SETTINGS = Settings(study_examples=6, study_samples=20, num_chains=3, num_temperatures=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(TrainConfig(**TINY), tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def loaded(run):
    parts, model, _ = load_model(run)
    return parts, model


@pytest.fixture(scope="module")
def records(loaded):
    return {name: study(name, *loaded, settings=SETTINGS) for name in STUDIES}


def test_every_study_has_a_title_and_words():
    assert set(STUDIES) == set(TITLES) == set(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_record_survives_json_and_becomes_rows(records, name):
    record = json.loads(json.dumps(records[name]))
    assert record["split"] == "test"
    assert record["seconds"] > 0
    rows = rows_of(record)
    assert rows == rows_of(records[name])
    assert len(rows) >= 3
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in rows)
    assert "nan" not in " ".join(value for _, value, _ in rows)


@pytest.mark.slow
def test_the_gaps_add_up(records):
    gaps = records["gaps"]
    for family in gaps["families"].values():
        parts = family["approximation"][0] + family["amortisation"][0]
        np.testing.assert_allclose(parts, gaps["total"][0], rtol=1e-6)
    assert gaps["log_evidence"][0] - gaps["encoder"][0] == pytest.approx(gaps["total"][0])


@pytest.mark.slow
def test_ais_is_beside_the_estimate_of_the_same_examples(records):
    ais = records["ais"]
    assert ais["examples"] == 6
    difference = ais["ais"][0] - ais["iwae"][0]
    assert ais["ais_minus_iwae"][0] == pytest.approx(difference, abs=1e-6)
    assert ais["gap"][0] == pytest.approx(ais["upper"][0] - ais["lower"][0], abs=1e-6)


@pytest.mark.slow
def test_structure_is_that_of_the_library(records, loaded):
    parts, model = loaded
    record = records["structure"]
    units = evaluation.active_units(model, observed(parts, "test"))
    assert record["active_units"] == units.count
    whole = record["mutual_information"][0] + record["marginal_kl"][0]
    assert whole == pytest.approx(record["rate"][0], abs=1e-4)
    assert sentences_of(record) == record["sentences"]
    assert sentences_of(records["gaps"]) == []


@pytest.mark.slow
def test_probes_know_labels_better_than_chance(records):
    probes = records["probes"]
    assert probes["linear"][0] > 0.2
    assert probes["linear_of_x"][0] > 0.8
    assert probes["clusters"] == 10


def means_of(parts, model, xs):
    """What `evaluate` says of all examples, without the errors of means, which a copy makes smaller."""
    said = evaluate(parts, model, split="test", num_samples=5, xs=xs)
    pairs = ("elbo", "distortion", "rate", "log_likelihood", "log_likelihood_minus_elbo")
    return [said[name][0] for name in pairs] + [said["ess"], said["active_units"]]


@pytest.mark.slow
def test_weights_of_a_run_are_copies_of_its_rows(loaded):
    parts, model = loaded
    xs = {name: np.asarray(rows[:6]) for name, rows in observed(parts, "test").items()}
    index, times = np.arange(6), np.array([1, 3, 1, 2, 1, 1])
    weighed = means_of(parts, model, xs | {"index": index, "weight": np.float32(times)})
    twice = {name: np.repeat(rows, times, axis=0) for name, rows in (xs | {"index": index}).items()}
    np.testing.assert_allclose(weighed, means_of(parts, model, twice), rtol=1e-5)
    assert abs(weighed[0] - means_of(parts, model, xs)[0]) > 0.01


def test_a_column_is_imputed_by_the_mean_of_what_was_observed_of_it():
    rng = np.random.default_rng(0)
    x, seen = rng.normal(size=(7, 4)).astype(np.float32), rng.random((7, 4)) < 0.6
    weight = rng.uniform(0.2, 2, 7).astype(np.float32)
    seen[:, 3] = False
    rows = {"x": x * seen, "mask": np.float32(seen), "weight": weight}
    expected = np.ma.average(np.ma.array(np.float64(x), mask=~seen), axis=0, weights=weight)
    np.testing.assert_allclose(_column_mean(rows, rows["x"]), expected.filled(0.0), rtol=1e-6)
    np.testing.assert_allclose(_column_mean({"x": x}, x), np.float64(x).mean(axis=0), rtol=1e-6)


@pytest.fixture(scope="module")
def of_reals(tmp_path_factory):
    """pPCA of five reals that two latents determine, up to a noise of standard deviation 0.3."""
    folder, rng = tmp_path_factory.mktemp("reals"), np.random.default_rng(0)
    x = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(600, 5))
    np.save(folder / "x.npy", x.astype(np.float32))
    config = TrainConfig(
        data=str(folder / "x.npy"),
        model="ppca",
        fit="em",
        latent_dim=2,
        total_steps=60,
        test_num_samples=5,
    )
    parts, model, _ = load_model(train(config, folder / "run"))
    return parts, model


@pytest.mark.slow
def test_imputation_gains_from_what_was_observed(of_reals):
    record = study("imputation", *of_reals, settings=Settings(missing=0.2, study_samples=200))
    assert abs(record["missing"] - 0.2) < 0.08
    assert record["mean_square_model"][0] < 0.3 * record["mean_square_column"][0]
    # No imputation can be better than the noise of the value that is hidden.
    assert record["mean_square_model"][0] > 0.5 * 0.3**2


@pytest.mark.slow
def test_gaps_take_the_exact_evidence_and_there_are_no_labels_to_probe(of_reals):
    assert study("gaps", *of_reals, settings=SETTINGS)["source"] == "exact"
    with refused("probes", "labels", "leave --probes out"):
        study("probes", *of_reals)


@pytest.mark.slow
def test_the_command_prints_writes_and_reports(run, capsys):
    sizes = "--study-examples 5 --study-samples 10 --num-samples 5".split()
    main(["evaluate", str(run.path), "--structure", "--gaps", *sizes])
    out = capsys.readouterr().out
    for name in ("structure", "gaps"):
        assert TITLES[name] in out
        assert run.read(study_file(name, "test", "best"))["study"] == name
    shown = Page(write_report(run).read_text())
    assert TITLES["gaps"] in shown.text
    assert "Amortisation, diagonal" in shown.text
    assert TITLES["probes"] not in shown.text
    assert "The ELBO around the best q of one example" in shown.alts
    assert "Rate of each latent, in two parts" in shown.alts


def test_what_a_study_cannot_use_is_refused(loaded):
    with refused("study", '"ais", "gaps"', "'other'"):
        study("other", *loaded)
    with refused("study_samples", "at least 1", "0"):
        study("gaps", *loaded, settings=Settings(study_samples=0))
    with refused("missing", "(0, 1)", "1.5"):
        study("imputation", *loaded, settings=Settings(missing=1.5))
    with refused("probes", "train", "--split test"):
        study("probes", *loaded, split="train")
