import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.training import learning_rate_schedule, linear_warmup
from tests.support.refusals import refused


def check_warmup(make):
    schedule = make(4, 10, end=2.0)
    got = [float(schedule(jnp.int32(step))) for step in range(10)]
    np.testing.assert_allclose(got, [0, 0.5, 1, 1.5, 2, 2, 2, 2, 2, 2], rtol=1e-6)


def test_warmup_is_the_formula():
    check_warmup(linear_warmup)


def test_check_of_warmup_rejects_one_that_never_arrives():
    with pytest.raises(AssertionError):
        check_warmup(lambda warmup, total, end: lambda step: end * int(step) / total)


def test_warmup_of_no_steps_is_constant_and_float32_when_traced():
    schedule = linear_warmup(0, 10)
    for step in (0, jnp.int32(0), jnp.int32(9)):
        assert schedule(step) == 1
    for steps in (0, 5):
        assert jax.eval_shape(linear_warmup(steps, 10), jnp.int32(0)).dtype == jnp.float32


@pytest.mark.parametrize("total_steps", [1, 5])
def test_every_accepted_warmup_ends_within_the_run(total_steps):
    last = total_steps - 1  # the steps of a run count from 0
    for warmup_steps in range(total_steps + 1):
        try:
            schedule = linear_warmup(warmup_steps, total_steps)
        except ValueError:
            continue
        assert schedule(jnp.int32(last)) == 1, f"{warmup_steps} warm-up steps of {total_steps}"


def reference(peak, total, warmup, decay):
    steps = np.arange(total + 1)
    fraction = np.clip((steps - warmup) / max(total - warmup, 1), 0, 1)
    after = {
        "constant": np.ones(total + 1),
        "linear": 1 - fraction,
        "cosine": (1 + np.cos(np.pi * fraction)) / 2,
    }[decay]
    return peak * np.where(steps < warmup, steps / max(warmup, 1), after)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_learning_rate_is_the_formula(decay, warmup_steps):
    schedule = learning_rate_schedule(0.1, 12, warmup_steps=warmup_steps, decay=decay)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float
        got = jax.vmap(schedule)(jnp.arange(13)) * jnp.ones(13)
    np.testing.assert_allclose(got, reference(0.1, 12, warmup_steps, decay), atol=1e-8)
    other = "linear" if decay != "linear" else "cosine"
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(got, reference(0.1, 12, warmup_steps, other), atol=1e-8)


@pytest.mark.parametrize("warmup_steps", [-1, 10])
def test_a_warmup_outside_the_run_is_refused(warmup_steps):
    with refused("warmup_steps", "0 to 9", str(warmup_steps)):
        linear_warmup(warmup_steps, 10)
    with refused("learning_rate_warmup_steps", str(warmup_steps)):
        learning_rate_schedule(0.1, 10, warmup_steps=warmup_steps)


def test_other_bad_arguments_are_refused():
    for rate in (0, -1.0, float("nan"), float("inf")):
        with refused("learning_rate", repr(rate)):
            learning_rate_schedule(rate, 10)
    with refused("learning_rate_decay", "cosine", "'exponential'"):
        learning_rate_schedule(0.1, 10, decay="exponential")
    for total in (0, 2.5, True):
        with refused("total_steps", repr(total)):
            linear_warmup(0, total)
