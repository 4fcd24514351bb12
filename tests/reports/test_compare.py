import json
import shutil

import jax
import numpy as np
import pytest

from jaxvae import evaluation
from jaxvae.cli.main import main
from jaxvae.reports import compare as page
from jaxvae.runs import RunFolder, TrainConfig
from jaxvae.runs.compare import compare
from jaxvae.runs.evaluate import evaluate, observed
from jaxvae.runs.train import load_model, train
from tests.reports.conftest import TINY
from tests.support.refusals import refused

SAMPLES = 7


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of another seed and more training, so other weights and other draws of the bits."""
    config = TrainConfig(**{**TINY, "total_steps": 120}, seed=1)
    return train(config, tmp_path_factory.mktemp("more") / "other")


@pytest.fixture(scope="module")
def compared(finished, other):
    return compare([finished, other], num_samples=SAMPLES)


@pytest.mark.slow
def test_differences_are_those_of_the_same_examples(finished, other, compared):
    parts, first, _ = load_model(finished)
    _, second, _ = load_model(other)
    xs, (*_, key) = observed(parts, "test"), parts.config.keys()
    each = [
        evaluation.log_likelihood(key, model, xs, num_samples=SAMPLES).estimate
        for model in (first, second)
    ]
    difference = np.float64(each[1]) - np.float64(each[0])
    mean, error = compared[1].minus(compared[0])["log_likelihood"]
    np.testing.assert_allclose(mean, difference.mean(), rtol=1e-5)
    np.testing.assert_allclose(error, difference.std(ddof=1) / np.sqrt(len(difference)), rtol=1e-5)
    # A twin that pairs each run's own draws of the bits would say something else.
    own = evaluate(load_model(other)[0], second, split="test", num_samples=SAMPLES)
    assert abs(own["log_likelihood"][0] - compared[1].results["log_likelihood"][0]) > 1e-3


def test_the_first_run_is_evaluated_as_by_itself(finished, compared):
    parts, model, step = load_model(finished)
    assert compared[0].step == step
    assert compared[0].results == evaluate(parts, model, split="test", num_samples=SAMPLES)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(model)]
    assert compared[0].num_parameters == sum(sizes)


def test_pairing_takes_away_what_examples_share(compared):
    _, paired = compared[1].minus(compared[0])["elbo"]
    _, alone = compared[1].results["elbo"]
    assert paired < 0.75 * alone


def test_order_turns_the_sign(compared):
    there, back = compared[1].minus(compared[0]), compared[0].minus(compared[1])
    for name in there:
        np.testing.assert_allclose(there[name], (-back[name][0], back[name][1]), rtol=1e-6)


def test_the_page_and_the_table_say_the_same(compared, tmp_path, read):
    shown = read(page.write_comparison(compared, tmp_path / "c.html"))
    for cells in (*page.table_rows(compared), *page.difference_rows(compared)):
        for cell in cells:
            assert cell in shown.text
    assert set(shown.alts) == {"Difference of log p(x)", "Rate and distortion"}
    record = json.loads((tmp_path / "c.json").read_text())
    assert [run["name"] for run in record] == ["digits", "other"]
    assert record[0]["minus_first"]["elbo"][0] == 0


def test_the_command_prints_it(finished, other, tmp_path, capsys):
    output = tmp_path / "page.html"
    runs = [str(finished.path), str(other.path)]
    main(["compare", *runs, "--num-samples", str(SAMPLES), "--output", str(output)])
    out = capsys.readouterr().out
    assert "other" in out
    assert "than digits, by" in out
    assert output.is_file()


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(finished, of_reals, tmp_path):
    with refused("runs", "two run folders or more", "got 1"):
        compare([finished])
    with refused("runs", "twice"):
        compare([finished, RunFolder.open(finished.path)])
    with refused("runs", "same data", "cannot be compared"):
        compare([finished, of_reals])
    with refused("split", "'valid'"):
        compare([of_reals, copy_of(of_reals, tmp_path)], split="valid")


def copy_of(run, folder):
    return RunFolder.open(shutil.copytree(run.path, folder / "again"))
