"""Training on rows that stay on disk beside training on rows in memory: speed, memory, the same bits.

Claim: MNIST streamed from TFDS's files trains `iwae50` at 0.9 times the speed of MNIST in memory or more, to the same bits, in
memory that does not grow with the rows.

    python experiments/streaming.py --data DIR          # of TFDS, with mnist:3.0.1 prepared as array_record

Measured (two cores of an AMD EPYC, JAX 0.10.2, a machine shared with others; 4 minutes), medians of 7 rounds:

    memory: a file of 784 MB, 8 epochs at 75,036 rows/s; 749 MB early, 795 to 845 MB from the first epoch on, 812 MB at the end
    decode: 76.7 us of a processor an image, from file to array
    batch 20    streamed / memory: speed 0.951 (0.711 to 1.044), processor time 1.059; the same bits after 2,400 steps
    batch 128   streamed / memory: speed 0.889 (0.833 to 1.179), processor time 1.135; the same bits after 368 steps

The workload of the claim is batch 20. Decoding takes 77 us of about 1,300 that an image costs both processors, 6 %; the rest of
the differences lies within those from round to round.

Workload `iwae50`: 784-200-200-z50, tanh, Bernoulli, IWAE with K = 50, Adam, float32, bits drawn anew at every step. Both feeds
have compiled and read their first rows; then they take turns in one process, and the ratios are those of turns side by side.
Processor time is that of all threads of the process. `decode` reads records from their files at random and decodes them, in one
thread.

Memory is the resident set of a process that streams a file of random grey levels, larger than the chunks by far, through a small
model for some epochs; the same file is read with `pread`, so the system's page cache is no part of it.
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.training import Streamed, make_feed

Turn = tuple[float, float]


class Runner:
    """A run of one feed, some steps at a time."""

    def __init__(self, feed: Any, state: Any):
        self.feed, self.at = feed, 0
        self.state = jax.tree.map(jnp.copy, state)
        self.metrics = jax.tree.map(jnp.copy, feed.no_metrics(state))

    def run(self, steps: int) -> Turn:
        """Seconds and processor seconds of so many steps, in the dispatches of the streamed feed's size."""
        wall, processor, end = time.perf_counter(), time.process_time(), self.at + steps
        while self.at < end:
            count = min(end - self.at, self.feed.longest(self.at), 64)
            self.state, self.metrics = jax.block_until_ready(
                self.feed.run(self.state, self.metrics, self.at, count)
            )
            self.at += count
        return time.perf_counter() - wall, time.process_time() - processor


def compare(args: argparse.Namespace, batch_size: int, data: dict[str, Any]) -> None:
    """Turns of both feeds; print medians, ratios, and whether the weights are the same."""
    model = jv.models.vae(jax.random.key(0), (28, 28), latent_dim=50, hidden=(200, 200))
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(partial(jv.iwae, num_samples=50), optimizer)
    state = jv.training.init(jax.random.key(1), model, optimizer)
    runners = {
        name: Runner(make_feed(step, dataset, batch_size=batch_size), state)
        for name, dataset in data.items()
    }
    steps = max(1, args.images // batch_size)
    turns: dict[str, list[Turn]] = {name: [] for name in runners}
    for round_ in range(args.rounds + 1):
        for name in list(runners) if round_ % 2 else list(runners)[::-1]:
            turn = runners[name].run(steps)
            if round_:  # the first one compiles
                turns[name].append(turn)
    for name, found in turns.items():
        wall, processor = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"  {name:<9} {steps / wall:7.1f} steps/s {batch_size * steps / wall:8,.0f} images/s "
            f"{1e3 * processor / steps:7.2f} ms of processors a step, {processor / wall:.2f} in use"
        )
    for column, what in ((0, "speed"), (1, "processor time a step")):
        pairs = zip(turns["memory"], turns["streamed"], strict=True)
        ratios = [m[column] / s[column] if column == 0 else s[column] / m[column] for m, s in pairs]
        print(
            f"  {what}, streamed / memory: median {statistics.median(ratios):.3f}, "
            f"{min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} rounds"
        )
    same = all(
        np.array_equal(a, b)
        for a, b in zip(
            *(jax.tree.leaves(runner.state.model) for runner in runners.values()), strict=True
        )
    )
    print(f"  the same bits after {runners['memory'].at:,} steps: {same}")
    runners["streamed"].feed.close()


def decode(dataset: Any, count: int) -> None:
    """What reading and decoding an image costs."""
    train, rng, found = dataset.splits["train"], np.random.default_rng(0), []
    for _ in range(3):
        rows = rng.integers(0, train.size, count)
        processor = time.process_time()
        train.read(rows)
        found.append((time.process_time() - processor) / count)
    print(f"decode: {1e6 * min(found):.1f} us of a processor an image, from file to array")


def resident() -> float:
    """The resident set of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(rows: int, epochs: int, folder: Path) -> None:
    """Stream a file for some epochs and print the resident set along the way."""
    path = folder / "rows.npy"
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 28, 28))
    rng = np.random.default_rng(0)
    for start in range(0, rows, 50_000):
        shape = (min(50_000, rows - start), 28, 28)
        file[start : start + 50_000] = rng.integers(0, 256, shape, dtype=np.uint8)
    del file
    dataset = jv.data.load(path, stream=True, binarize="dynamic")
    model = jv.models.vae(jax.random.key(0), (28, 28), latent_dim=2, hidden=(8,))
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(jv.elbo, optimizer)
    size, batch_size = len(dataset.splits["train"]["x"]), min(1000, rows // 20)
    with Streamed(step, dataset, batch_size=batch_size) as feed:
        runner = Runner(feed, jv.training.init(jax.random.key(1), model, optimizer))
        quarter, seen = size // batch_size // 4, []
        runner.run(quarter)
        begin = time.perf_counter()
        for _ in range(4 * epochs):
            runner.run(quarter)
            seen.append(resident())
        rate = 4 * epochs * quarter * batch_size / (time.perf_counter() - begin)
    print(
        f"memory: a file of {path.stat().st_size / 1e6:,.0f} MB, {epochs} epochs at {rate:,.0f} rows/s; resident "
        f"{min(seen):,.0f} to {max(seen):,.0f} MB, {seen[0]:,.0f} MB early and {seen[-1]:,.0f} MB at the end"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="where TFDS keeps its data")
    parser.add_argument("--batches", type=int, nargs="*", default=[20, 128])
    parser.add_argument("--images", type=int, default=6000, help="that a turn trains on")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="of the file for memory; 0: none"
    )
    parser.add_argument("--epochs", type=int, default=3, help="over that file")
    args = parser.parse_args()
    if args.rows:
        with tempfile.TemporaryDirectory() as folder:
            memory(args.rows, args.epochs, Path(folder))
    options = {"data_dir": args.data, "binarize": "dynamic", "valid_size": 0}
    data = {
        "memory": jv.data.load("mnist", **options),
        "streamed": jv.data.load("mnist", **options, stream=True),
    }
    decode(data["streamed"], 5000)
    for batch_size in args.batches:
        print(f"iwae50, batch {batch_size}")
        compare(args, batch_size, data)


if __name__ == "__main__":
    main()
