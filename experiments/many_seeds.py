"""Eight seeds in one program against one run of the command line, the default one on the digits.

Claim: `jaxvae train --seeds 8` costs less than eight single runs.

Measured (two cores of an AMD EPYC, JAX 0.10.2; 6 minutes), medians of 2 rounds: one run 37.7 s, 53.0 s of processors and 831 MB;
eight together 132.6 s, 198.9 s and 910 MB: 3.52 single runs in time, 3.75 in processor time.

    python experiments/many_seeds.py

What is timed is `jaxvae train` from the start of its process to the last report, with no compilation cache: 5,000 steps at batch
128 of the VAE 64-256-256-z16, its validations, and its evaluation on test. What a step alone costs so, also where the products
are larger and gain less, is timed by `jaxvae bench --scaling`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def time_command(*options: str) -> dict[str, float]:
    """Seconds of wall and processor for `jaxvae train`, its children included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxvae", "train", "--runs-dir", folder, "--name", "a"]
        environment = {**os.environ, "JAXVAE_COMPILATION_CACHE": "off"}
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([*command, *options], check=True, env=environment, capture_output=True)
        wall = time.perf_counter() - wall
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": used, "memory_mb": after.ru_maxrss / 1e3}


def main() -> None:
    """Print the cost of a single run, of many at once, and how many single runs that is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--total-steps", type=int, default=5000)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"one": [], "many": []}
    steps = "--total-steps", str(args.total_steps)
    for _ in range(args.rounds):
        found["one"].append(time_command(*steps))
        found["many"].append(time_command(*steps, "--seeds", str(args.runs)))
    medians = {
        name: {key: statistics.median(t[key] for t in times) for key in times[0]}
        for name, times in found.items()
    }
    for name, times in medians.items():
        print(name, ", ".join(f"{key} {value:.1f}" for key, value in times.items()))
    for key in ("wall_s", "cpu_s"):
        ratio = medians["many"][key] / medians["one"][key]
        print(f"--seeds {args.runs} costs {ratio:.2f} single runs: {key}")


if __name__ == "__main__":
    main()
