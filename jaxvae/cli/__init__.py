"""The command line: `jaxvae train | evaluate | compare | sample | report | bench | data`."""

from jaxvae.cli.main import main

__all__ = ["main"]
