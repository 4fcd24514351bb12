"""Many checks in one process, and two runs held against each other."""

import sys
import time
import traceback

import jax
import numpy as np

import jaxvae as jv


def run_checks(checks, *, devices=8):
    """Run every check; print which fail, and why; exit with 1 if one does."""
    assert jax.device_count() == devices
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_debug_key_reuse", True)
    failed = False
    for check in checks:
        start = time.process_time()
        try:
            check()
        except Exception:
            failed = True
            traceback.print_exc(file=sys.stdout)
            print(f"FAILED {check.__name__}", flush=True)
        else:
            print(f"{check.__name__}: {time.process_time() - start:.1f} s", flush=True)
    sys.exit(failed)


def data_mesh(count):
    return jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])


def start(model, optimizer):
    return jv.training.init(jax.random.key(7), model, optimizer)


def train(step, state, batch, num_steps):
    """The state after so many steps on one batch, and each step's metrics."""
    history = []
    for _ in range(num_steps):
        state, metrics = step(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def same(result, expected, *, rtol=1e-5):
    """Two runs agree: metrics to 1e-5 relative at every step, states to float32 rounding."""
    (state, history), (of_one, history_of_one) = result, expected
    for metrics, of_metrics in zip(history, history_of_one, strict=True):
        assert set(metrics) == set(of_metrics)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, of_metrics[name], rtol=rtol, err_msg=name)
    assert jax.tree.structure(state) == jax.tree.structure(of_one)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(of_one), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    for a, b in zip(leaves(state), leaves(of_one), strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * rtol, atol=rtol)


def leaves(state):
    """The arrays of a state on the host; the run key as its bits."""
    return jax.device_get(jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))))


def rejected(check, *args):
    """A broken twin fails the check."""
    try:
        check(*args)
    except AssertionError:
        return
    raise AssertionError("the check passes a broken twin")
