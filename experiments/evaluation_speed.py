"""What an importance-weighted log-likelihood costs: K = 5,000 samples of z for every MNIST test image.

Claim: IWAE-5000 over the 10,000 test images takes less than 6 minutes on two cores, in memory that does not grow with K.

    python experiments/evaluation_speed.py --data DIR     # a folder of the four IDX files; or a TFDS name

Measured (two cores of an AMD EPYC shared with other work, JAX 0.10.2): 4.15 minutes, 83 GFLOP/s in the products alone; 1.2 MB at
K = 100 and at K = 5,000.

Workload: 784-200-200-z50 with tanh, Bernoulli, float32; weights as they were drawn, since the arithmetic does not depend on them.
It is 2 K (50 x 200 + 200 x 200 + 200 x 784) flop an image, 2.1e13 in all; exponentials of the Bernoulli come on top. Memory is
what the compiled program needs beside its inputs and outputs.
"""

import argparse
import time

import jax
import jax.numpy as jnp

import jaxvae as jv
from jaxvae.batching import unpack
from jaxvae.evaluation.likelihood import _log_likelihood
from jaxvae.evaluation.streams import _batch


def temporary_bytes(model, x, num_samples: int, chunk_size: int, batch_size: int) -> int:
    """What the compiled evaluation of a batch needs beside its inputs and outputs."""
    options = (("chunk_size", chunk_size), ("num_samples", num_samples))
    examples = unpack(x)
    index = jnp.arange(batch_size)
    arguments = _log_likelihood, options, None, model, jax.random.key(0), examples, index
    return _batch.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    """Time it, and compare the memory of K with that of a hundredth of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a TFDS name or a folder of IDX files")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--num-examples", type=int, default=10_000)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--chunk-size", type=int, default=100)
    parser.add_argument("--batch-size", type=int, help="the library's own if not given")
    args = parser.parse_args()
    data = jv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic")
    xs = jv.training.observe_split(jax.random.key(0), data, "test")[: args.num_examples]
    model = jv.models.vae(
        jax.random.key(1), data.event_shape, latent_dim=50, hidden=(200, 200), activation="tanh"
    )
    sizes = {"num_samples": args.num_samples, "chunk_size": args.chunk_size}
    sizes["batch_size"] = args.batch_size
    jv.evaluation.log_likelihood(jax.random.key(2), model, xs[:1000], **sizes)  # compiled here
    begin = time.perf_counter()
    found = jv.evaluation.log_likelihood(jax.random.key(2), model, xs, **sizes)
    seconds = time.perf_counter() - begin
    flop = 2 * args.num_samples * len(xs) * (50 * 200 + 200 * 200 + 200 * 784)
    print("log p(x) = {:.2f} +- {:.2f} nats".format(*found.mean()))
    print(
        f"{len(xs):,} images, K = {args.num_samples:,}: {seconds:.1f} s, {flop / seconds / 1e9:.0f} "
        f"GFLOP/s in the products alone; of 10,000 images: {seconds * 10_000 / len(xs) / 60:.2f} minutes"
    )
    batch_size = args.batch_size or max(1, 1000 // args.chunk_size)
    for num_samples in (max(args.chunk_size, args.num_samples // 100), args.num_samples):
        used = temporary_bytes(model, xs, num_samples, args.chunk_size, batch_size)
        print(f"memory at K = {num_samples:,}: {used / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
