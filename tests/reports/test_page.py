import json
import math
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxvae.evaluation import ActiveUnits, dead_latents
from jaxvae.reports import page, write_report
from jaxvae.reports.numbers import headline
from tests.support.refusals import refusal

ALWAYS = ["Loss", "Rate and distortion", "Reconstructions", "Samples from the prior"]
LATENTS = ["Rate of each latent", "Posterior means", "Traversals"]
OF_IMAGES = ["Interpolations"]


@pytest.fixture(scope="session")
def shown(finished, read):
    return read(write_report(finished))


@pytest.fixture(scope="session")
def shown_reals(of_reals, read):
    return read(write_report(of_reals))


def plant(monkeypatch, dead):
    """Let the trained model ignore the data in these latents."""

    def planted(run, which):
        parts, model, step = real(run, which)
        return parts, Deaf(model, dead), step

    real = page.load_model
    monkeypatch.setattr(page, "load_model", planted)


@jax.tree_util.register_pytree_node_class
class Deaf:
    """A model whose posterior means of some latents are 0 whatever x is."""

    def __init__(self, model, dead):
        self.model, self.dead = model, tuple(dead)

    def tree_flatten(self):
        return (self.model,), self.dead

    @classmethod
    def tree_unflatten(cls, dead, children):
        return cls(*children, dead)

    def prior(self):
        return self.model.prior()

    def likelihood(self, z):
        return self.model.likelihood(z)

    def posterior(self, x):
        q = self.model.posterior(x)
        alive = np.ones(q.event_shape, np.float32)
        alive[list(self.dead)] = 0
        return type(self.model.prior())(type(q.base_dist)(q.mean * alive, q.base_dist.scale), 1)


def test_page_shows_the_numbers_of_results(finished, results, shown):
    numbers = results(finished)
    for name, title in (
        ("elbo", "ELBO"),
        ("distortion", "Distortion"),
        ("rate", "Rate"),
        ("log_likelihood", "log p(x), IWAE-5"),
        ("log_likelihood_minus_elbo", "Above the ELBO by"),
    ):
        value, error = numbers[name]
        assert f"{title} {value:.2f} ± {error:.2f} nats" in shown.text
    value, error = (each / (64 * math.log(2)) for each in numbers["log_likelihood"])
    assert f"Bits per dimension {-value:.3f} ± {error:.3f}" in shown.text
    assert "bits per binary dimension" in shown.text
    assert f"Active units {numbers['active_units']} of 3" in shown.text
    assert "Test split, 250 examples; binarisation: dynamic" in shown.text


def test_error_of_one_example_is_unknown(finished, results):
    numbers = {**results(finished), "elbo": [-1.0, math.nan]}
    rows = headline(numbers, event_shape=(8, 8), support="boolean")
    assert rows[0][1] == "-1.00 ± unknown nats"


def test_page_needs_nothing_else(finished, shown):
    html = finished.report_path.read_text()
    assert not {"script", "link", "iframe", "object"} & set(shown.tags)
    assert shown.links
    assert all(link.startswith("data:image/png;base64,") for link in shown.links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert 'name="viewport"' in html


def test_page_has_every_figure_with_a_caption(shown):
    assert shown.alts == ALWAYS + LATENTS + OF_IMAGES
    assert shown.tags.count("figcaption") == len(shown.alts)


def test_page_has_every_value_of_the_records(finished, shown):
    for name in ("config.json", "data.json", "environment.json"):
        for field in finished.read(name):
            assert f" {field} " in shown.text
    assert finished.read("data.json")["sha256"] in shown.text
    assert finished.read("environment.json")["versions"]["jax"] in shown.text


def test_strings_are_escaped(of_reals, shown_reals, copy, read):
    named = write_report(copy("<b>bold & 'quoted'"))
    assert "<b>" not in named.read_text()
    assert read(named).text.count("<b>bold & 'quoted'") == 2
    assert "<b>" not in of_reals.report_path.read_text()
    assert "x<b>.npy" in shown_reals.text


def test_dead_latent_is_named_and_only_then(finished, copy, read, monkeypatch, shown):
    assert "dead:" not in shown.text
    assert "Posterior collapse" not in shown.text
    plant(monkeypatch, [1])
    text = read(write_report(copy())).text
    assert "1 of 3 latents is dead: z[1]." in text
    assert "Posterior collapse" not in text


def test_collapse_is_said(copy, read, monkeypatch):
    plant(monkeypatch, [0, 1, 2])
    assert "Posterior collapse: All 3 latents are dead." in read(write_report(copy())).text


@pytest.mark.parametrize(
    ("active", "words"),
    [
        ([True, True], None),
        ([True, False, True, False], "2 of 4 latents are dead: z[1], z[3]."),
        ([False], "Posterior collapse: The only latent is dead."),
    ],
)
def test_warning_in_words(active, words):
    units = ActiveUnits(np.ones(len(active)), np.asarray(active), sum(active))
    said = dead_latents(units)
    assert said is None if words is None else said.startswith(words)


def test_reals_without_labels_or_validation(of_reals, shown_reals, results):
    assert shown_reals.alts == ALWAYS + LATENTS
    assert "density over reals" in shown_reals.text
    assert "no validation split" in shown_reals.text
    assert "coloured by label" not in shown_reals.text
    value = -results(of_reals)["log_likelihood"][0] / (5 * math.log(2))
    assert f"Bits per dimension {value:.3f} ±" in shown_reals.text


def test_run_stopped_before_its_first_evaluation_says_so(copy, read):
    run = copy("it stopped")
    (run.path / "results.json").unlink()
    run.metrics_path.unlink()
    shown = read(write_report(run))
    assert "no results.json: it was stopped" in shown.text
    assert f"jaxvae train --resume '{run.path}'" in shown.text
    assert "ELBO -" not in shown.text
    assert "No evaluation was written" in shown.text
    assert "Loss" not in shown.alts


def bare(record):
    """The record of an objective that returns a scalar."""
    losses = {split: {"loss": record[split]["loss"]} for split in ("train", "valid")}
    return {**record, **losses}


def test_page_follows_the_records_of_a_run(copy, read):
    run = copy()
    run.write("results.json", {**run.read("results.json"), "elbo": [-123.456, 7.891]})
    lines = [json.dumps(bare(record)) + "\n" for record in run.metrics()]
    run.write_text("metrics.jsonl", "".join(lines))
    shown = read(write_report(run))
    assert "ELBO -123.46 ± 7.89 nats" in shown.text
    assert shown.alts == [ALWAYS[0], *ALWAYS[2:], *LATENTS, *OF_IMAGES]


def test_last_checkpoint_says_which_numbers_these_are(copy, read):
    text = read(write_report(copy(), "last")).text
    assert "step 60 of 60 (last)" in text
    assert "numbers are of the best checkpoint, the figures of the last one" in text


def test_refusals_are_one_line(copy):
    run = copy()
    run.report_path.unlink(missing_ok=True)
    with refusal(match='which: expected "best" or "last", got 3'):
        write_report(run, 3)
    (run.path / "results.json").write_text("{")
    with refusal(match="damaged"):
        write_report(run)
    assert not run.report_path.exists()


def test_import_of_the_library_leaves_matplotlib_alone():
    code = "import sys, jaxvae; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reports_use_no_pyplot():
    code = "import sys, jaxvae.reports; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
