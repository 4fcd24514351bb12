"""Shared support of the tests of linear models and of EM: data, a fast trainer, angles between subspaces."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_iris

import jaxvae as jv

IRIS_PPCA = -404.96278
"""Total log-likelihood of the best pPCA with two latents, nats."""
IRIS_MIXTURE = -180.18548
"""Total log-likelihood that EM reaches with three full covariances, nats."""


@cache
def iris():
    return load_iris().data.astype(np.float32)


def train(model, xs, objective, *, total_steps, learning_rate=3e-2):
    """Train by full-batch Adam with a cosine decay to zero, in one dispatch."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, total_steps))
    step = jv.training.make_step(objective, optimizer)
    state = jv.training.init(jax.random.key(7), model, optimizer)

    @jax.jit
    def run(state, xs):
        def one(state, _):
            return step(state, xs)[0], None

        return jax.lax.scan(one, state, length=total_steps)[0]

    return run(state, jnp.asarray(xs)).model


def total_log_evidence(model, xs):
    return float(jnp.sum(jax.jit(jax.vmap(model.log_evidence))(jnp.asarray(xs))))


def largest_angle(a, b):
    """Compute the largest principal angle between the column spaces, degrees."""
    a, b = (np.linalg.qr(np.float64(m))[0] for m in (a, b))
    return np.degrees(np.arccos(np.clip(np.linalg.svd(a.T @ b)[1], -1, 1))).max()


def laplace_mixture(size=1000, noise=0.1, seed=0):
    """Draw examples [size, 3] of Laplace sources with an orthogonal mixing matrix, and return both."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    xs = rng.laplace(size=(size, 3)) @ mixing.T
    return (xs + noise * rng.normal(size=xs.shape)).astype(np.float32), mixing
