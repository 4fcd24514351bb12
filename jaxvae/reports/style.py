"""Colours, sizes and the plain frame that figures share; without pyplot, so without global state."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
WIDTH = 6.4  # inches; text stays readable when a phone shrinks the figure to its screen
IMAGE_WIDTH = 8.1  # inches; pictures have little text, so they may fill the whole column

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#c4c4c4"
BLUE, ORANGE = "#0072B2", "#D55E00"  # from Okabe and Ito's colour-blind-safe palette
SEQUENTIAL = "viridis"
CLASSES = (  # Tol's "muted" palette and a grey: ten classes, distinct for the colour-blind
    "#332288", "#CC6677", "#117733", "#DDAA33", "#88CCEE",
    "#882255", "#44AA99", "#999933", "#AA4499", "#777777",
)  # fmt: skip


def frame(height: float = 3.6, *, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Create a figure with one plain axes.

    Args:
        height: inches.
        width: inches.

    Returns:
        The figure and its axes.
    """
    figure = Figure((width, height), dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    bare(axes)
    return figure, axes


def bare(axes: Axes) -> None:
    """Keep only the left and bottom spines, in a muted colour."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(color=MUTED, labelcolor=INK)
