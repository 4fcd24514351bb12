"""Annealed importance sampling of a VAE on MNIST, and how far it can be from log p(x).

Claim: on 100 images simulated from the model, the two bounds of bidirectional Monte Carlo lie less than 1 nat apart.

    python experiments/ais_sandwich.py --data mnist --data-dir DIR      # TFDS's prepared mnist
    python experiments/ais_sandwich.py --data DIR                       # or a folder of the four IDX files

Protocol: 784-200-200-z50 and mirrored, tanh, ELBO, Adam 1e-3, batch 100, 6,000 steps, bits redrawn from the grey levels at every
draw, all 60,000 training images, the last step evaluated. Chains: 4 an image and direction from the prior, 2,000 temperatures on
a sigmoid schedule, 5 leapfrog steps a transition, step sizes of a pilot run with 0.65 accepted. Then the same on the first 100
test images, binarised once, beside IWAE-5000 on them. The sandwich holds for simulated images alone; on real ones, that neither
of two estimates that err downwards is much above the other is an indication.
Source: Wu, Burda, Salakhutdinov and Grosse (2017), "On the quantitative analysis of decoder-based generative models", whose
chains are 16 with 10,000 temperatures and 10 leapfrog steps. Departs from the source: fewer of each, frozen step sizes.

Measured (seed 0, one core of an AMD EPYC shared with heavy other work, JAX 0.10.2): simulated images at least -115.19 +- 2.57 and
at most -115.06 +- 2.57 nats, gap 0.14 +- 0.04. Real images: AIS -98.33 +- 2.91, IWAE-5000 -98.90 +- 2.96, AIS better by
0.57 +- 0.11. The whole command took 3.4 minutes of that core's time (21 by the clock, of which training 5, the sandwich 12, AIS
3.6). With 200 temperatures of 10 steps and 50 images the gap was 1.59 +- 0.20 nats from the prior and 0.11 +- 0.06 with
--start posterior (another training of the same architecture).
"""

import argparse
import time
from functools import partial

import jax
import optax

import jaxvae as jv
from jaxvae.evaluation import mean_and_error


def train(dataset: jv.data.Dataset, *, total_steps: int, seed: int) -> jv.Model:
    """The last step of one run with the ELBO."""
    key = jax.random.key(seed)
    model = jv.models.vae(key, dataset.event_shape, latent_dim=50, hidden=(200, 200))
    optimizer = optax.adam(1e-3)
    state = jv.training.init(jax.random.key(seed + 1), model, optimizer)
    step = jv.training.make_step(jv.elbo, optimizer)
    state, _ = jv.training.fit(
        state, step, dataset, batch_size=100, total_steps=total_steps, eval_every_steps=total_steps
    )
    return state.model


def main() -> None:
    """Train, sandwich simulated images, and compare with IWAE on real ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a TFDS name or a folder of IDX files")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=6_000, help="shorter to try it out")
    parser.add_argument("--num-examples", type=int, default=100, help="images of each kind")
    parser.add_argument("--num-chains", type=int, default=4)
    parser.add_argument("--num-temperatures", type=int, default=2_000)
    parser.add_argument("--num-leapfrog", type=int, default=5)
    parser.add_argument("--start", choices=["prior", "posterior"], default="prior")
    parser.add_argument("--num-samples", type=int, default=5_000, help="K of IWAE")
    args = parser.parse_args()
    dataset = jv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic", valid_size=0)
    begin = time.time()
    model = train(dataset, total_steps=args.total_steps, seed=args.seed)
    print(f"training {time.time() - begin:.0f} s", flush=True)

    chains = {
        "num_chains": args.num_chains,
        "num_temperatures": args.num_temperatures,
        "num_leapfrog": args.num_leapfrog,
        "start": args.start,
    }
    begin = time.time()
    both = jv.evaluation.bdmc(
        jax.random.key(args.seed + 2), model, num_examples=args.num_examples, **chains
    )
    gap, error = both.gap
    print(f"simulated: {both}; {time.time() - begin:.0f} s")
    print(f"gap {gap:.2f} +- {error:.2f} nats    claim below 1", flush=True)

    xs = jv.training.observe_split(jax.random.key(args.seed + 3), dataset, "test")
    xs = xs[: args.num_examples]
    estimates = {}
    for name, function in (
        ("AIS", partial(jv.evaluation.ais, **chains)),
        ("IWAE", partial(jv.evaluation.log_likelihood, num_samples=args.num_samples)),
    ):
        begin = time.time()
        found = function(jax.random.key(args.seed + 4), model, xs)
        estimates[name] = found.estimate
        mean, error = found.mean()
        print(
            f"real: {name} {mean:.2f} +- {error:.2f} nats, {time.time() - begin:.0f} s", flush=True
        )
    difference, error = mean_and_error(estimates["AIS"] - estimates["IWAE"])
    print(f"AIS - IWAE-{args.num_samples}, paired: {difference:.2f} +- {error:.2f} nats")


if __name__ == "__main__":
    main()
