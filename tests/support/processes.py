"""The environment of processes that tests start only for their output."""

import os

import jax


def quick() -> dict[str, str]:
    """Return the environment of a process that compiles like this test suite and shares its compilation cache.

    Tests of the compiled programs themselves (memory, flop, bits after a kill) need `os.environ` instead, with
    which a process optimises as it does for users.
    """
    folder = jax.config.jax_compilation_cache_dir
    shared = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(
            jax.config.jax_persistent_cache_min_compile_time_secs
        ),
    }
    return os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | (shared if folder else {})
