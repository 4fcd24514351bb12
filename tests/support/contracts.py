"""A tiny instance of every model of the library, with suitable examples and objectives."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxvae as jv
from jaxvae.batching import unpack


class Contract(NamedTuple):
    """A model, a batch of three examples for it, and the kinds of rate and gradient that its latents allow."""

    make: Callable[[], Any]
    batch: dict[str, Any]
    kl: str = "analytic"
    path: bool = True
    """True if z is reparameterised; if not, `elbo` uses enumeration, `iwae` uses VIMCO, and there is no `dreg`."""

    def objectives(self) -> dict[str, Any]:
        """Return the objectives that the model must support."""
        if self.path:
            return {
                "elbo": partial(jv.elbo, kl=self.kl, num_samples=2),
                "iwae": partial(jv.iwae, num_samples=3),
                "dreg": partial(jv.iwae, num_samples=3, gradient="dreg"),
            }
        return {
            "elbo": partial(jv.elbo, kl=self.kl, num_samples=2, gradient="enumerate"),
            "iwae": partial(jv.iwae, num_samples=3, gradient="vimco"),
        }


def _bits(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).random((3, *shape)) < 0.5).astype(np.float32)


def _reals(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)


def _counts(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, high, size=(3, *shape)).astype(np.float32)


def _make(name: str, event_shape: tuple[int, ...], **options: Any) -> Callable[[], Any]:
    return lambda: getattr(jv.models, name)(jax.random.key(3), event_shape, **options)


SMALL = {"latent_dim": 2, "hidden": (5,)}
X, IMAGES = {"x": _bits(6)}, {"x": _bits(6, 5)}
LAYERS = {"layer_dims": (3, 2), "hidden": (5,), "upper_hidden": (4,)}

CONTRACTS = {
    "vae": Contract(_make("vae", (6,), **SMALL), X),
    "vae of one variance": Contract(
        _make("vae", (6,), **SMALL, likelihood="gaussian"), {"x": _reals(6)}
    ),
    "vae of a variance each": Contract(
        _make("vae", (6,), **SMALL, likelihood="gaussian_per_value"), {"x": _reals(6)}
    ),
    "vae, gated": Contract(_make("vae", (6,), **SMALL, network="gated"), X),
    "vae, residual": Contract(
        _make("vae", (6,), latent_dim=2, hidden=(5, 5), network="residual"), X
    ),
    "beta_vae": Contract(_make("beta_vae", (6,), **SMALL), X),
    "conv_vae": Contract(
        _make("conv_vae", (6, 5), latent_dim=2, channels=(2, 3), activation="tanh"), IMAGES
    ),
    "conditional_vae": Contract(
        _make("conditional_vae", (6,), num_classes=3, **SMALL),
        X | {"label": np.array([2, 0, 1], np.int32)},
    ),
    "gmvae": Contract(_make("gmvae", (6,), **SMALL, num_components=3), X, kl="monte_carlo"),
    "vampprior": Contract(
        _make("vampprior", (6,), **SMALL, num_pseudo_inputs=3), X, kl="monte_carlo"
    ),
    "flow_prior_vae": Contract(
        _make("flow_prior_vae", (6,), **SMALL, num_flows=2), X, kl="monte_carlo"
    ),
    "ssvae": Contract(_make("ssvae", (6,), num_classes=3, **SMALL), X, path=False),
    "ppca": Contract(_make("ppca", (6,), latent_dim=2), {"x": _reals(6)}),
    "factor_analysis": Contract(_make("factor_analysis", (6,), latent_dim=2), {"x": _reals(6)}),
    "ica": Contract(_make("ica", (6,), latent_dim=2), {"x": _reals(6)}),
    "gaussian_mixture": Contract(
        _make("gaussian_mixture", (4,), num_components=3), {"x": _reals(4)}, path=False
    ),
    "hierarchical": Contract(_make("hierarchical", (6,), **LAYERS), X, kl="monte_carlo"),
    "ladder": Contract(_make("ladder", (6,), **LAYERS), X, kl="monte_carlo"),
    "autoregressive, made": Contract(_make("autoregressive", (6,), **SMALL), X),
    "autoregressive, recurrent": Contract(
        _make("autoregressive", (6,), **SMALL, decoder="recurrent"), X
    ),
    "autoregressive, markov": Contract(_make("autoregressive", (6,), **SMALL, decoder="markov"), X),
    "sequence_vae": Contract(
        _make("sequence_vae", (7,), num_symbols=4, **SMALL), {"x": _counts(4, 7)}
    ),
    "count_vae": Contract(
        _make("count_vae", (6,), **SMALL, activation="tanh"), {"x": _counts(9, 6)}
    ),
}


def examples_of(contract: Contract) -> Any:
    """Return the batch with its defaults filled in."""
    return unpack(contract.batch)
