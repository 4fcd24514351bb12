"""Figures of the latents: a scatter plot of posterior means, and the rate of each latent."""

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxvae.reports.style import BLUE, CLASSES, FAINT, SEQUENTIAL, frame
from jaxvae.types import InputError

MOST_LABELLED_BARS = 40


def latent_scatter(
    means: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"] | None = None,
    *,
    most: int = 2000,
) -> Figure:
    """Draw posterior means on the two most active latents, coloured by label if given.

    With a single latent, draw a histogram.

    Args:
        means: E_q[z|x] of every example, [N, D].
        labels: class of every example, [N].
        most: the largest number of points drawn (the first examples); the variances use all examples.

    Returns:
        The figure.

    Raises:
        InputError: the shapes do not fit.
    """
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or 0 in means.shape:
        raise InputError(f"means: expected [N, D] with N, D >= 1, got shape {means.shape}")
    if labels is not None and np.shape(labels) != means.shape[:1]:
        raise InputError(f"labels: expected shape {means.shape[:1]}, got {np.shape(labels)}")
    labels = None if labels is None else np.asarray(labels)
    variance = means.var(axis=0, ddof=1 if len(means) > 1 else 0)
    if means.shape[1] == 1:
        return _histogram(means[:, 0], variance[0], labels)
    first, second = most_active(variance)[:2]
    figure, axes = frame(4.8)
    shown = None if labels is None else labels[:most]
    _points(axes, means[:most, first], means[:most, second], shown)
    axes.set_xlabel(_axis_label(first, variance))
    axes.set_ylabel(_axis_label(second, variance))
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def kl_bars(
    kl_per_latent: Float[np.ndarray, "D"], active: Bool[np.ndarray, "D"] | None = None
) -> Figure:
    """Draw the rate of every latent, largest first, inactive ones in grey.

    Args:
        kl_per_latent: mean KL(q(z_d|x) || p(z_d)) over examples, [D], nats.
        active: which latents are active, [D]; all of them if not given.

    Returns:
        The figure.

    Raises:
        InputError: the shapes do not fit.
    """
    kl = np.asarray(kl_per_latent, np.float64)
    active = np.ones(kl.shape, bool) if active is None else np.asarray(active, bool)
    if kl.ndim != 1 or not len(kl) or active.shape != kl.shape:
        raise InputError(
            f"kl_per_latent: expected [D] and active like it, got {kl.shape} and {active.shape}"
        )
    order = most_active(kl)
    figure, axes = frame(3.2)
    colours = [BLUE if active[d] else FAINT for d in order]
    axes.bar(np.arange(len(kl)), kl[order], color=colours, width=0.8)
    if len(kl) <= MOST_LABELLED_BARS:
        axes.set_xticks(np.arange(len(kl)), [str(d) for d in order])
        axes.tick_params(axis="x", length=0, labelsize=10 if len(kl) <= 20 else 7)
    else:
        axes.set_xticks([])
    axes.set_xlabel("latent d, by KL")
    axes.set_ylabel("KL(q(z[d]|x) || p(z[d])) (nats)")
    axes.set_title(
        f"{active.sum()} of {len(kl)} latents active; {kl.sum():.2f} nats in all",
        loc="left", fontsize=11,
    )  # fmt: skip
    kinds = [("active", BLUE, active.any()), ("dead", FAINT, not active.all())]
    handles = [Patch(color=colour, label=name) for name, colour, there in kinds if there]
    axes.legend(handles=handles, frameon=False, loc="upper right")
    return figure


def most_active(variance: Float[np.ndarray, "D"]) -> Int[np.ndarray, "D"]:
    """Sort latents by decreasing variance; ties keep their order, NaN is last."""
    return np.argsort(-np.nan_to_num(variance, nan=-np.inf), kind="stable")


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, labels: np.ndarray | None) -> None:
    style = {"s": 14 if len(x) <= 1000 else 6, "lw": 0, "alpha": 0.85}
    classes = [] if labels is None else np.unique(labels)
    if labels is None:
        axes.scatter(x, y, color=BLUE, **style)
    elif len(classes) <= len(CLASSES):
        for label, colour in zip(classes, CLASSES, strict=False):
            chosen = labels == label
            axes.scatter(x[chosen], y[chosen], color=colour, label=str(label), **style)
        axes.legend(
            title="label", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5),
            markerscale=1.8 if len(x) <= 1000 else 3, handletextpad=0.1,
        )  # fmt: skip
    else:
        points = axes.scatter(x, y, c=labels, cmap=SEQUENTIAL, **style)
        axes.figure.colorbar(points, ax=axes, label="label", pad=0.02)


def _histogram(z: np.ndarray, variance: float, labels: np.ndarray | None) -> Figure:
    figure, axes = frame()
    classes = np.zeros(1) if labels is None else np.unique(labels)
    if labels is None or len(classes) > len(CLASSES):
        axes.hist(z, bins=40, color=BLUE)
    else:
        groups = [z[labels == label] for label in classes]
        names = [str(label) for label in classes]
        axes.hist(groups, bins=40, stacked=True, color=CLASSES[: len(classes)], label=names)
        axes.legend(title="label", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel(_axis_label(0, np.asarray([variance])))
    axes.set_ylabel("examples")
    return figure


def _axis_label(d: int | np.integer, variance: np.ndarray) -> str:
    return f"posterior mean of z[{d}] (variance {variance[d]:.2g})"
