"""The same training steps in other libraries, each run in its own process by `jaxvae.bench.twins`."""
