"""One layer of stochastic units against two on MNIST, with the same budget.

Claim: TODO

    python experiments/two_layers.py --data DIR          # a folder of the four IDX files
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv

LAYERS = {"one": (50,), "two": (100, 50), "ladder": (100, 50)}


def build(name: str, mean: np.ndarray) -> jv.Model:
    """784-200-200-z50, or x-200-200-h1(100)-100-100-h2(50), mirrored, Glorot; p(x) starts at the mean."""
    key, options = (
        jax.random.key(0),
        {"hidden": (200, 200), "activation": "tanh", "initializer": "glorot_uniform"},
    )
    if name == "one":
        model = jv.models.vae(key, mean.shape, latent_dim=50, **options)
    else:
        factory = jv.models.ladder if name == "ladder" else jv.models.hierarchical
        model = factory(key, mean.shape, layer_dims=LAYERS[name], upper_hidden=(100, 100), **options)
    clipped = np.clip(mean.reshape(-1), 0.001, 0.999)
    model.decoder.layers[-1].bias[...] = jnp.asarray(np.log(clipped / (1 - clipped)), jnp.float32)
    return model


def train(name: str, dataset: jv.data.Dataset, args: argparse.Namespace) -> jv.Model:
    """The same steps, batches, objective and learning rates for every model."""
    mean = dataset.splits["train"]["x"].mean(axis=0) / dataset.scale
    rate = optax.cosine_decay_schedule(args.learning_rate, args.total_steps)
    optimizer = optax.adam(rate, eps=1e-4)
    if args.num_samples == 1:
        objective = partial(jv.elbo, kl="monte_carlo")
    else:
        objective = partial(jv.iwae, num_samples=args.num_samples)
    schedules = {}
    if args.warmup_steps:
        warmup = jv.training.linear_warmup(args.warmup_steps, args.total_steps)
        schedules = {"beta": warmup}
    step = jv.training.make_step(objective, optimizer, schedules=schedules)
    state = jv.training.init(jax.random.key(args.seed), build(name, mean), optimizer)
    state, history = jv.training.fit(
        state, step, dataset, batch_size=args.batch_size, total_steps=args.total_steps
    )
    print(name, "train bound", [round(r["train"]["bound"], 2) for r in history], flush=True)
    return state.model


def main() -> None:
    """Train the models in turn, evaluate them on the same bits, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a TFDS name or a folder of IDX files")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--models", nargs="+", choices=LAYERS, default=["one", "two"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--num-samples", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=12_000)
    parser.add_argument("--test-size", type=int, default=10_000)
    parser.add_argument("--test-num-samples", type=int, default=500)
    args = parser.parse_args()
    dataset = jv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic", valid_size=0)
    xs = jv.training.observe_split(jax.random.key(1), dataset, "test")[: args.test_size]
    nll = {}
    for name in args.models:
        begin = time.time()
        model = train(name, dataset, args)
        trained = time.time()
        key = jax.random.key(2)
        result = jv.evaluation.log_likelihood(key, model, xs, num_samples=args.test_num_samples)
        nll[name] = -result.estimate
        mean, error = jv.evaluation.mean_and_error(nll[name])
        print(f"{name:7} NLL {mean:.2f} +- {error:.2f}   {trained - begin:.0f} s + {time.time() - trained:.0f} s")
        sub = xs[:1000]
        active = jv.evaluation.active_units(model, sub, num_samples=None if name == "one" else 1000, batch_size=20)
        each = np.split(active.active, np.cumsum(LAYERS[name])[:-1])
        print("active units", "+".join(str(int(a.sum())) for a in each))
        if name != "one":
            kl = jv.evaluation.kl_per_layer(key, model, sub, num_samples=10)
            print("KL per layer", kl.mean, kl.standard_error)
        if name != args.models[0]:
            gain, error = jv.evaluation.mean_and_error(nll[args.models[0]] - nll[name])
            print(f"{name} better by {gain:.2f} +- {error:.2f}", flush=True)


if __name__ == "__main__":
    main()
