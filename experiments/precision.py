"""What bfloat16 operands do to the bound, and what a step of them costs: `jaxvae train --precision bfloat16`.

Claim: with the operands of every product rounded to bfloat16, forward and backward, the test ELBO on digits stays within two
standard errors of float32's, same seeds, paired.

Measured (two cores of an AMD EPYC with AVX-512 BF16 and no AMX, JAX 0.10.2, other programs on them; 5 minutes of computing in
12), nats on test, and the time of bfloat16 over that of float32:

    seed 0   float32 -22.896 +- 0.248   bfloat16 -22.897 +- 0.248   more -0.001 +- 0.001
    seed 1   float32 -22.880 +- 0.249   bfloat16 -22.881 +- 0.249   more -0.001 +- 0.001
    seed 2   float32 -22.933 +- 0.255   bfloat16 -22.932 +- 0.255   more 0.001 +- 0.001
    mean     float32 -22.903 +- 0.249   bfloat16 -22.903 +- 0.249   more -0.000 +- 0.001

    vae     batch 128   step 0.97x (0.80 to 1.13)   products alone 0.78x (0.64 to 0.91)
    iwae50  batch 20    step 0.90x (0.74 to 1.09)   products alone 0.76x (0.67 to 0.87)
    iwae50  batch 128   step 0.92x (0.84 to 1.50)   products alone 0.63x (0.53 to 0.71)

The times say that bfloat16 gains little on such a CPU, and no more: their spread is that of the other programs. XLA computes
the forward products there from bfloat16; the factors in those of the gradients it widens to float32 again after the rounding.

    python experiments/precision.py
    python experiments/precision.py --seeds 0        # the speed alone

Protocol: 8x8 digits binarised anew each step, the VAE 64-256-256-z16 of `jaxvae train`, Adam 1e-3, batch 128, 5,000 steps, the
last one evaluated on 250 test images by 100 samples, in the precision that it was trained in. Speed: workloads of `jaxvae
bench`, each precision in turn in one process; medians of the ratios within a round.
"""

import argparse
import statistics
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import jaxvae as jv
from jaxvae.bench.alone import compile_alone
from jaxvae.bench.turns import calibrate, seconds_a_step
from jaxvae.bench.workloads import SHAPE, draw_rows, training_job
from jaxvae.networks import Precision, with_precision

BOTH: tuple[Precision, Precision] = ("float32", "bfloat16")
MODELS: dict[str, tuple[dict[str, Any], Any]] = {
    "vae": ({"latent_dim": 20, "hidden": (400, 400)}, jv.elbo),
    "iwae50": ({"latent_dim": 50, "hidden": (200, 200)}, partial(jv.iwae, num_samples=50)),
}
CASES = [("vae", 128), ("iwae50", 20), ("iwae50", 128)]


def test_bounds(dataset: Any, precision: Precision, seed: int, total_steps: int) -> np.ndarray:
    """The ELBO of each test image after training in this precision, nats."""
    weights_key, run_key = jax.random.split(jax.random.key(seed))
    model = with_precision(jv.models.vae(weights_key, dataset.event_shape), precision)
    optimizer = optax.adam(1e-3)
    state = jv.training.init(run_key, model, optimizer)
    step = jv.training.make_step(jv.elbo, optimizer)
    state, _ = jv.training.fit(state, step, dataset, batch_size=128, total_steps=total_steps)
    test = jv.training.observe_split(jax.random.key(0), dataset, "test")
    objective = partial(jv.elbo, num_samples=100)
    terms = jv.evaluation.terms(jax.random.key(1), state.model, test, objective=objective)
    return np.asarray(terms.bound, np.float64)


def compare_bounds(seeds: int, total_steps: int) -> None:
    """Print the test ELBO of each seed and of their mean, and the paired difference."""
    dataset = jv.data.load("digits", binarize="dynamic")
    found = []
    for seed in range(seeds):
        found.append([test_bounds(dataset, name, seed, total_steps) for name in BOTH])
        say_bounds(f"seed {seed}", *found[-1])
    say_bounds("mean", *np.mean(found, axis=0))


def say_bounds(name: str, full: np.ndarray, half: np.ndarray) -> None:
    """One line of means with standard errors over test images."""
    each = (jv.evaluation.mean_and_error(bounds) for bounds in (full, half, half - full))
    full_said, half_said, more = (f"{mean:.3f} +- {error:.3f}" for mean, error in each)
    print(f"{name:<7} float32 {full_said}   bfloat16 {half_said}   more {more}", flush=True)


def compare_speed(name: str, batch_size: int, rounds: int, seconds: float) -> None:
    """Print the steps a second, and the time of bfloat16 over that of float32: of steps, of products alone."""
    options, objective = MODELS[name]
    model, rows = jv.models.vae(jax.random.key(0), SHAPE, **options), draw_rows()
    jobs = [training_job(with_precision(model, p), objective, batch_size, rows) for p in BOTH]
    alone = [compile_alone(job.products, jax.random.key(1)) for job in jobs]
    runs = [*(job.run for job in jobs), *alone]
    counts = [calibrate(run, seconds) for run in runs]
    turns = [
        [seconds_a_step(run, count) for run, count in zip(runs, counts, strict=True)]
        for _ in range(rounds)
    ]
    speeds = [1 / statistics.median(times) for times in zip(*turns, strict=True)]
    said = [f"{p} {speed:.1f} steps/s" for p, speed in zip(BOTH, speeds, strict=False)]
    for what, at in (("step", 0), ("products alone", 2)):
        ratios = [turn[at + 1] / turn[at] for turn in turns]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        said.append(f"{what} {statistics.median(ratios):.2f}x the time ({spread})")
    print(f"{name:<7} batch {batch_size:<4}", ", ".join(said), flush=True)


def main() -> None:
    """Parse, train and time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many to train")
    parser.add_argument("--total-steps", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7, help="of timing; 0 leaves it out")
    parser.add_argument("--seconds-a-round", type=float, default=1.0)
    args = parser.parse_args()
    if args.seeds:
        compare_bounds(args.seeds, args.total_steps)
    for name, batch_size in CASES if args.rounds else ():
        compare_speed(name, batch_size, args.rounds, args.seconds_a_round)


if __name__ == "__main__":
    main()
