"""The rendered shapes: their factors are what the pictures show; `factors` follow their rows."""

import jax
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import jaxvae as jv
from jaxvae.batching import unpack
from jaxvae.cli.main import main
from jaxvae.data import describe, load
from jaxvae.data.shapes import LEVELS, SIZE, SPRITE, STEP, render, sprite
from jaxvae.runs import TrainConfig
from jaxvae.runs.config import build
from jaxvae.training.feeds import batch_rows
from jaxvae.training.loop import observe_batch
from tests.support.refusals import refusal

SCALES = (0.55, 0.7, 0.85, 1.0)


@pytest.fixture(scope="module")
def rendered():
    return render()


@pytest.fixture(scope="module")
def shapes():
    return load("shapes")


def test_no_two_pictures_are_alike(rendered):
    pictures, factors = rendered
    assert pictures.shape == (6144, SIZE, SIZE)
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == 6144
    assert len(np.unique(factors, axis=0)) == 6144
    assert factors.max(axis=0).tolist() == [2, 3, 7, 7, 7]


def test_a_quarter_turn_would_be_the_same_square():
    np.testing.assert_array_equal(sprite(0, 0.7, 0), sprite(0, 0.7, 90))
    assert (sprite(1, 0.7, 0) != sprite(1, 0.7, 90)).any()


def check_areas(pictures, factors):
    """Each is the area of its shape, which a cut at the edge would lessen, to 1 %.

    Squares that stand on an edge or a corner, to 4 %: a whole edge lies between the same points.
    """
    found = pictures.sum((1, 2)) / LEVELS
    unit = (SPRITE / 2 * np.array(SCALES)[factors[:, 1]]) ** 2
    areas = np.array([(4 / 3) ** 2, 0.45 * np.pi, heart_area() / 1.3**2])
    aligned = (factors[:, 0] == 0) & (factors[:, 2] % 4 == 0)
    error = abs(found / (areas[factors[:, 0]] * unit) - 1)
    assert (error < np.where(aligned, 0.04, 0.01)).all()


def test_areas(rendered):
    pictures, factors = rendered
    check_areas(pictures, factors)
    for twin in (np.roll(pictures, 512, 0), pictures[:, :-2], pictures // LEVELS * LEVELS):
        with pytest.raises(AssertionError):
            check_areas(twin, factors)


def heart_area():
    def radius(t):
        def on_curve(r):
            return (r * r - 1) ** 3 - (r * np.cos(t)) ** 2 * (r * np.sin(t)) ** 3

        return brentq(on_curve, 0.5, 2)

    # At the top and the tip the curve has corners.
    halves = [
        quad(lambda t: radius(t) ** 2, *ends, epsabs=1e-6)[0]
        for ends in ((-np.pi / 2, 0), (0, np.pi / 2))
    ]
    return sum(halves)


def check_positions(pictures, factors):
    """The centre of mass is where x and y say, to a tenth of a pixel."""
    mass = pictures / pictures.sum((1, 2), keepdims=True)
    at = np.arange(SIZE) + 0.5
    centre = np.stack([mass.sum(1) @ at, mass.sum(2) @ at], axis=1)
    np.testing.assert_allclose(centre, SPRITE / 2 + STEP * factors[:, 3:], atol=0.1)


def test_positions(rendered):
    pictures, factors = rendered
    check_positions(pictures, factors)
    for twin in (pictures.transpose(0, 2, 1), pictures[:, ::-1], np.roll(pictures, 1, 0)):
        with pytest.raises(AssertionError):
            check_positions(twin, factors)


def check_orientations(turned):
    """The long axis of an ellipse lies at the angle of its orientation, to half a degree."""
    at = np.arange(SPRITE) + 0.5 - SPRITE / 2
    right, up = np.meshgrid(at, -at)
    for turn in range(8):
        picture = turned(turn).astype(float)
        moments = [(picture * product).sum() for product in (right**2, up**2, right * up)]
        angle = np.degrees(np.arctan2(2 * moments[2], moments[0] - moments[1]) / 2)
        assert angle == pytest.approx(11.25 * turn, abs=0.5)


def test_orientations(rendered):
    pictures = rendered[0].reshape(3, 4, 8, 8, 8, SIZE, SIZE)
    check_orientations(lambda turn: pictures[1, 3, turn, 0, 0, :SPRITE, :SPRITE])
    for twin in (np.fliplr, np.transpose):
        with pytest.raises(AssertionError):
            check_orientations(lambda turn, twin=twin: twin(sprite(1, 1.0, 11.25 * turn)))


def test_it_is_a_data_set_with_factors(shapes, rendered):
    sizes = {split: len(arrays["x"]) for split, arrays in shapes.splits.items()}
    assert sizes == {"train": 5120, "valid": 512, "test": 512}
    assert (shapes.scale, shapes.num_classes, shapes.event_shape) == (64, 3, (32, 32))
    assert shapes.support_name == "unit_interval"
    assert "not dSprites" in shapes.source
    pictures, _ = rendered
    for arrays in shapes.splits.values():
        assert arrays["factors"].dtype == np.int32
        np.testing.assert_array_equal(arrays["label"], arrays["factors"][:, 0])
        rows = np.ravel_multi_index(arrays["factors"].T, (3, 4, 8, 8, 8))
        np.testing.assert_array_equal(arrays["x"], pictures[rows])
    assert "factors      5, of 3, 4, 8, 8, 8 values" in describe(shapes)
    assert load("shapes").fingerprint == shapes.fingerprint


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_as_bits(binarize, shapes):
    key = jax.random.key(0)
    bits = load("shapes", binarize=binarize, key=key if binarize == "static" else None)
    assert bits.support_name == "boolean"
    np.testing.assert_array_equal(bits.splits["test"]["factors"], shapes.splits["test"]["factors"])
    shown = np.asarray(bits.observe(key, bits.splits["test"]["x"][0]))
    assert set(np.unique(shown)) == {0, 1}


def test_models_are_not_shown_the_factors(shapes):
    assert set(batch_rows(shapes, "train")) == {"x", "label"}
    assert set(observe_batch(jax.random.key(0), shapes, "test")) == {"x", "label"}
    with refusal(match="factors"):
        unpack(dict(shapes.splits["test"]))


@pytest.mark.slow
def test_a_model_is_trained_on_them(capsys):
    main(["data", "shapes"])
    assert "factors" in capsys.readouterr().out
    parts = build(TrainConfig(data="shapes", latent_dim=2, hidden=(4,), total_steps=2))
    state = jv.training.init(jax.random.key(0), parts.model, parts.optimizer)
    _, (record, *_) = jv.training.fit(
        state,
        parts.step,
        parts.dataset,
        batch_size=8,
        total_steps=2,
        validation=parts.objective,
    )
    assert np.isfinite(record["valid"]["loss"])


X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
FACTORS = np.stack([np.arange(40), np.arange(40) % 4], axis=1)


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return tmp_path / "a.npz"

    return save


def check_rows(data, x, factors):
    for arrays in data.splits.values():
        for row, own in zip(arrays["x"], arrays["factors"], strict=True):
            assert (x[own[0]] == row).all()
            assert (factors[own[0]] == own).all()


def test_files_may_bring_factors(save):
    data = load(save(x=X, factors=FACTORS))
    check_rows(data, X, FACTORS)
    with pytest.raises(AssertionError):
        check_rows(data, X[::-1], FACTORS)
    split = load(save(x_train=X, factors_train=FACTORS, x_test=X[:7]))
    assert set(split.splits["test"]) == {"x"}
    assert set(split.splits["valid"]) == {"x", "factors"}
    counts = load(save(counts=np.arange(120).reshape(40, 3), factors=FACTORS))
    assert counts.splits["test"]["factors"].shape == (4, 2)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"factors": FACTORS[:, 0]}, ("[N, F]", "(40,)")),
        ({"factors": FACTORS[:39]}, ("40 examples", "(39, 2)")),
        ({"factors": FACTORS[:, :0]}, ("one column or more", "(40, 0)")),
        ({"factors": FACTORS / 2}, ("integers", "float64")),
        ({"factors": FACTORS > 1}, ("integers", "bool")),
        ({"factors": FACTORS - 1}, ("from 0 up", "-1")),
        ({"factors": FACTORS + 2**40}, ("from 0 up",)),
        (
            {"x_train": X, "factors_train": FACTORS, "x_test": X, "factors_test": FACTORS[:, :1]},
            ("as many in all splits", "train 2", "test 1"),
        ),
    ],
)
def test_bad_factors(save, refused, arrays, words):
    path = save(**({} if "x_train" in arrays else {"x": X}), **arrays)
    refused(path, str(path), "factors", *words)
