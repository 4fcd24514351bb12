"""Estimators written by hand from the definitions, each with twins that hold one planted bug."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxvae import bounds
from jaxvae.distributions import log_prob, rsample, sample
from jaxvae.types import Terms


def log_weights(scorer, model, x, z):
    """log p(x|z_k), log p(z_k), log q(z_k|x), the last by `scorer`."""
    q, p = scorer.posterior(x), model.prior()
    return jax.vmap(lambda z: (log_prob(model.likelihood(z), x), log_prob(p, z), log_prob(q, z)))(z)


def keys(key, num_samples):
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_samples))


def bent(value, surrogate, log_p_x_z, rates, bound=None):
    """Terms of this value and of the surrogate's gradient."""
    objective = stop_gradient(value) + surrogate - stop_gradient(surrogate)
    bound = value if bound is None else bound
    return Terms(objective, stop_gradient(bound), -jnp.mean(log_p_x_z), jnp.mean(rates))


def reparameterised(key, model, x, num_samples):
    q = model.posterior(x)
    return jax.vmap(lambda key: rsample(q, key))(keys(key, num_samples))


def importance_weighted(key, model, x, *, num_samples, gradient, square_in_p=False):
    """IWAE with its gradient by "stl" or "dreg"; `square_in_p` is a bug of DReG."""
    z = reparameterised(key, model, x, num_samples)
    parts = log_weights(stop_gradient(model), model, x, z)
    log_w = parts[0] + parts[1] - parts[2]
    if gradient == "stl":
        surrogate = bounds.iwae(log_w)
    else:
        w = stop_gradient(jax.nn.softmax(log_w))
        frozen = stop_gradient(model)
        through_z = log_weights(frozen, frozen, x, z)
        direct = log_weights(frozen, model, x, stop_gradient(z))
        in_q = through_z[0] + through_z[1] - through_z[2]
        in_p = direct[0] + direct[1]
        surrogate = w**2 @ in_q + (w**2 if square_in_p else w) @ in_p
    return bent(bounds.iwae(log_w), surrogate, parts[0], parts[2] - parts[1])


def weighted_gradient(key, model, x, *, num_samples, detach):
    """`sum_k w_k log w_k` as the surrogate, whose weights must be detached."""
    z = reparameterised(key, model, x, num_samples)
    log_p_x_z, log_p_z, log_q_z_x = log_weights(model, model, x, z)
    log_w = log_p_x_z + log_p_z - log_q_z_x
    w = jax.nn.softmax(log_w)
    surrogate = (stop_gradient(w) if detach else w) @ log_w
    return bent(bounds.iwae(log_w), surrogate, log_p_x_z, log_q_z_x - log_p_z)


def weights_of_equal_share(key, model, x, *, num_samples):
    """The gradient of the ELBO under the value of IWAE: every weight 1 / K."""
    z = reparameterised(key, model, x, num_samples)
    log_p_x_z, log_p_z, log_q_z_x = log_weights(model, model, x, z)
    log_w = log_p_x_z + log_p_z - log_q_z_x
    return bent(bounds.iwae(log_w), jnp.mean(log_w), log_p_x_z, log_q_z_x - log_p_z)


def surrogate_as_bound(key, model, x, *, num_samples):
    """The right gradient, but `sum_k w_k log w_k` reported as the bound."""
    z = reparameterised(key, model, x, num_samples)
    log_p_x_z, log_p_z, log_q_z_x = log_weights(model, model, x, z)
    log_w = log_p_x_z + log_p_z - log_q_z_x
    reported = jax.nn.softmax(log_w) @ log_w
    value = bounds.iwae(log_w)
    return bent(value, value, log_p_x_z, log_q_z_x - log_p_z, bound=reported)


def multiply(key, model, x, *, num_means, num_samples, transposed=False):
    """Mean of M IWAE bounds of K samples, or, as a bug, of K of M samples."""
    z = reparameterised(key, model, x, num_means * num_samples)
    log_p_x_z, log_p_z, log_q_z_x = log_weights(model, model, x, z)
    log_w = (log_p_x_z + log_p_z - log_q_z_x).reshape(num_means, num_samples)
    value = bounds.multiply_iwae(log_w.T if transposed else log_w)
    return Terms(value, value, -jnp.mean(log_p_x_z), jnp.mean(log_q_z_x - log_p_z))


def score_function(key, model, x, *, num_samples, own_sample=False, wrong_sign=False):
    """The ELBO for any latent, baseline the mean of the other samples; `own_sample` is a bug."""
    q = model.posterior(x)
    draws = jax.vmap(lambda key: sample(q, key))(keys(key, num_samples))
    z = stop_gradient(draws)
    log_p_x_z, log_p_z, log_q_z_x = log_weights(model, model, x, z)
    log_w = log_p_x_z + log_p_z - log_q_z_x
    total = jnp.sum(log_w)
    others = total / num_samples if own_sample else (total - log_w) / (num_samples - 1)
    signal = stop_gradient(log_w - others) * (-1.0 if wrong_sign else 1.0)
    surrogate = jnp.mean(signal * log_q_z_x + log_w)
    return bent(jnp.mean(log_w), surrogate, log_p_x_z, log_q_z_x - log_p_z)
