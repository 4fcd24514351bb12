"""The same training steps in other libraries, each run as a process of its own by `jaxvae.bench.twins`."""
