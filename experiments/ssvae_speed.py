"""M2's compiled training step against the same workload in eager PyTorch.

Claim: at least 1.5 times the steps of eager PyTorch (fused Adam).

    python experiments/ssvae_speed.py --peer FILE --torch-python PYTHON

FILE is a `torch_vae.py` that takes `--workload ssvae --batch B --steps N` and prints one JSON line with `steps_per_s`; PYTHON is
an interpreter with PyTorch. All run in turn, in processes of their own, for five rounds, and the medians are compared, since the
speed of a machine drifts. Without --peer only jaxvae is timed. The peer runs twice a round, its OpenMP threads waiting as they do
by default and passively, and is judged by the faster: where another process holds a core, threads that spin at every barrier
slow it to a twentieth, and a ratio to that says nothing about either library.

Measured beside another training on both cores (AMD EPYC, JAX 0.10.2, PyTorch 2.13.0; steps/s, medians of three rounds of 60):
jaxvae 52.8, PyTorch 22.3 waiting passively (1.0 by default): 2.37x.

Workload: M2, 784-300-300-z64, ELU, the exact sum over 10 classes, ReLU classifier 784-300-300-10; 100 unlabelled rows and 100
labelled rows through the classifier a step; Adam 1e-3, float32, 60,000 rows of bits on the device. The peer multiplies all of
[x, y] by the encoder's first layer for each class; here the product with x is taken once.
"""

import argparse
import json
import os
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
from jaxvae.semi_supervised import semi_supervised

ROWS, CLASSES = 60_000, 10
PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def time_jaxvae(batch_size: int, steps: int) -> dict[str, float]:
    """Compile a scan over steps, on the same slices as the peer, and time it after a warm-up."""
    rows = jnp.asarray(np.random.default_rng(1).random((ROWS, 784)) > 0.7, jnp.float32)
    model = jv.models.ssvae(jax.random.key(0), (784,), num_classes=CLASSES)
    optimizer = optax.adam(1e-3)
    labels = np.arange(100) % CLASSES
    objective = partial(semi_supervised, labelled_x=rows[:100], labelled_y=labels)
    step = jv.training.make_step(objective, optimizer)

    @partial(jax.jit, donate_argnums=0)
    def run(state: jv.training.TrainState, rows: jax.Array):
        def one(state: jv.training.TrainState, i: jax.Array):
            start = i * batch_size % (ROWS - batch_size)
            state, metrics = step(state, jax.lax.dynamic_slice_in_dim(rows, start, batch_size))
            return state, metrics["loss"]

        return jax.lax.scan(one, state, jnp.arange(steps))

    state = jax.tree.map(jnp.copy, jv.training.init(jax.random.key(1), model, optimizer))
    begin = time.perf_counter()
    state, losses = jax.block_until_ready(run(state, rows))
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    state, losses = jax.block_until_ready(run(state, rows))
    seconds = time.perf_counter() - begin
    return {"steps_per_s": steps / seconds, "first_s": first, "loss": float(losses[-1])}


def main() -> None:
    """Time both in turn; print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="the peer's torch_vae.py")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--once", action="store_true", help="time jaxvae once, as JSON")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(time_jaxvae(args.batch, args.steps)))
        return
    case = ["--batch", str(args.batch), "--steps", str(args.steps)]
    contenders = {"jaxvae": ([sys.executable, __file__, "--once", *case], {})}
    if args.peer:
        command = [args.torch_python, str(args.peer), "--workload", "ssvae", *case]
        contenders |= {"PyTorch": (command, {}), "PyTorch, passive": (command, PASSIVE)}
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, (command, more) in contenders.items():
            environment = os.environ | more
            result = subprocess.run(command, capture_output=True, text=True, env=environment)
            if result.returncode:
                sys.exit(f"{name} failed: {result.stderr.strip().splitlines()[-1]}")
            speeds[name].append(json.loads(result.stdout.splitlines()[-1])["steps_per_s"])
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        print(f"{name:<17} {median:.1f} steps/s, of {', '.join(f'{v:.1f}' for v in speeds[name])}")
    if args.peer:
        fastest = max((name for name in medians if name != "jaxvae"), key=medians.__getitem__)
        ratio = medians["jaxvae"] / medians[fastest]
        print(f"jaxvae is {ratio:.2f}x {fastest}; claim at least 1.5x")


if __name__ == "__main__":
    main()
