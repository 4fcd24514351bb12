import io
from statistics import NormalDist

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.reports import figures
from jaxvae.reports.images import picture
from jaxvae.reports.style import BLUE, DPI, FAINT
from jaxvae.reports.traversals import manifold_axis
from tests.support.refusals import refusal


def records(losses, *, valid=True):
    """Lines of metrics with these losses, of which a fifth is rate."""

    def of(loss):
        return {"loss": loss, "bound": -loss, "distortion": 0.8 * loss, "rate": 0.2 * loss}

    return [
        {
            "step": 10 * (i + 1),
            "train": of(loss),
            **({"valid": of(loss + 1)} if valid else {}),
            "steps_per_s": 5.0,
            "time": 0.0,
        }
        for i, loss in enumerate(losses)
    ]


def pixels(figure):
    """The figure as it is drawn, 0 to 1."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    buffer.seek(0)
    return matplotlib.image.imread(buffer, format="png")[..., :3]


def image_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


@pytest.fixture(scope="module")
def model():
    return jv.models.vae(jax.random.key(0), (5, 4), latent_dim=2, hidden=(8,))


@pytest.fixture(scope="module")
def of_reals():
    return jv.models.vae(jax.random.key(0), (6,), latent_dim=3, hidden=(8,), likelihood="gaussian")


@pytest.fixture(scope="module")
def bits():
    return jax.random.bernoulli(jax.random.key(1), 0.4, (7, 5, 4)).astype(jnp.float32)


def test_loss_curves_are_the_records():
    figure = figures.loss_curves(records([9.0, 7.0, 6.0]))
    train, valid = figure.axes[0].lines
    np.testing.assert_allclose(train.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(train.get_ydata(), [9, 7, 6])
    np.testing.assert_allclose(valid.get_ydata(), [10, 8, 7])
    assert figure.axes[0].get_ylabel() == "loss (nats per example)"


def test_loss_curve_without_validation():
    assert len(figures.loss_curves(records([2.0, 1.0], valid=False)).axes[0].lines) == 1


def test_far_first_points_do_not_flatten_the_rest():
    losses = [1e6, *np.linspace(30, 20, 19)]
    axes = figures.loss_curves(records(losses)).axes[0]
    bottom, top = axes.get_ylim()
    assert bottom < 20
    assert 30 < top < 50
    assert "2 points, up to 1,000,001.0 nats at step 10" in axes.get_title(loc="right")


def test_late_rise_stays_in_the_frame():
    axes = figures.loss_curves(records([*np.linspace(30, 20, 19), 500.0])).axes[0]
    assert axes.get_ylim()[1] > 500


@pytest.mark.parametrize("losses", [[5.0], [5.0, 5.0], [np.nan, np.nan], [3.0, np.inf, np.nan]])
def test_odd_losses_are_drawn(losses):
    for draw in (figures.loss_curves, figures.rate_distortion):
        pixels(draw(records(losses)))


def test_rate_distortion_is_the_path_of_training():
    losses = np.linspace(40, 20, 12)
    figure = figures.rate_distortion(records(losses))
    axes = figure.axes[0]
    path = axes.collections[0]
    np.testing.assert_allclose(path.get_offsets(), np.stack([0.2 * losses, 0.8 * losses], 1))
    np.testing.assert_allclose(path.get_array(), 10 * np.arange(1, 13))
    last = next(line for line in axes.lines if line.get_marker() == "D")
    np.testing.assert_allclose([*last.get_xdata(), *last.get_ydata()], [0.2 * 21, 0.8 * 21])


def test_dashed_lines_are_of_equal_elbo():
    axes = figures.rate_distortion(records(np.linspace(40, 20, 12))).axes[0]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    sums = [line.get_xdata() + line.get_ydata() for line in dashed]
    assert len(dashed) >= 3
    for total in sums:
        np.testing.assert_allclose(total, total[0])
    labelled = [text for text in axes.texts if text.get_text().startswith("ELBO")]
    assert len(labelled) >= 2
    for text in labelled:
        x, y = text.get_position()
        assert float(text.get_text().removeprefix("ELBO ")) == pytest.approx(-(x + y))
        assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_curves_refuse_what_they_cannot_draw():
    with refusal(match="at least one line"):
        figures.loss_curves([])
    bare = [{"step": 1, "train": {"loss": 1.0}}]
    figures.loss_curves(bare)
    with refusal(match="expected rate and distortion under train, got loss"):
        figures.rate_distortion(bare)


def test_grid_tiles_are_the_images(rng):
    x = rng.random((5, 6, 4)).astype(np.float32)
    drawn = image_of(figures.example_grid(x, columns=3))
    assert drawn.shape == (6 * 2 + 1, 4 * 3 + 2)
    for i in range(5):
        top, left = i // 3 * 7, i % 3 * 5
        np.testing.assert_array_equal(drawn[top : top + 6, left : left + 4], x[i])
    np.testing.assert_array_equal(drawn[7:, 10:], 1)


def test_grid_of_real_values_uses_their_range(rng):
    x = rng.normal(size=(4, 3, 3)).astype(np.float32)
    drawn = image_of(figures.example_grid(x))
    assert drawn[:3, :3].ravel() == pytest.approx((x[0].ravel() - x.min()) / np.ptp(x), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8, 1), (4, 8, 8, 3), (2, 1, 3)])
def test_grid_takes_grey_and_colour(shape, rng):
    assert pixels(figures.example_grid(rng.random(shape))).shape[2] == 3


@pytest.mark.parametrize("shape", [(6, 5), (1, 1), (4, 3, 3, 2)])
def test_grid_of_what_is_no_image_is_a_heat_map(shape, rng):
    x = rng.normal(size=shape).astype(np.float32)
    figure = figures.example_grid(x)
    np.testing.assert_array_equal(image_of(figure), x.reshape(len(x), -1))
    pixels(figure)


def test_pictures_are_crisp(rng):
    small = rng.integers(0, 2, (10, 14)).astype(np.float32)
    figure, _ = picture(small, tile=7, left=0.55, bottom=0.5)
    drawn = pixels(figure)[..., 0]
    left, bottom = round(0.55 * DPI), round(0.5 * DPI)
    scale = (drawn.shape[1] - left) // 14
    np.testing.assert_array_equal(drawn[:-bottom, left:], np.kron(small, np.ones((scale, scale))))


def test_reconstructions_pair_x_with_its_mean(bits):
    x = np.asarray(jnp.tile(bits, (2, 1, 1)))
    mean = 0.5 * x
    drawn = image_of(figures.reconstructions(x, mean))
    for i in range(14):
        top, left = i // 12 * 14, i % 12 * 5
        np.testing.assert_array_equal(drawn[top : top + 5, left : left + 4], x[i])
        np.testing.assert_array_equal(drawn[top + 6 : top + 11, left : left + 4], mean[i])


def test_reconstructions_of_vectors_are_dots_and_lines(rng):
    x = rng.normal(size=(5, 6)).astype(np.float32)
    figure = figures.reconstructions(x, -x)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 5
    for axes, row in zip(panels, x, strict=True):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        np.testing.assert_array_equal(lines["x"], row)
        np.testing.assert_array_equal(lines["mean of p(x|z)"], -row)
    pixels(figure)


def test_reconstructions_refuse_other_shapes(rng):
    with refusal(match="mean: expected the shape of x"):
        figures.reconstructions(rng.random((2, 3, 3)), rng.random((2, 3, 4)))
    with refusal(match="x: expected"):
        figures.reconstructions(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)))


def test_manifold_tiles_are_the_models_means(model):
    drawn = image_of(figures.latent_manifold(model, size=4))
    assert drawn.shape == (20, 16)
    z = [NormalDist().inv_cdf((i + 0.5) / 4) for i in range(4)]
    for row in range(4):
        for column in range(4):
            at = jnp.asarray([z[column], z[3 - row]], jnp.float32)
            tile = drawn[5 * row : 5 * row + 5, 4 * column : 4 * column + 4]
            np.testing.assert_allclose(tile, model.likelihood(at).mean, atol=1e-6)


def test_manifold_axis_is_even_in_probability():
    probability = [NormalDist().cdf(float(z)) for z in manifold_axis(5)]
    np.testing.assert_allclose(probability, [0.1, 0.3, 0.5, 0.7, 0.9], atol=1e-6)


def test_manifold_refuses_other_models(of_reals):
    with refusal(match="use latent_traversals"):
        figures.latent_manifold(of_reals)
    flat = jv.models.vae(jax.random.key(0), (6,), latent_dim=2, hidden=(8,))
    with refusal(match="images"):
        figures.latent_manifold(flat)


def test_traversal_tiles_are_the_models_means(model, bits):
    figure = figures.latent_traversals(model, bits, steps=3)
    drawn, units = image_of(figure), jv.evaluation.active_units(model, bits)
    order = np.argsort(-units.variance)
    centre = np.asarray(model.posterior(bits[0]).mean)
    for row, d in enumerate(order):
        for column, value in enumerate([-3.0, 0.0, 3.0]):
            z = centre.copy()
            z[d] = value
            tile = drawn[6 * row : 6 * row + 5, 5 * column : 5 * column + 4]
            np.testing.assert_allclose(tile, model.likelihood(jnp.asarray(z)).mean, atol=1e-6)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == [f"z[{d}]  var {units.variance[d]:.2g}" for d in order]


def test_traversals_of_vectors_are_lines(of_reals, rng):
    xs = jnp.asarray(rng.normal(size=(9, 6)), jnp.float32)
    figure = figures.latent_traversals(of_reals, xs, steps=5)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [len(axes.lines) for axes in panels] == [5, 5, 5]
    d = int(np.argmax(jv.evaluation.active_units(of_reals, xs).variance))
    z = of_reals.posterior(xs[0]).mean.at[d].set(-3.0)
    np.testing.assert_allclose(
        panels[0].lines[0].get_ydata(), of_reals.likelihood(z).mean, atol=1e-6
    )
    pixels(figure)


def test_traversals_show_at_most_eight():
    model = jv.models.vae(jax.random.key(0), (4, 4), latent_dim=11, hidden=(8,))
    xs = jax.random.bernoulli(jax.random.key(1), 0.5, (6, 4, 4)).astype(jnp.float32)
    assert len(figures.latent_traversals(model, xs).axes[0].get_yticks()) == 8


def test_scatter_shows_the_two_most_active_latents(rng):
    means = rng.normal(size=(60, 4)) * [0.1, 3, 0.5, 2]
    axes = figures.latent_scatter(means).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), means[:, [1, 3]])
    assert axes.get_xlabel().startswith("posterior mean of z[1]")
    assert axes.get_ylabel().startswith("posterior mean of z[3]")


def test_scatter_colours_by_label(rng):
    means, labels = rng.normal(size=(60, 2)), np.arange(60) % 3
    axes = figures.latent_scatter(means, labels, most=30).axes[0]
    assert [group.get_label() for group in axes.collections] == ["0", "1", "2"]
    assert [len(group.get_offsets()) for group in axes.collections] == [10, 10, 10]
    assert len({tuple(group.get_facecolor()[0]) for group in axes.collections}) == 3


@pytest.mark.parametrize("classes", [None, 3, 40])
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_scatter_takes_any_labels_and_one_latent(classes, latent_dim, rng):
    labels = None if classes is None else np.arange(80) % classes
    pixels(figures.latent_scatter(rng.normal(size=(80, latent_dim)), labels))


def test_scatter_refuses_other_shapes():
    with refusal(match="labels"):
        figures.latent_scatter(np.ones((3, 2)), np.ones(4))
    with refusal(match="means"):
        figures.latent_scatter(np.ones(3))


def test_bars_are_the_sorted_kl():
    kl, active = np.asarray([0.5, 0.01, 2.0, 0.02]), np.asarray([True, False, True, False])
    axes = figures.kl_bars(kl, active).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2.0, 0.5, 0.02, 0.01]
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [BLUE.lower()] * 2 + [FAINT.lower()] * 2
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "0", "3", "1"]
    assert axes.get_title(loc="left").startswith("2 of 4 latents active; 2.53 nats")


def test_bars_take_many_latents_and_refuse_other_shapes():
    pixels(figures.kl_bars(np.full(500, 0.1)))
    with refusal(match="kl_per_latent"):
        figures.kl_bars(np.ones(3), np.ones(2, bool))


def test_prior_samples_repeat_and_extend(model):
    few, more = (figures.prior_samples(model, num=num, seed=3) for num in (4, 9))
    assert few.shape == (4, 5, 4)
    assert few.dtype == np.float32
    np.testing.assert_allclose(few, more[:4], atol=1e-6)
    assert not np.allclose(few, figures.prior_samples(model, num=4, seed=4))
    assert not np.allclose(few[0], few[1])
    z = model.prior().sample(jax.random.fold_in(jax.random.key(3), 2))
    np.testing.assert_allclose(few[2], model.likelihood(z).mean, atol=1e-6)


@pytest.mark.parametrize(("num", "seed"), [(0, 0), (1, -1), (1, 2**32)])
def test_prior_samples_refuse(model, num, seed):
    with refusal(match=r"num|seed"):
        figures.prior_samples(model, num=num, seed=seed)


def test_reconstruction_means_are_at_the_posterior_mean(model, bits):
    means = figures.reconstruction_means(model, bits)
    assert means.shape == bits.shape
    for x, mean in zip(bits, means, strict=True):
        z = model.posterior(x).mean
        np.testing.assert_allclose(mean, model.likelihood(z).mean, atol=1e-6)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
