"""Which estimator goes with which bound and posterior; the table in the README is made from this.

`python -m tests.test_composition` writes it there.
"""

import re
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxvae as jv

README = Path(__file__).parents[1] / "README.md"
POSTERIORS = {
    "diagonal, full_covariance, laplace": ("diagonal", "full_covariance", "laplace"),
    "spline, iaf": ("spline", "iaf"),
    "planar": ("planar",),
    "bernoulli": ("bernoulli",),
    "categorical": ("categorical",),
}
FORMS = {
    "A": partial(jv.elbo, kl="analytic", num_samples=2),
    "E": partial(jv.elbo, kl="entropy", num_samples=2),
    "M": partial(jv.elbo, kl="monte_carlo", num_samples=2),
    "W": partial(jv.iwae, num_samples=2),
}


def model(posterior: str, likelihood: str = "bernoulli"):
    options = {"num_categories": 3} if posterior == "categorical" else {}
    return jv.models.vae(
        jax.random.key(0),
        (4,),
        latent_dim=2,
        hidden=(6,),
        posterior=posterior,
        likelihood=likelihood,
        **options,
    )


def refusal(objective, model) -> str | None:
    """Why the gradient of the objective is refused, or None; it is traced, not run."""
    key, x = jax.random.key(0), jnp.array([1.0, 0.0, 1.0, 1.0])
    try:
        jax.eval_shape(jax.grad(lambda model: objective(key, model, x).objective), model)
    except jv.InputError as error:
        return str(error)
    return None


def cell(gradient: str, posteriors: tuple[str, ...]) -> str:
    """The forms that work; the same for every posterior of the group."""
    works = {
        "".join(
            form
            for form, objective in FORMS.items()
            if refusal(partial(objective, gradient=gradient), MODELS[posterior]) is None
        )
        for posterior in posteriors
    }
    assert len(works) == 1, f"{gradient}: {posteriors} differ: {works}"
    return works.pop() or "-"


MODELS = {name: model(name) for names in POSTERIORS.values() for name in names}


@cache
def table() -> str:
    head = f"| gradient | {' | '.join(POSTERIORS)} |\n|---|{'---|' * len(POSTERIORS)}\n"
    rows = [
        f"| `{gradient}` | {' | '.join(cell(gradient, names) for names in POSTERIORS.values())} |"
        for gradient in jv.gradients.ESTIMATORS
    ]
    return head + "\n".join(rows) + "\n"


PLACE = re.compile(r"(<!-- combinations -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.mark.slow
def test_the_table_in_the_readme_is_true():
    shown = PLACE.search(README.read_text())
    assert shown, "the README has no table of combinations"
    assert shown[2] == table(), "run python -m tests.test_composition"


@pytest.mark.slow
def test_a_wrong_table_is_noticed():
    shown = PLACE.search(README.read_text())
    assert shown
    assert shown[2].replace("| AEMW |", "| AEM |", 1) != table()


@pytest.mark.slow
@pytest.mark.parametrize("posterior", MODELS)
def test_the_likelihood_does_not_matter(posterior):
    for likelihood in ("bernoulli", "gaussian"):
        gradient = "score" if posterior in ("bernoulli", "categorical") else "pathwise"
        objective = partial(jv.iwae, num_samples=2, gradient=gradient)
        assert refusal(objective, model(posterior, likelihood)) is None


def write_table() -> None:
    README.write_text(PLACE.sub(lambda m: m[1] + table() + m[3], README.read_text()))


if __name__ == "__main__":
    sys.exit(write_table())
