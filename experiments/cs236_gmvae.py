"""The GMVAE of Stanford's CS236, problem set 2, beside the VAE with the prior N(0, I), on MNIST.

Claim: on all 10,000 test images the NELBO of the VAE is 99.4 +- 0.7 nats, that of the GMVAE 2 to 4 nats lower on the same bits;
IWAE-1000 is better than IWAE-1 by 4.0 to 4.7 nats for the VAE and by 3.4 to 4.3 for the GMVAE.

    python experiments/cs236_gmvae.py --data mnist --data-dir DIR    # TFDS's prepared mnist
    python experiments/cs236_gmvae.py --data DIR                     # or a folder of the four IDX files

Protocol: 784-300-300-z10 and mirrored, ELU, variance = softplus + 1e-8, PyTorch's initial weights, Adam 1e-3, batch 100, 20,000
steps, bits redrawn from the grey levels at every draw, all 60,000 training images, no validation, the last step evaluated. The
prior of the GMVAE is a mixture of 500 equal weights with learned means and variances. Both models begin from the same networks
and see the same images, bits and noise at every step.
Source: Stanford CS236 (2018), problem set 2, problems 1 and 2. The course's table is on 100 test images; these are all of them.

Evaluation: 1,000 log-weights of every test image, the same bits for both models. IWAE-k is the mean over the 1000 / k groups of
k, so that IWAE-1 is the ELBO averaged over 1,000 samples and IWAE-1000 is `jv.evaluation.log_likelihood` with the same key.

Measured (seed 0, the IDX folder, two cores of an AMD EPYC with AVX-512, JAX 0.10.2), negative bounds in nats:

             NELBO           IWAE-10   IWAE-100   IWAE-1000   rate
    VAE      99.60 +- 0.30    96.78     95.72      95.21      19.20
    GMVAE    97.23 +- 0.30    94.85     93.96      93.56      17.64
    paired    2.36 +- 0.06     1.93      1.75       1.65

IWAE-1000 better than IWAE-1: VAE 4.39 +- 0.02, GMVAE 3.67 +- 0.02. Errors are over test images, not over seeds. The whole command
took 293 s of processor time; on a machine shared with other work, 15 minutes.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.batching import map_examples
from jaxvae.evaluation import mean_and_error
from jaxvae.log_weights import problem

NETWORKS = {
    "latent_dim": 10,
    "hidden": (300, 300),
    "activation": "elu",
    "initializer": "fan_in_uniform",
}


def train(key: jax.Array, model: jv.Model, dataset, *, kl: str, total_steps: int) -> jv.Model:
    """The model after `total_steps`."""
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(partial(jv.elbo, kl=kl), optimizer)
    state = jv.training.init(key, model, optimizer)
    state, _ = jv.training.fit(state, step, dataset, batch_size=100, total_steps=total_steps)
    return state.model


@partial(jax.jit, static_argnames="num_samples")
def evaluate(key: jax.Array, model: jv.Model, xs: jax.Array, *, num_samples: int):
    """IWAE-1, -10, .., -K and the two parts of the NELBO, for every image, nats."""
    sizes = [k for k in (1, 10, 100, 1000) if num_samples % k == 0]

    def one(key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        task = problem(key, model, x, num_samples=num_samples, bound=jv.bounds.iwae, chunk_size=100)
        s = task.draw()
        bounds = {f"IWAE-{k}": jv.bounds.multiply_iwae(s.log_w.reshape(-1, k)) for k in sizes}
        rate = jnp.mean(s.log_q_z_x - s.log_p_z)
        return bounds | {"rate": rate, "distortion": -jnp.mean(s.log_p_x_z)}

    return map_examples(one, key, xs, batch_size=10)


def main() -> None:
    """Train both, evaluate both on the same bits, and print the claims beside what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a TFDS name or a folder of IDX files")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=20_000, help="fewer to try it out")
    parser.add_argument("--num-samples", type=int, default=1_000, help="of a test image")
    parser.add_argument("--test-images", type=int, default=10_000, help="fewer to try it out")
    args = parser.parse_args()
    dataset = jv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic", valid_size=0)
    keys = jax.random.split(jax.random.key(args.seed), 4)
    init_key, run_key, bits_key, noise_key = keys
    xs = jv.training.loop.observe_split(bits_key, dataset, "test")[: args.test_images]
    models = {
        "VAE": (jv.models.vae(init_key, dataset.event_shape, **NETWORKS), "analytic"),
        "GMVAE": (
            jv.models.gmvae(init_key, dataset.event_shape, num_components=500, **NETWORKS),
            "monte_carlo",
        ),
    }
    values = {}
    for name, (model, kl) in models.items():
        begin = time.perf_counter()
        model = train(run_key, model, dataset, kl=kl, total_steps=args.total_steps)
        trained = time.perf_counter()
        found = evaluate(noise_key, model, xs, num_samples=args.num_samples)
        values[name] = {k: np.asarray(v, np.float64) for k, v in found.items()}
        done = time.perf_counter()
        print(f"{name}: training {trained - begin:.0f} s, evaluation {done - trained:.0f} s")
    report(values)


def report(values: dict[str, dict[str, np.ndarray]]) -> None:
    """Means over images with their standard errors, and the paired differences."""

    def said(difference: np.ndarray) -> str:
        mean, error = mean_and_error(difference)
        return f"{mean:6.2f} +- {error:.2f} nats"

    vae, gmvae = values["VAE"], values["GMVAE"]
    sizes = [name for name in vae if name.startswith("IWAE-")]
    first, last = sizes[0], sizes[-1]
    for name, found in values.items():
        print(f"{name:<5} test NELBO {said(-found[first])}, rate {said(found['rate'])}")
        print("     ", ", ".join(f"{size} {said(-found[size])}" for size in sizes[1:]))
    for size in sizes:
        print(f"GMVAE better than the VAE in {size:<9} by {said(gmvae[size] - vae[size])}")
    print(f"claims: NELBO of the VAE 99.4 +- 0.7; GMVAE better in {first} by 2 to 4")
    for name, claim in (("VAE", "4.0 to 4.7"), ("GMVAE", "3.4 to 4.3")):
        gain = values[name][last] - values[name][first]
        print(f"{last} better than {first}, {name:<5} {said(gain)}    claim {claim} at 1000")


if __name__ == "__main__":
    main()
