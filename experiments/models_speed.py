"""The compiled training step of the GMVAE against the same step in eager PyTorch.

Claim: at least 1.5 times eager PyTorch (fused Adam).

    python experiments/models_speed.py --workload gmvae --peers-dir DIR --peer-python PYTHON

DIR holds `torch_vae.py`, which takes `--workload W --batch B --steps N` and prints one JSON line with `steps_per_s`; PYTHON is an
interpreter with PyTorch. Both run in turn, in processes of their own, and the medians are compared, since the speed of a machine
drifts. Without --peers-dir only jaxvae is timed.

Workload: `gmvae` 784-300-300-z10, ELU, Bernoulli, a learned mixture prior of 500 equal weights, one sample, the rate from the
sample, Adam 1e-3, batch 100, float32, 60,000 rows of bits on the device.

Measured (one core of an AMD EPYC with AVX-512 each, JAX 0.10.2, PyTorch 2.13.0, three rounds): 382 against 126 steps a second of
processor time, 3.0 times. By the clock, both on two cores, it was measured only on a machine busy with other work, which
slows the two unequally, so no ratio from there is given.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv

ROWS = 60_000
WORKLOADS = {
    "gmvae": (
        partial(jv.models.gmvae, latent_dim=10, num_components=500, hidden=(300, 300)),
        partial(jv.elbo, kl="monte_carlo"),
    ),
}


def time_jaxvae(workload: str, batch_size: int, steps: int) -> dict[str, float]:
    """Compile a scan over steps, on the same slices as the peer, and time it after a warm-up."""
    build, objective = WORKLOADS[workload]
    rows = jnp.asarray(np.random.default_rng(1).random((ROWS, 784)) > 0.7, jnp.float32)
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(objective, optimizer)

    @partial(jax.jit, donate_argnums=0)
    def run(state: jv.training.TrainState) -> tuple[jv.training.TrainState, jax.Array]:
        def one(state: jv.training.TrainState, i: jax.Array):
            start = i * batch_size % (ROWS - batch_size)
            state, metrics = step(state, jax.lax.dynamic_slice_in_dim(rows, start, batch_size))
            return state, metrics["loss"]

        return jax.lax.scan(one, state, jnp.arange(steps))

    model = build(jax.random.key(0), (784,))
    state = jax.tree.map(jnp.copy, jv.training.init(jax.random.key(1), model, optimizer))
    begin = time.perf_counter()
    state, losses = jax.block_until_ready(run(state))
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    state, losses = jax.block_until_ready(run(state))
    seconds = time.perf_counter() - begin
    return {"steps_per_s": steps / seconds, "first_s": first, "loss": float(losses[-1])}


def compare(args: argparse.Namespace) -> None:
    """Both in turn, for the rounds asked; print medians and their ratio."""
    commands = {"jaxvae": [sys.executable, __file__, "--once"]}
    if args.peers_dir:
        commands["torch"] = [args.peer_python, str(args.peers_dir / "torch_vae.py")]
    case = ["--workload", args.workload, "--batch", str(args.batch), "--steps", str(args.steps)]
    speeds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            result = subprocess.run([*command, *case], capture_output=True, text=True)
            if result.returncode:
                sys.exit(f"{name} failed: {result.stderr.strip().splitlines()[-1]}")
            line = json.loads(result.stdout.splitlines()[-1])
            speeds[name].append(line["steps_per_s"])
    for name, values in speeds.items():
        print(
            f"{args.workload} batch {args.batch} {name:<6} {statistics.median(values):.1f} steps/s, "
            f"{min(values):.1f} to {max(values):.1f}"
        )
    if "torch" in speeds:
        ratios = [a / b for a, b in zip(speeds["jaxvae"], speeds["torch"], strict=True)]
        ratio = statistics.median(speeds["jaxvae"]) / statistics.median(speeds["torch"])
        print(f"jaxvae is {ratio:.2f}x torch; by round {min(ratios):.2f}x to {max(ratios):.2f}x")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers-dir", type=Path, help="folder of torch_vae.py")
    parser.add_argument("--peer-python", default=sys.executable, help="one that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", action="store_true", help="time jaxvae alone, as JSON")
    parser.add_argument("--workload", choices=WORKLOADS, default="gmvae")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(time_jaxvae(args.workload, args.batch, args.steps)))
    else:
        compare(args)


if __name__ == "__main__":
    main()
