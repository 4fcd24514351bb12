"""Runs: a configuration (`config`), the folder that explains itself (`folder`), and `train`."""

from jaxvae.runs.config import TrainConfig
from jaxvae.runs.folder import RunFolder

__all__ = ["RunFolder", "TrainConfig"]
