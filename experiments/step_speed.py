"""The compiled training step against the same workload in eager PyTorch and in NumPyro's SVI.

Claim: 1.8 to 2.4 times eager PyTorch (fused Adam); ahead of NumPyro's scanned SVI on `iwae50`, behind it in the median on `vae`.

Measured (two cores of an AMD EPYC with AVX-512 and no AMX, JAX 0.10.2, PyTorch 2.13.0, NumPyro 0.22.0; steps/s, medians of five):

    vae     batch 128   jaxvae 349.3   PyTorch 188.4   NumPyro 496.7      1.85x   0.70x
    iwae50  batch 20    jaxvae 247.0   PyTorch 103.0   NumPyro 197.2      2.40x   1.25x
    iwae50  batch 128   jaxvae  35.0   PyTorch  17.6   NumPyro  29.8      1.98x   1.17x

On `vae` each run of either library falls at random into a fast or a slow mode (480 or 350 steps/s), so a median of five says
little there: in seven more rounds the best were 488 (jaxvae) and 479 (NumPyro), the medians 351 and 450. The matrix products of
`iwae50` at batch 128 alone take 25 ms here, which no float32 step can undercut: 2.3 times the PyTorch step is the ceiling.

    python experiments/step_speed.py --peers DIR --torch-python PYTHON

DIR holds `torch_vae.py` and `numpyro_svi.py`, which take `--workload W --batch B --steps N` and print one JSON line with
`steps_per_s`; PYTHON is an interpreter with PyTorch. All three run in turn, in processes of their own, for three rounds, and the
medians are compared, since the speed of a machine drifts. Without --peers only jaxvae is timed.

Workloads: `vae` 784-400-400-z20, tanh, Bernoulli, closed-form KL, one sample; `iwae50` 784-200-200-z50, tanh, K = 50. Adam 1e-3,
float32, 60,000 rows of bits on the device.
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
CASES = [("vae", 128, 300), ("iwae50", 20, 120), ("iwae50", 128, 24)]
MODELS = {
    "vae": ({"latent_dim": 20, "hidden": (400, 400)}, jv.elbo),
    "iwae50": ({"latent_dim": 50, "hidden": (200, 200)}, partial(jv.iwae, num_samples=50)),
}


def time_jaxvae(workload: str, batch_size: int, steps: int) -> dict[str, float]:
    """Compile a scan over steps, on the same slices as the peers, and time it after a warm-up."""
    options, objective = MODELS[workload]
    rows = jnp.asarray(np.random.default_rng(1).random((ROWS, 784)) > 0.7, jnp.float32)
    model = jv.models.vae(jax.random.key(0), (784,), **options)
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(objective, optimizer)

    @partial(jax.jit, donate_argnums=0)
    def run(state: jv.training.TrainState) -> tuple[jv.training.TrainState, jax.Array]:
        def one(state: jv.training.TrainState, i: jax.Array):
            start = i * batch_size % (ROWS - batch_size)
            state, metrics = step(state, jax.lax.dynamic_slice_in_dim(rows, start, batch_size))
            return state, metrics["loss"]

        return jax.lax.scan(one, state, jnp.arange(steps))

    state = jax.tree.map(jnp.copy, jv.training.init(jax.random.key(1), model, optimizer))
    begin = time.perf_counter()
    state, losses = jax.block_until_ready(run(state))
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    state, losses = jax.block_until_ready(run(state))
    seconds = time.perf_counter() - begin
    return {"steps_per_s": steps / seconds, "first_s": first, "loss": float(losses[-1])}


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each contender, without the case."""
    found = {"jaxvae": [sys.executable, __file__, "--once"]}
    if args.peers:
        found["torch"] = [args.torch_python, str(args.peers / "torch_vae.py")]
        found["numpyro"] = [sys.executable, str(args.peers / "numpyro_svi.py")]
    return found


def compare(args: argparse.Namespace) -> None:
    """All contenders in turn, for the rounds asked; print medians and ratios."""
    for workload, batch, steps in CASES:
        speeds: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name, command in commands(args).items():
                case = ["--workload", workload, "--batch", str(batch), "--steps", str(steps)]
                result = subprocess.run([*command, *case], capture_output=True, text=True)
                if result.returncode:
                    sys.exit(f"{name} failed: {result.stderr.strip().splitlines()[-1]}")
                line = json.loads(result.stdout.splitlines()[-1])
                speeds.setdefault(name, []).append(line["steps_per_s"])
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        said = [f"{name} {median:.1f} steps/s" for name, median in medians.items()]
        ratios = [f"{medians['jaxvae'] / m:.2f}x {n}" for n, m in medians.items() if n != "jaxvae"]
        print(f"{workload:<7} batch {batch:<4}", ", ".join(said), "| jaxvae is", ", ".join(ratios))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of torch_vae.py and numpyro_svi.py")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="time one case of jaxvae, as JSON")
    parser.add_argument("--workload", choices=MODELS, default="vae")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(time_jaxvae(args.workload, args.batch, args.steps)))
    else:
        compare(args)


if __name__ == "__main__":
    main()
