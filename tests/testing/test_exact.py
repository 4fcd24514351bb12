"""The solvable models against other ways to the same numbers: SciPy, tuples, finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxvae import testing
from jaxvae.testing import draw_examples, exact_bound, exact_gradient, in_float64
from tests.support.refusals import refused
from tests.support.slow import slow_but

MODELS = {
    "diagonal": testing.linear_gaussian(1),
    "full": testing.linear_gaussian(1, full=True),
    "one latent": testing.linear_gaussian(2, latent_dim=1),
    "mixture": testing.gaussian_mixture(),
    "three components": testing.gaussian_mixture(1, num_components=3, latent_dim=2, full=True),
    "categorical": testing.discrete(),
    "bernoulli": testing.discrete(latent="bernoulli"),
}


def example(model, seed=3):
    return draw_examples(jax.random.key(seed), model, 1)[0]


def value(model, x, bound="elbo", num_samples=1):
    def call(model, x):
        return exact_bound(model, x, bound=bound, num_samples=num_samples)

    return float(in_float64(call, model, x))


def evidence(model, x):
    return float(in_float64(lambda model, x: model.log_evidence(x), model, x))


@pytest.fixture(params=slow_but(MODELS, "bernoulli", "mixture", "one latent", "full"))
def model(request):
    return MODELS[request.param]


@pytest.mark.slow
def test_bounds_are_ordered_and_iwae_of_one_is_the_elbo(model):
    x = example(model)
    elbo, one, two, many = value(model, x), *(value(model, x, "iwae", k) for k in (1, 2, 500))
    assert abs(elbo - one) < 1e-7
    assert elbo < two < many < evidence(model, x)


def test_evidence_is_the_sum_over_latents(model):
    """Importance sampling by quadrature: log E_q w, the same grid but no closed form."""
    x = example(model)

    def from_grid(model, x):
        z, probs = model.quadrature(x)
        log_w = jnp.add(*model._densities(x, z)[:2]) - model._densities(x, z)[2]
        return jax.nn.logsumexp(log_w + jnp.log(probs))

    np.testing.assert_allclose(in_float64(from_grid, model, x), evidence(model, x), atol=1e-4)


def test_evidence_of_linear_gaussian_is_that_of_scipy():
    model = MODELS["full"]
    x, p = example(model), model.decoder
    weight = np.float64(p.weight[...])
    covariance = weight @ weight.T + np.exp(2 * float(p.log_scale[...])) * np.eye(3)
    expected = stats.multivariate_normal(np.float64(p.bias[...]), covariance).logpdf(np.float64(x))
    np.testing.assert_allclose(evidence(model, x), expected, rtol=1e-6)


def test_posterior_is_joint_over_evidence():
    for name in ("full", "one latent", "mixture", "three components"):
        model = MODELS[name]
        x = example(model)

        def difference(model, x):
            z = jnp.linspace(-0.7, 0.9, model.latent_dim)
            joint = model.likelihood(z).log_prob(x) + model.prior().log_prob(z)
            return joint - model.exact_posterior(x).log_prob(z) - model.log_evidence(x)

        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            assert abs(in_float64(difference, model, x)) < 1e-9, name


def test_posterior_of_states_sums_to_one_and_every_x_is_counted():
    for latent, count in (("categorical", 3), ("bernoulli", 8)):
        model = testing.discrete(latent=latent)
        assert model.exact_posterior(jnp.ones(4)).probs.shape == (count,)
        every = in_float64(
            lambda model, xs: jax.vmap(model.log_evidence)(xs),
            model,
            np.array(list(itertools.product((0, 1), repeat=4)), np.float32),
        )
        np.testing.assert_allclose(np.exp(every).sum(), 1)


def test_exact_posterior_of_linear_gaussian_closes_the_gap():
    model = MODELS["diagonal"].with_exact_posterior()
    x = example(model)
    np.testing.assert_allclose(value(model, x), evidence(model, x), atol=1e-6)
    wide = MODELS["diagonal"].with_exact_posterior(widen=1.3)
    assert value(wide, x) < evidence(wide, x) - 0.01


def enumerated(model, x, num_samples):
    """E log mean w by the sum over all K-tuples of latents, float64."""

    def parts(model, x):
        z, probs = model.quadrature(x)
        log_p_x_z, log_p_z, log_q_z_x = model._densities(x, z)
        return log_p_x_z + log_p_z - log_q_z_x, probs

    log_w, probs = in_float64(parts, model, x)
    tuples = np.array(list(itertools.product(range(len(log_w)), repeat=num_samples)))
    values = special.logsumexp(log_w[tuples], axis=1) - np.log(num_samples)
    return np.prod(probs[tuples], axis=1) @ values


@pytest.mark.parametrize(("name", "k"), [("categorical", 2), ("categorical", 5), ("bernoulli", 4)])
def test_iwae_is_the_sum_over_all_tuples(name, k):
    model = MODELS[name]
    x = example(model)
    exact = enumerated(model, x, k)
    np.testing.assert_allclose(value(model, x, "iwae", k), exact, atol=1e-8)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(value(model, x, "iwae", k + 1), exact, atol=1e-8)


def test_iwae_of_two_is_gauss_hermite_quadrature():
    model = MODELS["one latent"]
    x = example(model)
    q, p = model.encoder, model.decoder
    m = float((q.weight[...] @ x + q.bias[...])[0])
    s = np.exp(float(q.log_scale[...][0]))
    points, weights = special.roots_hermitenorm(100)
    z = m + s * points
    mean = np.outer(z, p.weight[...][:, 0]) + np.float64(p.bias[...])
    scale = np.exp(float(p.log_scale[...]))
    log_w = stats.norm.logpdf(np.float64(x), mean, scale).sum(axis=1)
    log_w += stats.norm.logpdf(z) - stats.norm.logpdf(z, m, s)
    pair = np.logaddexp(log_w[:, None], log_w[None, :]) - np.log(2)
    weights = weights / weights.sum()
    np.testing.assert_allclose(value(model, x, "iwae", 2), weights @ pair @ weights, atol=2e-6)


def test_closed_form_of_the_elbo_is_the_quadrature():
    for name in ("diagonal", "full", "one latent"):
        model = MODELS[name]
        x = example(model)
        closed = in_float64(lambda model, x: model.exact_elbo(x), model, x)
        base = testing.ExactModel.exact_elbo
        grid = in_float64(lambda model, x, base=base: base(model, x), model, x)
        np.testing.assert_allclose(closed, grid, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "k"), [("elbo", 1), ("iwae", 3)])
def test_gradient_is_the_finite_difference_of_the_value(model, bound, k):
    x = example(model)
    gradient = exact_gradient(model, x, bound=bound, num_samples=k)
    leaves, structure = jax.tree.flatten(model)
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=leaf.shape) for leaf in leaves]

    def along(t, *leaves):
        moved = [leaf + t * jnp.asarray(d) for leaf, d in zip(leaves, direction, strict=True)]
        model = jax.tree.unflatten(structure, moved)
        return exact_bound(model, x.astype(t.dtype), bound=bound, num_samples=k)

    up, down = (in_float64(along, jnp.float32(t), *leaves) for t in (2**-14, -(2**-14)))
    slope = (up - down) / 2**-13
    expected = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True))
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


def test_examples_follow_the_model():
    model = MODELS["mixture"]
    xs = np.asarray(draw_examples(jax.random.key(0), model, 4096))
    p = jax.tree.map(np.float64, dict(model.decoder.items()))
    probs = special.softmax(np.asarray(p["logits"][...]))
    mean = np.asarray(p["weight"][...]) @ (probs @ np.asarray(p["means"][...]))
    testing.assert_mean(xs, mean + np.asarray(p["bias"][...]), rounding=1e-5)


def test_float64_leaves_the_process_as_it_was():
    assert in_float64(lambda x: x + 1, jnp.float32(1)).dtype == np.float64
    assert jnp.asarray(1.0).dtype == jnp.float32


def test_refusals():
    model = testing.linear_gaussian(latent_dim=3)
    assert np.isfinite(model.exact_elbo(jnp.zeros(3)).bound)
    with refused("latent_dim", "3"):
        model.exact_iwae(jnp.zeros(3), 2)
    with refused("bound", "'renyi'"):
        exact_bound(model, jnp.zeros(3), bound="renyi")  # type: ignore[arg-type]
    with refused("latent", "'real'"):
        testing.discrete(latent="real")  # type: ignore[arg-type]
    with refused("latent_size", "11"):
        testing.discrete(latent="bernoulli", latent_size=11)
    with refused("num_samples"):
        testing.expected_iwae(jnp.zeros(2), jnp.ones(2) / 2, 0)
