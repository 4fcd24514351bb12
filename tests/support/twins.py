"""Objectives with one deliberate bug each, which the checks of the correct objectives must reject."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae import bounds, log_weights, objectives
from jaxvae.distributions import analytic_kl
from jaxvae.types import Terms

stop = jax.lax.stop_gradient


def _parts(key, model, x, num_samples, kl):
    s = log_weights.draw(key, model, x, num_samples)
    distortion = -jnp.mean(s.log_p_x_z)
    rate = analytic_kl(s.q, s.p) if kl == "analytic" else jnp.mean(s.log_q_z_x - s.log_p_z)
    return s, distortion, rate


def kl_of_wrong_sign(key, model, x, *, num_samples=1, kl="analytic") -> Terms:
    _, distortion, rate = _parts(key, model, x, num_samples, kl)
    return Terms(rate - distortion, rate - distortion, distortion, rate)


def kl_averaged_over_latents(key, model, x, *, num_samples=1, kl="analytic") -> Terms:
    s, distortion, rate = _parts(key, model, x, num_samples, kl)
    rate = rate / s.z.shape[-1]
    return Terms(-(distortion + rate), -(distortion + rate), distortion, rate)


def distortion_averaged_over_event(key, model, x, *, num_samples=1, kl="analytic") -> Terms:
    _, distortion, rate = _parts(key, model, x, num_samples, kl)
    distortion = distortion / x.size
    return Terms(-(distortion + rate), -(distortion + rate), distortion, rate)


class _Detached:
    """A model whose posterior has the same values as the original's, but no gradient."""

    def __init__(self, model):
        self.prior, self.likelihood = model.prior, model.likelihood
        self.model = model

    def posterior(self, x):
        return stop(self.model.posterior(x))


def detached_samples(key, model, x, *, num_samples=1, kl="analytic") -> Terms:
    s = log_weights.draw(key, _Detached(model), x, num_samples)
    q, p = model.posterior(x), model.prior()
    log_q_z_x = jax.vmap(q.log_prob)(s.z)
    rate = analytic_kl(q, p) if kl == "analytic" else jnp.mean(log_q_z_x - s.log_p_z)
    bound = jnp.mean(s.log_p_x_z) - rate
    return Terms(bound, bound, -jnp.mean(s.log_p_x_z), rate)


def one_sample_for_all(key, model, x, *, num_samples=1, kl="analytic") -> Terms:
    del num_samples
    return objectives.elbo(key, model, x, num_samples=1, kl=kl)


def iwae_twin(bound: Callable) -> Callable:
    """Return `iwae` with another function of the log-weights as its bound."""

    def objective(key, model, x, *, num_samples) -> Terms:
        s, distortion, rate = _parts(key, model, x, num_samples, "monte_carlo")
        value = bound(s.log_w)
        return Terms(value, value, distortion, rate)

    return objective


def bent(surrogate: Callable, reported: Callable = bounds.iwae) -> Callable:
    """Return `iwae` with the gradient of another function of the log-weights; the bound is `reported`."""

    def objective(key, model, x, *, num_samples) -> Terms:
        s, distortion, rate = _parts(key, model, x, num_samples, "monte_carlo")
        bend = surrogate(s.log_w)
        value = stop(bounds.iwae(s.log_w)) + bend - stop(bend)
        return Terms(value, stop(reported(s.log_w)), distortion, rate)

    return objective


def multiply(key, model, x, *, num_means, num_samples, transposed=False) -> Terms:
    """Compute the mean of M IWAE bounds of K samples, or, as a bug, of K bounds of M samples."""
    s, distortion, rate = _parts(key, model, x, num_means * num_samples, "monte_carlo")
    log_w = s.log_w.reshape(num_means, num_samples)
    value = bounds.multiply_iwae(log_w.T if transposed else log_w)
    return Terms(value, value, distortion, rate)


def iwae_of_one_sample(key, model, x, *, num_samples) -> Terms:
    del num_samples
    return objectives.iwae(key, model, x, num_samples=1)


# Functions of log_w; each is a bug that was published in some library.
def missing_log_k(log_w):
    return jax.nn.logsumexp(log_w)


def self_normalised(log_w):
    return jnp.sum(jax.nn.softmax(log_w) * log_w)


def largest(log_w):
    return jnp.max(log_w)


def weights_without_log(log_w):
    return jnp.log(jnp.mean(jnp.exp(log_w)))


mean_not_logsumexp = bounds.elbo


def detached_weights(log_w):
    """Compute a function whose gradient is that of IWAE; not a bug."""
    return stop(jax.nn.softmax(log_w)) @ log_w


# Gradients for `gradient=` of the objectives.
def wrong_sign(problem):
    s = problem.draw(path="stopped")
    value = problem.value(s)
    return s, value - stop(value) * jnp.sum(s.log_q_z_x)


def own_sample_in_the_baseline(problem):
    """Use the mean of all K log-weights as the baseline, in place of the other K - 1."""
    s = problem.draw(path="stopped")
    log_w = stop(problem.log_w(s))
    signal = (log_w - jnp.mean(log_w)) / log_w.size
    return s, problem.value(s) + jnp.sum(signal * s.log_q_z_x)


def undetached_signal(problem):
    s = problem.draw(path="stopped")
    value = problem.value(s)
    return s, value + value * jnp.sum(s.log_q_z_x)


def no_direct_term(problem):
    s = problem.draw(path="stopped")
    return s, stop(problem.value(s)) * jnp.sum(s.log_q_z_x)


def squared_in_the_decoder_too(problem):
    """Use DReG's squared weights for the decoder too, where they are wrong."""
    s = problem.draw(scorer=stop(problem.model))
    weight = stop(jax.nn.softmax(problem.log_w(s)))
    return s, jnp.sum(weight**2 * problem.log_w(s))
