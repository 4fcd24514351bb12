"""Rate and information figures: the rate-distortion curve over beta, and the two parts of each latent's rate."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxvae.evaluation import RateDistortion
from jaxvae.reports.curves import equal_elbo_lines
from jaxvae.reports.latents import MOST_LABELLED_BARS, most_active
from jaxvae.reports.style import BLUE, FAINT, INK, ORANGE, frame
from jaxvae.types import InputError


def rate_distortion_frontier(curve: RateDistortion) -> Figure:
    """Draw distortion against rate of models trained at several betas, with lines of equal ELBO.

    Each point is labelled by its beta, with error bars of two standard errors over examples; a model
    is orange if another one has a better objective at its beta.

    Args:
        curve: from `jaxvae.evaluation.rate_distortion_curve`.

    Returns:
        The figure.
    """
    figure, axes = frame(4.8)
    axes.plot(curve.rate, curve.distortion, "-o", color=BLUE, lw=1.2, ms=5, zorder=3)
    bars = {"fmt": "none", "ecolor": BLUE, "elinewidth": 1, "zorder": 2}
    axes.errorbar(
        curve.rate, curve.distortion, 2 * curve.distortion_error, 2 * curve.rate_error, **bars
    )
    behind = curve.beaten
    if behind.any():
        marker = {"color": ORANGE, "ms": 7, "zorder": 4, "label": "beaten at its own beta"}
        axes.plot(curve.rate[behind], curve.distortion[behind], "s", **marker)
        axes.legend(frameon=False, loc="upper right")
    for beta, rate, distortion in zip(curve.beta, curve.rate, curve.distortion, strict=True):
        axes.annotate(
            f"{beta:g}", (rate, distortion), (6, 6), textcoords="offset points", color=INK, zorder=5
        )
    axes.margins(0.1)
    axes.autoscale_view()
    equal_elbo_lines(axes)
    axes.set_xlabel("rate (nats)")
    axes.set_ylabel("distortion (nats)")
    axes.set_title("one model a point, labelled by its beta", loc="left", fontsize=11)
    return figure


def information_bars(information: Float[ArrayLike, "D"], marginal: Float[ArrayLike, "D"]) -> Figure:
    """Draw the two parts of every latent's rate, largest first: mutual information and marginal KL.

    Args:
        information: I(x; z_d), from `jaxvae.evaluation.elbo_surgery` if prior and posterior factorise
            over latents, [D], nats.
        marginal: KL(q(z_d) || p(z_d)), [D], nats.

    Returns:
        The figure.

    Raises:
        InputError: they are not vectors of one length.
    """
    information, marginal = np.asarray(information), np.asarray(marginal)
    if information.shape != marginal.shape or information.ndim != 1:
        raise InputError(
            "marginal: expected numbers of as many latents as information, [D], got "
            f"{marginal.shape} and {information.shape}"
        )
    order = most_active(information + marginal)
    places, told = np.arange(len(order)), information[order]
    figure, axes = frame(3.2)
    axes.bar(places, told, color=BLUE, width=0.8, label="I(x; z[d])")
    axes.bar(
        places, marginal[order], bottom=told, color=FAINT, width=0.8,
        label="KL(q(z[d]) || p(z[d]))",
    )  # fmt: skip
    if len(order) <= MOST_LABELLED_BARS:
        axes.set_xticks(places, [str(d) for d in order])
        axes.tick_params(axis="x", length=0, labelsize=10 if len(order) <= 20 else 7)
    else:
        axes.set_xticks([])
    axes.set_xlabel("latent d, by rate")
    axes.set_ylabel("rate (nats)")
    axes.legend(frameon=False, loc="upper right")
    return figure
