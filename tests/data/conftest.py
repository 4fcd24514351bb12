"""Where real data are, and a cache folder that is the tests' own."""

import os
from pathlib import Path

import pytest

import jaxvae.data
from tests.support.refusals import refusal


@pytest.fixture(scope="session")
def real_data() -> Path:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("JAXVAE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set JAXVAE_TEST_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """One cache for the session, so that MNIST is decoded once; never the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXVAE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def idx_mnist(real_data):
    return jaxvae.data.load(real_data / "mnist", valid_size=0)


@pytest.fixture(scope="session")
def tfds_mnist(real_data):
    return jaxvae.data.load("mnist", data_dir=real_data / "tfds", valid_size=0)


@pytest.fixture
def refused():
    """`refused(*words, **options)`: load must refuse in one line that holds every word."""

    def check(source, *words, **options) -> str:
        with refusal() as caught:
            jaxvae.data.load(source, **options)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message, message
        return message

    return check
