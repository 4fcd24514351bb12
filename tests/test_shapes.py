"""Annotations are checked where the tests import the library: a wrong shape or type in any part of it fails."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import jaxvae as jv
from jaxvae import (
    batching,
    binding,
    checks,
    compiling,
    hosts,
    keys,
    log_weights,
    objectives,
    placement,
    relaxations,
    rows,
)
from jaxvae.bench import workloads
from jaxvae.cli import cache
from jaxvae.coupled import terms
from jaxvae.data import dataset
from jaxvae.distributions import splines
from jaxvae.evaluation import pareto
from jaxvae.models import linear
from jaxvae.networks import dense
from jaxvae.reports import images
from jaxvae.runs import words
from jaxvae.testing import exact
from jaxvae.training import metrics
from tests.support import shapes
from tests.support.refusals import unchecked

pytestmark = pytest.mark.skipif(
    os.environ[shapes.SWITCH] == "off", reason="annotations are checked in the fast suite"
)

KEY, X = jax.random.key(0), jnp.zeros(4)
MODEL = jv.models.vae(KEY, (4,), latent_dim=2, hidden=(3,))

WRONG = {
    "autonomous": lambda: jv.autonomous.noise_consistency(jnp.stack([KEY, KEY]), MODEL, X),
    "batching": lambda: batching.fill_rows({"x": X}, jnp.ones((4, 1))),
    "bench": lambda: workloads.draw_rows("4"),
    "binding": lambda: binding.one_hot(jnp.zeros(2, jnp.int32), 3),
    "bounds": lambda: jv.bounds.elbo(jnp.ones((2, 3))),
    "checks": lambda: checks.require_integer(3, 1, at_least=0),
    "cli": lambda: cache.trim("a folder", 3),
    "compiling": lambda: compiling.jit_quickly(3),
    "coupled": lambda: terms.draw_each(KEY, MODEL, X[None], None),
    "data": lambda: dataset.spread(KEY, jnp.zeros(3, bool)),
    "distributions": lambda: splines.make_spline(jnp.zeros(5), 3.0),
    "evaluation": lambda: pareto.pareto_k_of_tail(jnp.zeros((3, 2))),
    "gradients": lambda: jv.gradients.bend(jnp.ones(2), jnp.ones(())),
    "hosts": lambda: hosts.gather(3),
    "inference": lambda: jv.inference.fit_posterior(KEY, MODEL, jnp.zeros(4, bool)),
    "keys": lambda: keys.fold_each(KEY, jnp.zeros((2, 2), jnp.int32)),
    "log_weights": lambda: log_weights.draw(KEY, MODEL, np.zeros(4), 3),
    "models": lambda: linear.flat_rows(jnp.zeros(4, bool), (4,)),
    "networks": lambda: dense.MLP(2, (3,), 1, rngs=jax.random.key(0)),
    "objectives": lambda: objectives.elbo(KEY, MODEL, jnp.zeros(4, bool)),
    "parallel": lambda: jv.parallel.data_mesh("two"),
    "placement": lambda: placement.replicated("cpu"),
    "relaxations": lambda: relaxations.bit_logits(3),
    "reports": lambda: images.reconstructions(np.zeros((2, 3, 3)), np.zeros((2, 3, 4))),
    "rows": lambda: rows.rows(jnp.zeros((2, 3)), jnp.zeros((4, 5))),
    "runs": lambda: words.plus_minus(3),
    "semi_supervised": lambda: jv.semi_supervised.label_log_probs(MODEL, X, jnp.zeros(4)),
    "testing": lambda: exact.exact_bound(MODEL, X[None]),
    "training": lambda: metrics.total_weight(4, jnp.ones((4, 2))),
}
"""A call with a wrong shape or type in each part of the library; `types` has no functions."""


def test_no_part_of_the_library_is_missing():
    found = {path.stem for path in Path(jv.__file__).parent.iterdir() if path.name[0] not in "._"}
    assert found - {"types"} == WRONG.keys()


@pytest.mark.parametrize("part", WRONG)
def test_a_wrong_shape_or_type_fails(part):
    with pytest.raises(TypeCheckError, match=rf"jaxvae\.{part}"):
        WRONG[part]()


def test_users_pay_nothing():
    with unchecked():
        assert log_weights.draw(KEY, MODEL, np.zeros(4, np.float32), 3).z.shape == (3, 2)
