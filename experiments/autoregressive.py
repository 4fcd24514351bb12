"""An autoregressive decoder ignores its latents when trained plainly.

    python experiments/autoregressive.py
"""

import argparse
import time
from functools import partial

import jax
import numpy as np
import optax

import jaxvae as jv
from jaxvae.training import linear_warmup, observe_split


import os
DEC=os.environ.get("DEC","made")


def settings(latent_dim: int, free_bits: float, total_steps: int):
    """Name -> latents, decoder, objective and schedules."""
    made = {"decoder": DEC}
    warm_up = {"beta": linear_warmup(total_steps // 2, total_steps)}
    return {
        "no latents": (0, made, jv.elbo, {}),
        "plain": (latent_dim, made, jv.elbo, {}),
        "warm-up": (latent_dim, made, jv.elbo, warm_up),
        "free bits": (latent_dim, made, partial(jv.elbo, free_bits=free_bits), {}),
        "markov": (latent_dim, {"decoder": "markov", "order": 1}, jv.elbo, {}),
    }


def train(dataset, latent_dim, options, objective, schedules, args):
    """Train one setting with the seed, and return the model."""
    key = jax.random.key(args.seed)
    model = jv.models.autoregressive(
        jax.random.fold_in(key, 0),
        dataset.event_shape,
        latent_dim=latent_dim,
        hidden=args.hidden,
        activation="tanh",
        **options,
    )
    optimizer = optax.adam(args.learning_rate)
    step = jv.training.make_step(objective, optimizer, schedules=schedules)
    state = jv.training.init(jax.random.fold_in(key, 1), model, optimizer)
    state, h = jv.training.fit(
        state, step, dataset, batch_size=100, total_steps=args.total_steps, validation=jv.elbo,
    )
    print([round(r["valid"]["bound"], 2) for r in h])
    return state.model


def main() -> None:
    """Train each setting and print what its latents cost and are worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, a TFDS name or a folder of IDX files")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--hidden", type=int, nargs="*", default=[128])
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--free-bits", type=float, default=0.25)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--total-steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    dataset = jv.data.load(args.data, data_dir=args.data_dir, binarize="threshold")
    test = observe_split(jax.random.key(0), dataset, "test")
    for name, setting in settings(args.latent_dim, args.free_bits, args.total_steps).items():
        if args.only and name not in args.only: continue
        begin = time.time()
        model = train(dataset, *setting, args)
        key = jax.random.key(1)
        bound = jv.evaluation.mean_and_error(jv.evaluation.terms(key, model, test).bound)
        log_p = jv.evaluation.log_likelihood(key, model, test, num_samples=500)
        nll, nll_error = log_p.mean()
        reliance = jv.evaluation.reliance_on_latents(key, model, test)
        print(name, f"NELBO {-bound[0]:.2f}+-{bound[1]:.2f} NLL {-nll:.2f}+-{nll_error:.2f}", reliance, f"{time.time()-begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
