"""Fully connected networks by name."""

from typing import Literal, TypeAlias

from jaxvae.checks import require_choice
from jaxvae.networks.dense import MLP, GatedMLP
from jaxvae.networks.residual import ResidualMLP

DenseName: TypeAlias = Literal["mlp", "gated", "residual"]
DenseNetwork: TypeAlias = type[MLP] | type[GatedMLP] | type[ResidualMLP]

_NETWORKS: dict[str, DenseNetwork] = {"mlp": MLP, "gated": GatedMLP, "residual": ResidualMLP}


def dense_network(network: DenseName) -> DenseNetwork:
    """Return the class of this name, with `(in_features, hidden, out_features, *, activation, initializer, rngs)`.

    Raises:
        InputError: the name is not one of `DenseName`.
    """
    require_choice("network", network, _NETWORKS)
    return _NETWORKS[network]
