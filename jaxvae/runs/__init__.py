"""Runs: a configuration (`config`), its self-describing folder (`folder`), and training (`train`)."""

from jaxvae.runs.config import TrainConfig
from jaxvae.runs.folder import RunFolder

__all__ = ["RunFolder", "TrainConfig"]
