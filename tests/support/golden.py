"""The golden record: losses of 20 training steps and test numbers of five models, in bits.

    python -m tests.support.golden            # the numbers of this JAX on this machine, as JSON
    python -m tests.support.golden --write    # replace the record of this kind of machine

A record belongs to a version of JAX, a backend and a kind of machine. If all three match, numbers must be
the same to the bit; otherwise to 1e-5, relative, which is about 100 times the rounding of float32.
"""

import argparse
import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae as jv
from jaxvae.bench.records import cpu_name, usable_cpus

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests/golden/records.json"
TOLERANCE = 1e-5
STEPS = 20
LEARNING_RATE = 1e-3
TEST_ROWS = 100

Numbers = dict[str, dict[str, Any]]
"""Name of a model -> `losses` [20], `elbo` and `log_likelihood`, means in nats."""


@cache
def digits() -> Any:
    return jv.data.load("digits", binarize="dynamic")


class Case(NamedTuple):
    """A model, its training objective, and the ELBO for its evaluation."""

    model: Callable[..., Any]
    objective: Callable[..., Any] = jv.elbo
    elbo: Callable[..., Any] = jv.elbo


def with_few_labels(key: Any, model: Any, x: Any) -> Any:
    """Compute the objective of M2 with 20 labelled rows."""
    rows = digits().splits["train"]
    xs, labels = jnp.round(jnp.asarray(rows["x"][:20]) / 16), jnp.asarray(rows["label"][:20])
    return jv.semi_supervised.semi_supervised(key, model, x, labelled_x=xs, labelled_y=labels)


MONTE_CARLO = partial(jv.elbo, kl="monte_carlo")
SHAPE = (8, 8)
CASES = {
    "vae": Case(partial(jv.models.vae, event_shape=SHAPE, latent_dim=8, hidden=(64,))),
    "conv_vae": Case(
        partial(jv.models.conv_vae, event_shape=SHAPE, latent_dim=4, channels=(8, 16))
    ),
    "gmvae": Case(
        partial(jv.models.gmvae, event_shape=SHAPE, latent_dim=4, num_components=5, hidden=(32,)),
        partial(jv.iwae, num_samples=5, gradient="dreg"),
        MONTE_CARLO,
    ),
    "ssvae": Case(
        partial(jv.models.ssvae, event_shape=SHAPE, num_classes=10, latent_dim=4, hidden=(32,)),
        with_few_labels,
        partial(jv.elbo, gradient="enumerate"),
    ),
    "hierarchical": Case(
        partial(
            jv.models.hierarchical,
            event_shape=SHAPE,
            layer_dims=(6, 3),
            hidden=(32,),
            upper_hidden=(16,),
        ),
        MONTE_CARLO,
        MONTE_CARLO,
    ),
}


def trained(case: Case, *, seed: int = 0, learning_rate: float = LEARNING_RATE) -> Any:
    """Train for 20 steps, and return the model and the losses; `seed` is that of training."""
    optimizer = optax.adam(learning_rate)
    state = jv.training.init(jax.random.key(seed), case.model(jax.random.key(7)), optimizer)
    step = jv.training.make_step(case.objective, optimizer)
    state, history = jv.training.fit(
        state, step, digits(), batch_size=64, total_steps=STEPS, eval_every_steps=1
    )
    return state.model, [record["train"]["loss"] for record in history]


def numbers_of(case: Case) -> dict[str, Any]:
    """Train, then evaluate the first test rows."""
    model, losses = trained(case)
    xs = jv.training.observe_split(jax.random.key(8), digits(), "test")[:TEST_ROWS]
    found = jv.evaluation.log_likelihood(jax.random.key(9), model, xs, num_samples=20)
    terms = jv.evaluation.terms(jax.random.key(10), model, xs, objective=case.elbo)
    return {
        "losses": losses,
        "elbo": float(np.mean(terms.bound, dtype=np.float64)),
        "log_likelihood": float(np.mean(found.estimate, dtype=np.float64)),
    }


def all_numbers() -> Numbers:
    return {name: numbers_of(case) for name, case in CASES.items()}


def kind() -> str:
    """Return the version of JAX, the backend, and the properties of the machine that affect compiled programs."""
    backend = jax.default_backend()
    where = jax.devices()[0].device_kind
    if backend == "cpu":
        where = f"{cpu_name()}, vectors of {vector_bits()} bits, {usable_cpus()} cores"
    return f"JAX {jax.__version__}, {backend}, {where}"


def vector_bits() -> int:
    """Return the width of the widest vectors of this processor, in bits."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", cpuinfo.read_text())) if cpuinfo.is_file() else set()
    return 512 if "avx512f" in flags else 256 if "avx2" in flags else 128


def records() -> dict[str, Numbers]:
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def require_golden(found: Numbers, recorded: dict[str, Numbers], of_kind: str) -> float:
    """Compare numbers with every record: to the bit if it is of this kind, else to 1e-5.

    Returns:
        The largest relative difference.
    """
    assert recorded, f"no records in {FILE}"
    largest = 0.0
    for name, expected in recorded.items():
        assert set(found) == set(expected), f"{name}: other models"
        for model, of_model in expected.items():
            a, b = flat(found[model]), flat(of_model)
            assert a.shape == b.shape, f"{name}: {model}: other numbers"
            error = float(np.max(np.abs(a - b) / np.abs(b)))
            allowed = 0.0 if name == of_kind else TOLERANCE
            assert error <= allowed, f"{name}: {model}: off by {error:.1e}, allowed {allowed:.0e}"
            largest = max(largest, error)
    return largest


def flat(numbers: dict[str, Any]) -> np.ndarray:
    return np.array([*numbers["losses"], numbers["elbo"], numbers["log_likelihood"]])


def twins() -> dict[str, list[float]]:
    """Return losses of the vae that must be rejected: with other keys, or a learning rate off by 1e-4, relative."""
    vae = CASES["vae"]
    return {
        "keys": trained(vae, seed=1)[1],
        "learning rate": trained(vae, learning_rate=LEARNING_RATE * (1 + 1e-4))[1],
    }


def main() -> None:
    """Print the numbers of this machine and of the twins as JSON; with --write, store the numbers instead."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the record of this kind")
    write = parser.parse_args().write
    if jax.default_backend() != "cpu":  # where float32 products round their factors by default
        jax.config.update("jax_default_matmul_precision", "highest")
    found, name = all_numbers(), kind()
    if not write:
        print(json.dumps({"kind": name, "numbers": found, "twins": twins()}))
        return
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(dict(sorted((records() | {name: found}).items())), indent=1) + "\n")
    print(f"wrote {name}")


if __name__ == "__main__":
    main()
