"""What the gradient estimators cost beside plain IWAE-50, and what chunks do to the memory.

Claim: STL at most 1.1 and DReG at most 1.35 times the step of plain IWAE-50; chunks hold the memory of K = 5,000 within 1.3 times
that of K = 50 at the same chunk.

Measured (two cores of an AMD EPYC, JAX 0.10.2): STL 0.98x (0.95 to 1.00), DReG 0.99x (0.98 to 1.01); 11 MB at K = 50, 9 MB at K =
5,000 in chunks of 50. DReG costs nothing, because its two passes evaluate the same latents and the compiler merges them.

    python experiments/estimator_cost.py

Workload `iwae50`: 784-200-200-z50, tanh, Bernoulli, K = 50, Adam 1e-3, float32, batch 128. The estimators run in turn, for five
rounds; medians of the ratios within a round. Memory is what the compiled gradient needs beside its inputs and outputs.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv

ESTIMATORS = ("pathwise", "stl", "dreg")


def compiled_steps(estimator: str, batch_size: int, steps: int):
    """`steps` training steps on one batch in one dispatch, and the state to start from."""
    model = jv.models.vae(jax.random.key(0), (784,), latent_dim=50, hidden=(200, 200))
    optimizer = optax.adam(1e-3)
    objective = partial(jv.iwae, num_samples=50, gradient=estimator)
    step = jv.training.make_step(objective, optimizer)
    state = jv.training.init(jax.random.key(1), model, optimizer)
    batch = jnp.asarray(np.random.default_rng(1).random((batch_size, 784)) > 0.7, jnp.float32)
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, length=steps)[0])
    return run, state


def cost(batch_size: int, steps: int, rounds: int) -> None:
    """Print the time of each estimator relative to the pathwise one."""
    runs = {name: compiled_steps(name, batch_size, steps) for name in ESTIMATORS}
    for run, state in runs.values():
        jax.block_until_ready(run(state))
    ratios: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for _ in range(rounds):
        seconds = {}
        for name, (run, state) in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(state))
            seconds[name] = time.perf_counter() - begin
        for name in ESTIMATORS:
            ratios[name].append(seconds[name] / seconds["pathwise"])
    for name, values in ratios.items():
        print(
            f"{name:<9} {statistics.median(values):.2f}x pathwise, {min(values):.2f} to {max(values):.2f}"
        )


def memory(num_samples: int, chunk_size: int, batch_size: int = 20) -> float:
    """Bytes that the compiled gradient of the batch needs for itself."""
    model = jv.models.vae(jax.random.key(0), (784,), latent_dim=50, hidden=(200, 200))
    objective = partial(jv.iwae, num_samples=num_samples, chunk_size=chunk_size)

    def loss(model, keys, xs):
        return -jnp.mean(jax.vmap(lambda key, x: objective(key, model, x).objective)(keys, xs))

    keys, xs = jax.random.split(jax.random.key(0), batch_size), jnp.zeros((batch_size, 784))
    compiled = jax.jit(jax.grad(loss)).lower(model, keys, xs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cost(args.batch, args.steps, args.rounds)
    few, many, whole = memory(50, 50), memory(5_000, 50), memory(5_000, 5_000)
    print(
        f"memory at K = 50: {few / 1e6:.0f} MB; at K = 5,000 in chunks of 50: {many / 1e6:.0f} MB"
    )
    print(f"that is {many / few:.2f}x; without chunks it is {whole / few:.0f}x")


if __name__ == "__main__":
    main()
