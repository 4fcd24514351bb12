from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.testing import draw_examples, exact_gradient, linear_gaussian, slope, snr
from tests.support.refusals import refused

KS = (1, 4, 16, 64, 256)
DRAWS = 1000
dreg = partial(jv.iwae, gradient="dreg")


@cache
def near_the_optimum():
    """Rainforth's setting: parameters perturbed a little from the exact posterior's."""
    model = linear_gaussian(0, event_size=6, latent_dim=2).with_exact_posterior()
    x = draw_examples(jax.random.key(1), model, 1)[0]
    rng = np.random.default_rng(2)
    for name in ("weight", "bias", "log_scale"):
        value = model.encoder[name][...]
        model.encoder[name][...] = value + 0.02 * jnp.asarray(rng.normal(size=value.shape), "f4")
    return model, x


@cache
def ratios(name):
    """SNR of each group at every K: the mean from DReG, the spread from the estimator."""
    model, x = near_the_optimum()
    objective = {"iwae": jv.iwae, "dreg": dreg}[name]
    keys = jax.random.split(jax.random.key(3), len(KS))
    return [
        snr(
            key,
            partial(objective, num_samples=k),
            model,
            x,
            reference=partial(dreg, num_samples=k),
            num_draws=DRAWS,
        )
        for key, k in zip(keys, KS, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("iwae", "encoder", -0.5),
        ("iwae", "decoder", 0.5),
        ("dreg", "encoder", 0.5),
        ("dreg", "decoder", 0.5),
    ],
)
def test_slopes_of_the_ratio_in_the_number_of_samples(name, group, expected):
    fit = slope(KS, [ratio[group] for ratio in ratios(name)])
    assert abs(fit.value - expected) < 0.1, fit
    assert fit.standard_error < 0.05


@pytest.mark.slow
def test_mean_from_the_low_noise_estimator_is_the_exact_one():
    model, x = near_the_optimum()
    objective = partial(dreg, num_samples=16)
    exact = exact_gradient(model, x, bound="iwae", num_samples=16)
    key = jax.random.key(4)
    by_exact = snr(key, objective, model, x, reference=exact, num_draws=DRAWS)
    by_mean = snr(jax.random.key(4), objective, model, x, reference=objective, num_draws=DRAWS)
    for group in ("encoder", "decoder"):
        np.testing.assert_allclose(by_mean[group], by_exact[group], rtol=0.1)


def test_ratio_of_known_noise():
    """g = 3 + normal noise of sd 2 in each of four entries: the ratio is 1.5."""

    model = linear_gaussian(0, event_size=2, latent_dim=2)

    def objective(key, model, x):
        noise = 2 * jax.random.normal(key, (2, 2))
        return jnp.sum((3 + noise) * model.encoder.weight[...])

    key = jax.random.key(0)
    (ratio,) = snr(
        key, objective, model, jnp.zeros(2), num_draws=8000, groups=("encoder",)
    ).values()
    np.testing.assert_allclose(ratio, 1.5, rtol=0.03)


def test_slope_and_its_error():
    ks = np.array([1, 2, 4, 8])
    exact = slope(ks, 3.0 * ks**0.5)
    np.testing.assert_allclose([exact.value, exact.standard_error], [0.5, 0.0], atol=1e-12)
    rng = np.random.default_rng(0)
    fits = [slope(ks, np.exp(0.1 * rng.normal(size=4)) * ks) for _ in range(2000)]
    spread, stated = np.std([f.value for f in fits]), [f.standard_error**2 for f in fits]
    np.testing.assert_allclose(spread**2, np.mean(stated), rtol=0.15)


def test_refusals():
    model = linear_gaussian()
    with refused("groups", "'flow'"):
        snr(jax.random.key(0), jv.elbo, model, jnp.zeros(3), groups=("flow",))
    with refused("key"):
        snr(0, jv.elbo, model, jnp.zeros(3))  # type: ignore[arg-type]
    with refused("ks"):
        slope([1, 2], [1.0, 2.0])
    with refused("values"):
        slope([1, 2, 4], [1.0, 0.0, 2.0])
