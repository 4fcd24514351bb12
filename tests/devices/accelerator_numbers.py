"""Exact oracles on the accelerator at hand, its products of float32 in float32; run by test_device.py.

Tolerances are float32's, which products in TF32 or bfloat16 do not keep.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import special, stats

import jaxvae as jv
from jaxvae.distributions import (
    ContinuousBernoulli,
    NegativeBinomial,
    PoissonLogRate,
    analytic_kl,
)
from jaxvae.testing import in_float64
from tests.devices.support import rejected, run_checks

jax.config.update("jax_default_matmul_precision", "highest")

SOLVABLE = ("linear_gaussian", "full_covariance")
IWAE = partial(jv.iwae, num_samples=5)


def hold_estimator(objective, bound, **options):
    """Value and gradients of a bound are those of its closed form, by z-tests."""
    verdict = jv.testing.check_estimator(
        objective, bound=bound, models=SOLVABLE, num_draws=4096, print_report=False, **options
    )
    assert verdict.passed, verdict


def check_the_elbo_and_its_gradients():
    hold_estimator(jv.elbo, "elbo")


def check_iwae_and_its_gradients():
    hold_estimator(IWAE, "iwae", num_samples=5)


def check_dreg_and_its_gradients():
    hold_estimator(partial(IWAE, gradient="dreg"), "iwae", num_samples=5, reference=IWAE)


def check_that_a_biased_gradient_is_rejected():
    """Sticking the landing with more than one sample."""
    rejected(partial(hold_estimator, num_samples=5), partial(IWAE, gradient="stl"), "iwae")


@cache
def at_the_posterior(widen):
    """A model of 40 values with q = p(z|x), or wider; examples, and their evidence in float64."""
    model = jv.testing.linear_gaussian(full=True, event_size=40)
    xs = jv.testing.draw_examples(jax.random.key(1), model, 20)

    def exact(model, xs):
        return model.with_exact_posterior(widen=widen), jax.vmap(model.log_evidence)(xs)

    model, evidence = in_float64(exact, model, xs)
    return jax.tree.map(jnp.float32, model), xs, evidence


def hold_at_the_posterior(objective, *, widen=1.0):
    """With q = p(z|x) every draw of a bound is log p(x), and no gradient reaches q."""
    model, xs, evidence = at_the_posterior(widen)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def slope(model, xs):
        terms = jax.vmap(objective, (0, None, 0))(
            jax.random.split(jax.random.key(2), 20), model, xs
        )
        return jnp.mean(terms.objective), terms.bound

    gradient, bounds = slope(model, xs)
    np.testing.assert_allclose(bounds, evidence, rtol=3e-6, atol=3e-5)
    size = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(gradient.decoder))
    for leaf in jax.tree.leaves(gradient.encoder):
        np.testing.assert_allclose(leaf, np.zeros_like(leaf), atol=1e-4 * size)


def check_that_bounds_are_the_evidence_at_the_exact_posterior():
    hold_at_the_posterior(partial(jv.elbo, kl="monte_carlo", gradient="stl"))
    hold_at_the_posterior(partial(IWAE, gradient="dreg"))
    rejected(partial(hold_at_the_posterior, widen=1.001), partial(IWAE, gradient="dreg"))


def hold_kl(kl):
    rng = np.random.default_rng(0)
    (m, n), (s, t) = rng.normal(size=(2, 30)), np.exp(rng.normal(size=(2, 30)))
    m, n, s, t = (np.float32(v) for v in (m, n, s, t))
    lower = np.float32(np.tril(0.1 * rng.normal(size=(30, 30)), -1) + np.diag(s))
    diagonal, prior = (dist.Normal(a, b).to_event(1) for a, b in ((m, s), (n, t)))
    full = dist.MultivariateNormal(m, scale_tril=lower)
    wide = dist.MultivariateNormal(n, scale_tril=np.diag(t))
    for q, p, expected in (
        (diagonal, prior, normal_kl(m, np.diag(s), n, t)),
        (full, wide, normal_kl(m, lower, n, t)),
        (
            dist.Laplace(m, s).to_event(1),
            dist.Laplace(n, t).to_event(1),
            laplace_kl(*(np.float64(v) for v in (m, s, n, t))),
        ),
    ):
        np.testing.assert_allclose(jax.jit(lambda q=q, p=p: kl(q, p))(), expected, rtol=3e-6)


def normal_kl(m, lower, n, t):
    """KL(N(m, L L') || N(n, diag t^2)) in float64."""
    m, lower, n, t = (np.float64(v) for v in (m, lower, n, t))
    scaled = np.sum((lower / t[:, None]) ** 2) + np.sum(((m - n) / t) ** 2)
    return 0.5 * (scaled - len(m)) + np.sum(np.log(t)) - np.sum(np.log(np.diag(lower)))


def laplace_kl(m, s, n, t):
    far = np.abs(m - n)
    return np.sum(np.log(t / s) + (s * np.exp(-far / s) + far) / t - 1)


def check_kl():
    hold_kl(analytic_kl)
    rejected(hold_kl, lambda q, p: 1.00001 * analytic_kl(q, p))


def hold_continuous_bernoulli(log_prob):
    """The normaliser `log(expm1(a) / a)` and its slope, near 0 by their series."""
    a = np.array([-200.0, -20.0, -4.0, -1.001, -0.3, -1e-3, 1e-6, 0.1, 1.0, 4.0, 200.0])
    a32, x = jnp.float32(a), jnp.float32(0.25)
    a = np.float64(np.float32(a))
    # 4 significant terms at 1e-3; np.expm1 keeps its digits near 0, and overflows nowhere here.
    log_c = np.where(a > 0, a, 0) + np.log(-np.expm1(-np.abs(a)) / np.abs(a))
    mean = np.where(np.abs(a) < 0.05, 0.5 + a / 12 - a**3 / 720, 1 / -np.expm1(-a) - 1 / a)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(log_prob), in_axes=(0, None)))(a32, x)
    np.testing.assert_allclose(value, 0.25 * a - log_c, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(slope, 0.25 - mean, rtol=2e-6, atol=1e-6)
    assert float(jax.grad(log_prob)(jnp.zeros(()), x)) == -0.25


def check_the_continuous_bernoulli():
    hold_continuous_bernoulli(lambda a, x: ContinuousBernoulli(a).log_prob(x))
    rejected(hold_continuous_bernoulli, lambda a, x: a * x - jax.nn.softplus(a))


def hold_counts(log_prob, exact):
    """Counts to 1e4, means from 1e-6 to 1e6: the rounding of the log-probability, not of lgamma."""
    log_mean, x = np.meshgrid(np.log(10.0 ** np.arange(-6, 7, 2)), [0.0, 1.0, 7.0, 100.0, 1e4])
    log_mean = np.float64(np.float32(log_mean))
    for log_r in (-5.0, 0.0, 9.0):
        got = jax.jit(log_prob)(
            jnp.float32(log_mean), jnp.full(x.shape, log_r, jnp.float32), jnp.float32(x)
        )
        np.testing.assert_allclose(got, exact(log_mean, log_r, x), rtol=4e-6, atol=8e-6)


def exact_poisson(log_mean, log_r, x):
    del log_r
    return stats.poisson(np.exp(log_mean)).logpmf(x)


def exact_negative_binomial(log_mean, log_r, x):
    m, r = np.exp(log_mean), np.exp(log_r)
    ratio = special.gammaln(x + r) - special.gammaln(r) - special.gammaln(x + 1)
    return ratio - r * np.log1p(m / r) - x * np.log1p(r / m)


def plain_poisson(log_mean, log_r, x):
    """The twin: differences of large numbers, in float32."""
    del log_r
    return x * log_mean - jnp.exp(log_mean) - jax.scipy.special.gammaln(x + 1)


def check_counts():
    hold_counts(lambda m, r, x: PoissonLogRate(m).log_prob(x), exact_poisson)
    hold_counts(lambda m, r, x: NegativeBinomial(m, r).log_prob(x), exact_negative_binomial)
    rejected(hold_counts, plain_poisson, exact_poisson)


def hold_large_logits(log_prob):
    """`log p = x a - softplus(a)` and its slope `x - sigmoid(a)`, finite wherever they are."""
    a = np.array([-200.0, -30.0, 0.0, 30.0, 200.0])
    for x in (0.0, 1.0):
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(log_prob), in_axes=(0, None)))(
            jnp.float32(a), jnp.float32(x)
        )
        np.testing.assert_allclose(value, x * a - np.logaddexp(0, a), rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(slope, x - special.expit(a), rtol=2e-6, atol=1e-7)


def bits(a, x):
    return jv.models.likelihoods.Bernoulli()(a[None, None]).log_prob(x[None])


def from_probabilities(a, x):
    """The twin: what a clipped probability gives."""
    p = jnp.clip(jax.nn.sigmoid(a), 1e-7, 1 - 1e-7)
    return x * jnp.log(p) + (1 - x) * jnp.log1p(-p)


def check_large_logits():
    hold_large_logits(bits)
    rejected(hold_large_logits, from_probabilities)


if __name__ == "__main__":
    run_checks(
        [check for name, check in list(globals().items()) if name.startswith("check_")],
        devices=jax.device_count(),
    )
