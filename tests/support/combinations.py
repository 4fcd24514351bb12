"""Combinations of model, objective and estimator: the allowed ones are found by tracing, and stored in a table.

python -m tests.support.combinations            # the counts
python -m tests.support.combinations --write    # write the table, and its counts in CONTRIBUTING.md
"""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae as jv
from jaxvae.batching import unpack
from jaxvae.binding import bind
from tests.support.contracts import CONTRACTS
from tests.support.refusals import unchecked

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/laws/combinations.json"
SENTENCE = ROOT / "CONTRIBUTING.md"
PLACE = re.compile(r"(<!-- combinations -->)(.*?)(<!-- end -->)", re.DOTALL)

ESTIMATORS = tuple(jv.gradients.ESTIMATORS)
NUM_SAMPLES = 3


class Case(NamedTuple):
    """A model, and three examples for it."""

    make: Callable[[], Any]
    batch: dict[str, np.ndarray]


def _with_posterior(name: str) -> Case:
    options = {"num_categories": 3} if name == "categorical" else {}
    make = partial(
        jv.models.vae,
        jax.random.key(3),
        (6,),
        latent_dim=2,
        hidden=(5,),
        posterior=name,
        **options,
    )
    return Case(make, CONTRACTS["vae"].batch)


POSTERIORS = ("full_covariance", "laplace", "spline", "iaf", "planar", "bernoulli", "categorical")
"""Posteriors besides "diagonal", which most models of the contracts have."""

MODELS = {name: Case(contract.make, contract.batch) for name, contract in CONTRACTS.items()} | {
    f"vae of posterior {name}": _with_posterior(name) for name in POSTERIORS
}

FORMS = {
    "elbo, analytic": partial(jv.elbo, kl="analytic", num_samples=NUM_SAMPLES),
    "elbo, entropy": partial(jv.elbo, kl="entropy", num_samples=NUM_SAMPLES),
    "elbo, monte_carlo": partial(jv.elbo, kl="monte_carlo", num_samples=NUM_SAMPLES),
    "iwae": partial(jv.iwae, num_samples=NUM_SAMPLES),
}
"""The objectives that are tried with every model and every estimator."""

PARTITION = jnp.array([0.0, 0.3, 0.6])
BOUNDS = {
    "elbo": jv.bounds.elbo,
    "iwae": jv.bounds.iwae,
    "renyi": partial(jv.bounds.renyi, alpha=0.5),
    "vr_max": jv.bounds.vr_max,
    "combination_iwae": partial(jv.bounds.combination_iwae, beta=0.3),
    "thermodynamic": partial(jv.bounds.thermodynamic, betas=PARTITION),
    "chi_upper": jv.bounds.chi_upper,
}
OTHERS = {
    f"importance_weighted, {name}": partial(
        jv.importance_weighted, bound=bound, num_samples=NUM_SAMPLES
    )
    for name, bound in BOUNDS.items()
} | {"multiply_iwae": partial(jv.multiply_iwae, num_outer=2, num_samples=2)}
"""Further objectives, tried with some models and every estimator."""


def _first_values(x: jax.Array) -> jax.Array:
    return x.reshape(-1)[:2]


LABELLED = {
    "labelled_x": jnp.asarray(CONTRACTS["ssvae"].batch["x"][:2]),
    "labelled_y": jnp.array([2, 0]),
}
WITHOUT_CHOICE = {
    "partially_iwae": partial(jv.partially_iwae, num_outer=2, num_samples=2),
    "with_encoder_loss": jv.autonomous.with_encoder_loss(
        jv.elbo, jv.autonomous.noise_consistency, weight=0.5
    ),
    "autonomous_encoder": jv.autonomous.autonomous_encoder(
        jv.elbo, partial(jv.autonomous.supervised_latents, target=_first_values)
    ),
    "semi_supervised": partial(jv.semi_supervised.semi_supervised, **LABELLED),
}
"""Objectives that have no option for the estimator, or a fixed one."""

ASKED_FOR_MORE = ("vae", "ssvae", "vae of posterior bernoulli")

COUPLED = {
    "beta_tc_vae": partial(jv.coupled.beta_tc_vae, dataset_size=9, beta=3.0),
    "beta_tc_vae, stratified": partial(
        jv.coupled.beta_tc_vae, dataset_size=9, beta=3.0, weights="stratified"
    ),
    "dip_vae, i": partial(jv.coupled.dip_vae, lambda_off_diagonal=2.0, lambda_diagonal=1.0),
    "dip_vae, ii": partial(
        jv.coupled.dip_vae, lambda_off_diagonal=2.0, lambda_diagonal=1.0, form="ii"
    ),
    "info_vae": partial(jv.coupled.info_vae, alpha=0.5, lambda_=2.0),
    "info_vae, rbf": partial(jv.coupled.info_vae, alpha=0.5, lambda_=2.0, kernel="rbf"),
    "factor_vae": partial(jv.coupled.factor_vae, gamma=2.0),
}


def asked(model: str) -> dict[str, Any]:
    """Return the objectives that are tried with a model, by name, including those that it refuses."""
    more = model in ASKED_FOR_MORE
    chosen = {
        f"{name}; {gradient}": partial(objective, gradient=gradient)
        for name, objective in (FORMS | (OTHERS if more else {})).items()
        for gradient in ESTIMATORS
    }
    return chosen | (WITHOUT_CHOICE if more else {})


def table() -> dict[str, list[str]]:
    """Read the table: model -> its allowed combinations."""
    return json.loads(TABLE.read_text())


def allowed(model: str) -> dict[str, Any]:
    """Return the objectives of a model that the table allows."""
    every = asked(model)
    return {name: every[name] for name in table()[model]}


def refusal(objective: Any, model: Any, row: Any) -> str | None:
    """Return the message with which the gradient of an objective is refused, or None, by tracing it."""

    def loss(model: Any) -> jax.Array:
        terms = objective(jax.random.key(0), bind(model, row.label, row.mask), row.x)
        return terms.objective

    try:
        with unchecked():
            jax.eval_shape(jax.grad(loss), model)
    except jv.InputError as error:
        return str(error)
    return None


def find(model: str) -> list[str]:
    """Return the combinations of a model that are not refused."""
    case = MODELS[model]
    built, examples = case.make(), unpack(case.batch)
    row = jax.tree.map(lambda column: column[0], examples)
    return [name for name, o in asked(model).items() if refusal(o, built, row) is None]


def counts() -> str:
    """Return a phrase with the numbers of combinations."""
    found = table()
    every = sum(len(asked(model)) for model in found)
    held = sum(map(len, found.values()))
    return f"{held} of {every} combinations of {len(found)} models"


def write() -> None:
    TABLE.write_text(json.dumps({name: find(name) for name in MODELS}, indent=1) + "\n")
    text = SENTENCE.read_text()
    SENTENCE.write_text(PLACE.sub(lambda m: m[1] + counts() + m[3], text))


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    print(counts())
