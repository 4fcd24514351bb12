"""The server process of a twin: it builds a step, then runs as many steps as each line of its input says.

It is run by its path, possibly by an interpreter without jaxvae, so it imports nothing of jaxvae:

    python serve.py torch_twin --width 400 --latent-dim 20 --num-samples 1 --batch-size 128

The first line it prints is JSON, with the loss before training; then for each line "N" the seconds
that N steps take. An error is one line on stderr.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

WARM_UP_STEPS = 5


class Step(NamedTuple):
    """A training step of another library."""

    version: str
    """The version of that library."""
    parameters: int
    """Number of trained parameters."""
    loss: Callable[[], float]
    """Computes the mean loss of the first batch with the current parameters, nats."""
    run: Callable[[int], int]
    """Runs at least the given number of steps, waits for them, and returns the number it ran."""


def parse(args: list[str]) -> argparse.Namespace:
    """Parse the options of a twin."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module", help="torch_twin or numpyro_twin")
    for name in ("width", "latent-dim", "num-samples", "batch-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice if not given")
    parser.add_argument("--platform", choices=["cpu", "gpu", "tpu"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "highest"])
    parser.add_argument("--compile", action="store_true", help="of PyTorch")
    parser.add_argument("--graph", action="store_true", help="of PyTorch: the step as a CUDA graph")
    return parser.parse_args(args)


def serve(step: Step) -> None:
    """Run steps for each line of the input, until it ends."""
    loss = step.loss()
    begin = time.perf_counter()
    step.run(WARM_UP_STEPS)
    warm_up = time.perf_counter() - begin
    first = {"version": step.version, "parameters": step.parameters, "loss": loss}
    print(json.dumps({**first, "warm_up_s": warm_up}), flush=True)
    for line in sys.stdin:
        count = int(line)
        begin = time.perf_counter()
        taken = step.run(count)
        print((time.perf_counter() - begin) * count / taken, flush=True)


def main() -> None:
    """Build the twin and serve it."""
    options = parse(sys.argv[1:])
    try:
        serve(Step(*importlib.import_module(options.module).build(options)))
    except Exception as error:
        first = str(error).strip().partition("\n\n")[0]  # without PyTorch's advice below
        said = " ".join(f"{type(error).__name__}: {first}".split())
        sys.exit(said if len(said) < 300 else f"{said[:300]} ..")


if __name__ == "__main__":
    main()
