"""The record of every bound under every estimator: terms and gradients of one example, float32.

    python -m tests.support.golden_gradients            # compares the library with the record
    python -m tests.support.golden_gradients --write    # replaces the record

It says nothing of what is right, which the oracles do. It holds still what a change of the code must not move.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae as jv

FILE = Path(__file__).parents[1] / "golden/gradients.json"
TOLERANCE = 1e-5
"""Of the largest entry of each array: about 100 times the rounding of float32."""

SHAPE = (4,)
X = np.array([1, 0, 1, 1], np.float32)
KEY = jax.random.key(5)

Record = dict[str, list[list[float]]]
"""Name of a case -> its terms, then the gradient of its objective in each parameter, flattened."""


def reals() -> Any:
    """Return a model whose latents have a gradient of their own."""
    return jv.models.vae(jax.random.key(1), SHAPE, latent_dim=2, hidden=(3,))


def bits() -> Any:
    """Return a model of discrete latents."""
    return jv.models.vae(jax.random.key(2), SHAPE, latent_dim=2, hidden=(3,), posterior="bernoulli")


def of_reals() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the cases of real latents."""
    forms = ("analytic", "entropy", "monte_carlo")
    for kl in forms:
        estimators = ["pathwise", "score"] + ["stl", "dreg"] * (kl == "monte_carlo")
        for gradient in estimators:
            options = {"kl": kl, "gradient": gradient, "num_samples": 3}
            yield f"elbo {kl} {gradient}", partial(jv.elbo, **options)
            yield f"elbo {kl} {gradient} beta 2", partial(jv.elbo, beta=2.0, **options)
        yield f"elbo {kl} in chunks", partial(jv.elbo, kl=kl, num_samples=5, chunk_size=2)
    yield "elbo free bits", partial(jv.elbo, free_bits=0.2, beta=0.5)
    yield "elbo capacity", partial(jv.elbo, capacity=1.0, beta=3.0)
    scored = partial(jv.elbo, kl="monte_carlo", gradient="score", num_samples=3)
    yield "elbo score leave one out", partial(scored, baseline="leave_one_out")
    yield "elbo score baseline", partial(scored, baseline=-2.0)
    for gradient in ("pathwise", "stl", "dreg", "score", "vimco", "rws"):
        yield f"iwae {gradient}", partial(jv.iwae, num_samples=4, gradient=gradient)
    renyi = partial(jv.bounds.renyi, alpha=0.5)
    for gradient in ("pathwise", "dreg", "score"):
        options = {"bound": renyi, "num_samples": 4, "gradient": gradient}
        yield f"renyi {gradient}", partial(jv.objectives.importance_weighted, **options)
    yield "multiply", partial(jv.objectives.multiply_iwae, num_outer=2, num_samples=3)
    yield "partially", partial(jv.objectives.partially_iwae, num_outer=2, num_samples=3)


def of_bits() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the cases of discrete latents."""
    for kl in ("analytic", "entropy", "monte_carlo"):
        for gradient in ("score", "enumerate", "disarm"):
            options = {"kl": kl, "gradient": gradient, "num_samples": 3, "beta": 2.0}
            yield f"bits {kl} {gradient}", partial(jv.elbo, **options)
        for gradient in ("gumbel_softmax", "straight_through") * (kl != "monte_carlo"):
            options = {"kl": kl, "gradient": gradient, "num_samples": 3, "temperature": 0.7}
            yield f"bits {kl} {gradient}", partial(jv.elbo, **options)
    for gradient in ("score", "vimco", "rws"):
        yield f"bits iwae {gradient}", partial(jv.iwae, num_samples=4, gradient=gradient)


def measure() -> Record:
    """Compute every case, in one program for each model."""
    found: Record = {}
    for model, cases in ((reals(), dict(of_reals())), (bits(), dict(of_bits()))):

        def all_cases(model: Any, cases: Any = cases) -> Any:
            def one(case: Any) -> Any:
                def objective(model: Any) -> Any:
                    terms = case(KEY, model, jnp.asarray(X))
                    return terms.objective, terms

                gradient, terms = jax.grad(objective, has_aux=True)(model)
                return jnp.stack(terms), *map(jnp.ravel, jax.tree.leaves(gradient))

            return {name: one(case) for name, case in cases.items()}

        for name, arrays in jax.jit(all_cases)(model).items():
            found[name] = [[float(str(np.float32(v))) for v in array] for array in arrays]
    return found


def require_same(found: Record, expected: Record) -> float:
    """Compare with a record, to 1e-5 of the largest entry of each array.

    Returns:
        The largest difference, so measured.
    """
    assert set(found) == set(expected), set(found) ^ set(expected)
    largest = 0.0
    for name, arrays in expected.items():
        for place, array in enumerate(arrays):
            a, b = np.array(found[name][place]), np.array(array)
            error = float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-6))
            assert error <= TOLERANCE, f"{name}, array {place}: off by {error:.1e}"
            largest = max(largest, error)
    return largest


def main() -> None:
    """Compare, or with --write replace the record."""
    found = measure()
    if "--write" in sys.argv[1:]:
        lines = [f" {json.dumps(name)}: {json.dumps(arrays)}" for name, arrays in found.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    expected = json.loads(FILE.read_text())
    print(f"{len(found)} cases, at most {require_same(found, expected):.1e} from the record")


if __name__ == "__main__":
    main()
