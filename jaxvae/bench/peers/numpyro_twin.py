"""The training step by NumPyro's SVI, compiled: one dispatch is a block of updates on slices of the rows."""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module
from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO

BLOCKS, OTHER_BLOCK = {"cpu": 8}, 64
"""Steps per dispatch, by platform; known at compile time, so a GPU does not wait for the host after each step."""


def build(options: argparse.Namespace) -> tuple[Any, ...]:
    """Build the step, as the fields of `jaxvae.bench.peers.serve.Step` in order.

    Raises:
        RuntimeError: JAX runs on another platform here.
    """
    if jax.default_backend() != options.platform:
        raise RuntimeError(f"JAX runs on {jax.default_backend()} here, not on {options.platform}")
    if options.precision == "highest":
        jax.config.update("jax_default_matmul_precision", "highest")
    batch_size = options.batch_size
    bits = jax.random.bernoulli(jax.random.key(1), 0.3, (options.rows, 784))
    rows, starts = bits.astype(jnp.float32), options.rows - batch_size + 1
    block = BLOCKS.get(options.platform, OTHER_BLOCK)
    svi = inference(options.width, options.latent_dim, options.num_samples)
    state = svi.init(jax.random.key(2), rows[:batch_size])
    count = sum(jnp.size(leaf) for leaf in jax.tree.leaves(svi.get_params(state)))

    @partial(jax.jit, donate_argnums=0)
    def loop(carry: Any, rows: Array) -> Any:
        def one(_: Array, carry: Any) -> Any:
            state, taken, _ = carry
            x = jax.lax.dynamic_slice_in_dim(rows, taken * batch_size % starts, batch_size)
            state, loss = svi.update(state, x)  # an unused loss would not be computed
            return state, taken + 1, loss

        return jax.lax.fori_loop(0, block, one, carry)

    # Copied, since a donated buffer may occur only once.
    carry = jax.tree.map(jnp.copy, (state, jnp.int32(0), jnp.zeros(())))

    def run(steps: int) -> int:
        nonlocal carry
        blocks = -(-steps // block)
        for _ in range(blocks):
            carry = loop(carry, rows)
        jax.block_until_ready(carry)
        return blocks * block

    def loss() -> float:
        return float(jax.jit(svi.evaluate)(carry[0], rows[:batch_size])) / batch_size

    return numpyro.__version__, count, loss, run


def inference(width: int, latent_dim: int, num_samples: int) -> SVI:
    """Return SVI with the ELBO and its closed-form KL for one sample, else with the IWAE bound (Renyi, alpha = 0)."""
    encoder = layers(784, width, 2 * latent_dim, nnx.Rngs(0))
    decoder = layers(latent_dim, width, 784, nnx.Rngs(1))

    def model(x: Array) -> None:
        likelihood = nnx_module("decoder", decoder)
        with numpyro.plate("rows", len(x)):
            prior = dist.Normal(jnp.zeros(latent_dim), jnp.ones(latent_dim)).to_event(1)
            z = numpyro.sample("z", prior)
            numpyro.sample("x", dist.Bernoulli(logits=likelihood(z)).to_event(1), obs=x)

    def guide(x: Array) -> None:
        mean, raw = jnp.split(nnx_module("encoder", encoder)(x), 2, axis=-1)
        scale = jnp.sqrt(jax.nn.softplus(raw) + 1e-8)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("z", dist.Normal(mean, scale).to_event(1))

    elbo = RenyiELBO(alpha=0, num_particles=num_samples)
    loss = TraceMeanField_ELBO() if num_samples == 1 else elbo
    return SVI(model, guide, numpyro.optim.Adam(1e-3), loss)


def layers(inputs: int, width: int, outputs: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Return a network with two hidden layers with tanh and Flax's default initialisation."""
    return nnx.Sequential(
        nnx.Linear(inputs, width, rngs=rngs),
        jnp.tanh,
        nnx.Linear(width, width, rngs=rngs),
        jnp.tanh,
        nnx.Linear(width, outputs, rngs=rngs),
    )
