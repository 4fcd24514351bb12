import io

import numpy as np
import pytest

from jaxvae.evaluation.contour import Contour
from jaxvae.reports import figures
from tests.support.refusals import refusal


def bowl(half, coordinates=(2, 5)):
    """`elbo = best_elbo - first^2 - 4 (second - 1)^2`, of which the path ends at the top."""
    first, second = np.linspace(-half, half, 41), 1 + np.linspace(-half, half, 41)
    elbo = -100 - first[None, :] ** 2 - 4 * (second[:, None] - 1) ** 2
    path = np.stack([np.linspace(-0.8 * half, 0, 9), np.linspace(1.5, 1, 9)], axis=1)
    return Contour(coordinates, first, second, elbo, path, np.array([0.1, 1.2]), -101.5, -100.0)


@pytest.fixture(scope="module")
def figure():
    return figures.elbo_contours([bowl(4.0), bowl(1.0)])


def line(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def check_lines(axes, surface):
    """Each line lies at its level: `first^2 + 4 (second - 1)^2` is the number it stands for."""
    lines = axes.collections[1]
    drawn = 0
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        if len(path.vertices):
            below = path.vertices[:, 0] ** 2 + 4 * (path.vertices[:, 1] - 1) ** 2
            # Straight between the points of the grid.
            np.testing.assert_allclose(
                below, level, atol=5 * (surface.first[1] - surface.first[0]) ** 2
            )
            drawn += 1
    assert drawn >= 3


def test_lines_are_at_their_levels(figure):
    surfaces = [bowl(4.0), bowl(1.0)]
    for axes, surface in zip(figure.axes, surfaces, strict=False):
        check_lines(axes, surface)
    turned = bowl(4.0)._replace(elbo=bowl(4.0).elbo.T)
    with pytest.raises(AssertionError):
        check_lines(figures.elbo_contours([turned]).axes[0], turned)


def test_marks_are_where_they_belong(figure):
    axes, surface = figure.axes[0], bowl(4.0)
    np.testing.assert_array_equal(line(axes, "optimisation of q").get_xydata(), surface.path)
    np.testing.assert_array_equal(line(axes, "its start").get_xydata()[0], surface.path[0])
    np.testing.assert_array_equal(line(axes, "where it ends").get_xydata()[0], surface.path[-1])
    np.testing.assert_array_equal(line(axes, "encoder").get_xydata()[0], surface.encoder)
    assert axes.get_xlabel() == "mean of z[2]"
    assert axes.get_ylabel() == "mean of z[5]"
    assert axes.get_title(loc="left") == "ELBO -100.0 nats, encoder 1.5 below"
    assert len(figure.legends[0].get_texts()) == 4


def test_a_frame_shows_where_the_next_map_lies(figure):
    (frame,) = figure.axes[0].patches
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (-1, 0, 2, 2)
    assert not figures.elbo_contours([bowl(1.0), bowl(4.0)]).axes[0].patches


def test_another_hill_counts_as_the_highest():
    surface = bowl(4.0)._replace(best_elbo=-103.0)
    check_lines(figures.elbo_contours([surface]).axes[0], surface)


def test_it_can_be_saved_with_titles():
    figure = figures.elbo_contours([bowl(2.0)], ["a title"])
    assert figure.axes[0].get_title(loc="left") == "a title"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.tell() > 10_000


def test_what_cannot_be_drawn_is_refused():
    with refusal(match="surfaces: expected at least one"):
        figures.elbo_contours([])
    with refusal(match="titles: expected 1"):
        figures.elbo_contours([bowl(1.0)], ["a", "b"])
