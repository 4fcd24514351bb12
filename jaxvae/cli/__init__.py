"""The command line: `jaxvae train | evaluate | sample | report | data`."""

from jaxvae.cli.main import main

__all__ = ["main"]
