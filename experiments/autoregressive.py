"""How much of x an autoregressive decoder leaves to its latents.

python experiments/autoregressive.py
"""

import argparse
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

import jaxvae as jv
from jaxvae.training import linear_warmup, observe_split


class Setting(NamedTuple):
    """A model and how it is trained."""

    name: str
    factory: Any
    latent_dim: int | None
    objective: Any = jv.elbo
    schedules: dict[str, Any] | None = None


def settings(latent_dim: int, free_bits: float, total_steps: int) -> list[Setting]:
    """The masked decoder alone, one that factorises, with latents,
    with a remedy, and a weaker one."""
    made = partial(jv.models.autoregressive, decoder="made")
    warm_up = {"beta": linear_warmup(total_steps // 2, total_steps)}
    return [
        Setting("no latents", made, 0),
        Setting("factorising", jv.models.vae, latent_dim),
        Setting("plain", made, latent_dim),
        Setting("warm-up", made, latent_dim, jv.elbo, warm_up),
        Setting("free bits", made, latent_dim, partial(jv.elbo, free_bits=free_bits)),
        Setting("markov", partial(made, decoder="markov", order=1), latent_dim),
    ]


def train(dataset: Any, setting: Setting, args: argparse.Namespace) -> Any:
    """The trained model of a setting."""
    key = jax.random.key(args.seed)
    model = setting.factory(
        jax.random.fold_in(key, 0),
        dataset.event_shape,
        latent_dim=setting.latent_dim,
        hidden=args.hidden,
        activation="relu",
    )
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(setting.objective, optimizer, schedules=setting.schedules)
    state = jv.training.init(jax.random.fold_in(key, 1), model, optimizer)
    total_steps = args.total_steps
    state, _ = jv.training.fit(state, step, dataset, batch_size=100, total_steps=total_steps)
    return state.model


def main() -> None:
    """Train each setting; print the bounds, and what the latents cost and are worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, a TFDS name or an IDX folder")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128])
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--free-bits", type=float, default=0.5, help="nats of each latent")
    parser.add_argument("--total-steps", type=int, default=2_000)
    parser.add_argument("--num-samples", type=int, default=500, help="of the estimate of log p(x)")
    parser.add_argument("--num-test", type=int, help="how many test images; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="settings to run")
    args = parser.parse_args()
    dataset = jv.data.load(args.data, data_dir=args.data_dir, binarize="threshold")
    test = observe_split(jax.random.key(0), dataset, "test")[: args.num_test]
    key = jax.random.key(1)
    print(
        "test nats       NELBO            NLL              rate             drop             use of z"
    )
    for setting in settings(args.latent_dim, args.free_bits, args.total_steps):
        if args.only and setting.name not in args.only:
            continue
        begin = time.perf_counter()
        model = train(dataset, setting, args)
        bound = jv.evaluation.terms(key, model, test).bound
        log_p = jv.evaluation.log_likelihood(key, model, test, num_samples=args.num_samples)
        reliance = jv.evaluation.reliance_on_latents(key, model, test)
        alone = log_p.estimate if alone is None else alone
        columns = (
            jv.evaluation.mean_and_error(-bound),
            jv.evaluation.mean_and_error(-log_p.estimate),
            jv.evaluation.mean_and_error(log_p.estimate - alone),
            reliance.mean_rate,
            reliance.mean_drop,
        )
        numbers = "".join(f"{mean:8.2f} +- {error:<6.2f}" for mean, error in columns)
        seconds = time.perf_counter() - begin
        print(f"{setting.name:<12}{numbers} {reliance.verdict}   ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
