"""Eight seeds at once against eight single runs, one after the other.

CLAIM

Measured: not yet.

    python experiments/many_seeds.py            # steps, and the default run of the command line
    python experiments/many_seeds.py --only steps

Steps: each case in a process of its own, the three ways in turn for the rounds asked: one run; the runs under `vmap`, as
`jaxvae train --seeds` does; and `lax.map` over the runs in the same dispatch. What is timed is a dispatch after its
compilation. The default run: `jaxvae train` on the digits, 5,000 steps, from the start of the process to the last report, with no
compilation cache.

Workloads: `vae` 784-400-400-z20, batch 128, closed-form KL; `iwae50` 784-200-200-z50, K = 50, batch 20; both on 20,000 rows of
random bits. `digits` is the default model of the command line. Adam 1e-3, float32.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.training.feeds import InMemory, make_run
from jaxvae.training.many import ManyInMemory, stack, take

RUNS = 8
CASES: dict[str, tuple[int, dict[str, Any], Any, int, int]] = {
    "digits": (64, {}, jv.elbo, 128, 250),
    "vae": (784, {"latent_dim": 20, "hidden": (400, 400)}, jv.elbo, 128, 60),
    "iwae50": (
        784,
        {"latent_dim": 50, "hidden": (200, 200)},
        partial(jv.iwae, num_samples=50),
        20,
        40,
    ),
}
"""Values, options of the model, objective, batch, steps of a dispatch."""


class Bits:
    """Rows of random bits."""

    def __init__(self, values: int):
        x = np.random.default_rng(1).random((20_000, values)) > 0.7
        self.splits = {"train": {"x": x.astype(np.uint8)}}

    def observe(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """One row as float32."""
        del key
        return x.astype(jnp.float32)


def dispatch(way: str, workload: str, runs: int) -> Callable[[int], None]:
    """A function that trains so many steps in one dispatch, all runs of them."""
    values, options, objective, batch_size, _ = CASES[workload]
    optimizer = optax.adam(1e-3)
    step, data = jv.training.make_step(objective, optimizer), Bits(values)
    states = [
        jv.training.init(
            jax.random.key(i),
            jv.models.vae(jax.random.key(100 + i), (values,), **options),
            optimizer,
        )
        for i in range(runs)
    ]
    if way == "single":
        feed, held = InMemory(step, data, batch_size=batch_size), [states[0]]
    else:
        feed = ManyInMemory(lambda _: step, {}, data, batch_size=batch_size, num_runs=runs)
        held = [stack(states)]
    if way == "map":
        feed._run = mapped(step, data, batch_size)  # the same feed with another dispatch
    held = jax.tree.map(jnp.copy, held)
    held.append(feed.no_metrics(held[0]))

    def run(count: int) -> None:
        held[:] = jax.block_until_ready(feed.run(held[0], held[1], 0, count))

    return run


def mapped(step: Any, data: Bits, batch_size: int) -> Any:
    """Runs one after the other in one dispatch."""
    one = make_run(step, data.observe, batch_size=batch_size)

    def run(
        state: Any, metrics: Any, order: Any, rows: Any, own: Any, count: jax.Array
    ) -> tuple[Any, Any, Any]:
        del own

        def of(i: jax.Array) -> tuple[Any, Any, Any]:
            return one(*take(state, metrics, i), (order[0][i], order[1]), rows, count)

        state, metrics, order = jax.lax.map(of, jnp.arange(len(order[0])))
        return state._replace(step=state.step[0]), metrics, (order[0], order[1][0])

    return jax.jit(run, donate_argnums=(0, 1, 2))


def time_steps(way: str, workload: str, runs: int) -> dict[str, float]:
    """Milliseconds of wall and processor for a step of one run."""
    count, each = CASES[workload][4], 1 if way == "single" else runs
    run = dispatch(way, workload, runs)
    begin = time.perf_counter()
    run(2)
    compile_s = time.perf_counter() - begin
    wall, processor = time.perf_counter(), time.process_time()
    run(count * (runs if way == "single" else 1))
    steps = count * runs if way == "single" else count * each
    return {
        "wall_ms": 1e3 * (time.perf_counter() - wall) / steps,
        "cpu_ms": 1e3 * (time.process_time() - processor) / steps,
        "compile_s": compile_s,
    }


def in_a_process(*arguments: str) -> dict[str, float]:
    """What this file prints with these arguments, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def compare_steps(rounds: int, runs: int) -> None:
    """Print medians of a step, per run."""
    for workload in CASES:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for way in ("single", "vmap", "map"):
                case = ["--once", way, "--workload", workload, "--runs", str(runs)]
                found.setdefault(way, []).append(in_a_process(*case))
        for way, times in found.items():
            medians = {name: statistics.median(t[name] for t in times) for name in times[0]}
            said = ", ".join(f"{name} {value:.3f}" for name, value in medians.items())
            print(f"{workload:<7} {way:<7} {said}", flush=True)


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


def compare_commands(rounds: int, runs: int) -> None:
    """Print the cost of a single run, of many at once, and how many single runs that is."""
    found: dict[str, list[dict[str, float]]] = {"one": [], "many": []}
    for _ in range(rounds):
        found["one"].append(time_command())
        found["many"].append(time_command("--seeds", str(runs)))
    medians = {
        name: {key: statistics.median(t[key] for t in times) for key in times[0]}
        for name, times in found.items()
    }
    for name, times in medians.items():
        print(name, ", ".join(f"{key} {value:.1f}" for key, value in times.items()))
    for key in ("wall_s", "cpu_s"):
        print(
            f"--seeds {runs} costs {medians['many'][key] / medians['one'][key]:.2f} single runs: {key}"
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("steps", "command"))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=("single", "vmap", "map"), help="time one way, as JSON")
    parser.add_argument("--workload", choices=CASES, default="vae")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(time_steps(args.once, args.workload, args.runs)))
        return
    if args.only != "command":
        compare_steps(args.rounds, args.runs)
    if args.only != "steps":
        compare_commands(args.rounds, args.runs)


if __name__ == "__main__":
    main()
