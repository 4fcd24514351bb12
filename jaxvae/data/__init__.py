"""Data sets by name or path, with a stated support and explicit binarisation; independent of any model."""

from jaxvae.data.dataset import Dataset
from jaxvae.data.describe import describe
from jaxvae.data.loading import load
from jaxvae.data.support import require_support

__all__ = ["Dataset", "describe", "load", "require_support"]
