"""Processes that a test starts of whose programs nothing is asked but what they say."""

import os

import jax


def quick() -> dict[str, str]:
    """Return the environment of a process that compiles as this suite does, and shares what is compiled.

    What is asked of compiled programs themselves (memory, flop, bits after a kill) needs `os.environ`: there
    a process optimises as users' do.
    """
    folder = jax.config.jax_compilation_cache_dir
    shared = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(
            jax.config.jax_persistent_cache_min_compile_time_secs
        ),
    }
    return os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | (shared if folder else {})
