"""What the accelerator at hand rounds: products of float32 by precision; run by test_device.py.

A factor rounded to a significand of p bits is off by at most 2^-p of it, so a product by 2 x 2^-p, whatever
is summed: p = 24 for "highest", 11 or, cut off, 10 for TF32, 8 for bfloat16. A CPU keeps float32 throughout.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae as jv
from jaxvae.networks import with_precision
from jaxvae.rows import rows
from tests.devices.support import rejected, run_checks

SHARP, ROWS, INNER = 2, 256, 64  # products that are not zero in a sum: many would hide the rounding
FLOAT32, TF32, BFLOAT16 = 2.0**-20, 2 * 2.0**-10, 2 * 2.0**-8
BOUNDS = {"highest": FLOAT32, "float32": TF32, "bfloat16": BFLOAT16}
"""Largest error of a product over the sum of the sizes of its parts; "float32" is the default, TF32 on a GPU."""


def factors():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(ROWS, INNER)), rng.normal(size=(INNER, ROWS))
    a[:, SHARP:] = 0
    return jnp.float32(a), jnp.float32(b)


def error_of(product):
    a, b = factors()
    found = np.float64(jax.jit(product)(a, b))
    a, b = np.float64(a), np.float64(b)
    return float(np.max(np.abs(found - a @ b) / (np.abs(a) @ np.abs(b))))


def hold_product(product, bound):
    error = error_of(product)
    print(f"    a product is off by at most {error:.1e}, allowed {bound:.1e}")
    assert error <= bound


def ours(precision):
    return partial(rows, precision=None if precision == "float32" else precision)


def check_products():
    for precision, bound in BOUNDS.items():
        hold_product(ours(precision), bound)
    rejected(hold_product, ours("bfloat16"), TF32)
    rejected(hold_product, ours("bfloat16"), FLOAT32)
    with jax.default_matmul_precision("highest"):
        hold_product(ours("float32"), FLOAT32)


MODEL = jv.models.vae(jax.random.key(0), (16, 16), latent_dim=20, hidden=(200, 200))
XS = jax.random.bernoulli(jax.random.key(1), 0.3, (50, 16, 16)).astype(jnp.float32)


@jax.jit
def value_and_slope(model):
    def loss(model):
        keys = jax.random.split(jax.random.key(2), len(XS))
        return jnp.mean(jax.vmap(jv.elbo, (0, None, 0))(keys, model, XS).bound)

    return jax.value_and_grad(loss)(model)


def flat(tree):
    return np.concatenate([np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree)])


def hold_step(model, of_value, of_slope):
    """The ELBO and its gradient, relative to those in float32 throughout."""
    value, slope = value_and_slope(model)
    expected, steepest = value_and_slope(with_precision(MODEL, "highest"))
    slope, steepest = flat(slope), flat(steepest)
    errors = (
        abs(float(value) / float(expected) - 1),
        np.linalg.norm(slope - steepest) / np.linalg.norm(steepest),
    )
    print("    ELBO off by {:.1e}, gradient by {:.1e}".format(*errors))
    assert errors[0] <= of_value
    assert errors[1] <= of_slope


def check_a_step():
    """Roundings fall to either side, so that sums of many are off by less than their parts can be."""
    for precision, bound in BOUNDS.items():
        hold_step(with_precision(MODEL, precision), bound / 2, 1.5 * bound)
    rejected(hold_step, with_precision(MODEL, "bfloat16"), TF32 / 2, 1.5 * TF32)
    other = jax.tree.map(lambda leaf: 1.02 * leaf, MODEL)
    rejected(hold_step, other, TF32 / 2, 1.5 * TF32)


if __name__ == "__main__":
    run_checks([check_products, check_a_step], devices=jax.device_count())
