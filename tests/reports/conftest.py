"""Tiny runs to report on, trained once a session."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxvae.runs import RunFolder, TrainConfig
from jaxvae.runs.train import train

TINY = {"hidden": (32,), "latent_dim": 3, "total_steps": 60, "test_num_samples": 5}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run on the digits; tests that change something take a copy."""
    return train(TrainConfig(**TINY), tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture
def copy(finished, tmp_path):
    """`copy(name)`: the finished run again, in a folder of this name."""

    def make(name: str = "copy") -> RunFolder:
        return RunFolder.open(shutil.copytree(finished.path, tmp_path / name))

    return make


@pytest.fixture(scope="session")
def of_reals(tmp_path_factory):
    """A run on five reals without labels, with no validation split."""
    folder = tmp_path_factory.mktemp("reals")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(200, 5))
    np.save(folder / "x<b>.npy", x.astype(np.float32))
    config = TrainConfig(
        **{**TINY, "batch_size": 32, "valid_size": 0},
        data=str(folder / "x<b>.npy"),
        likelihood="gaussian",
    )
    return train(config, folder / "reals")


@pytest.fixture
def results():
    """`results(run)`: what its results.json holds."""
    return lambda run: json.loads((run.path / "results.json").read_text())


class Page(HTMLParser):
    """What a page shows; fails where its tags don't balance."""

    VOID = frozenset({"meta", "img", "br", "hr", "link"})

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.links, self.alts, self.strings = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.strings).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.links += [values[name] for name in ("src", "href", "srcset") if name in values]
        if tag == "img":
            self.alts.append(values["alt"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.strings.append(data)


@pytest.fixture(scope="session")
def read():
    """`read(path)`: the page as a reader sees it."""
    return lambda path: Page(path.read_text())
