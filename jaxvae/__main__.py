"""`python -m jaxvae` is `jaxvae`."""

from jaxvae.cli import main

main()
