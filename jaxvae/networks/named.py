"""Fully connected networks by name."""

from typing import Literal, TypeAlias, get_args

from jaxvae.networks.dense import MLP, GatedMLP
from jaxvae.networks.residual import ResidualMLP
from jaxvae.types import InputError

DenseName: TypeAlias = Literal["mlp", "gated", "residual"]
DenseNetwork: TypeAlias = type[MLP] | type[GatedMLP] | type[ResidualMLP]

_NETWORKS: dict[str, DenseNetwork] = {"mlp": MLP, "gated": GatedMLP, "residual": ResidualMLP}


def dense_network(network: DenseName) -> DenseNetwork:
    """The class of this name: `(in_features, hidden, out_features, *, activation, initializer, rngs)`.

    Raises:
        InputError: the name is not one of `DenseName`.
    """
    if not isinstance(network, str) or network not in _NETWORKS:
        expected = ", ".join(f'"{name}"' for name in get_args(DenseName))
        raise InputError(f"network: expected one of {expected}, got {network!r}")
    return _NETWORKS[network]
