from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from sklearn.decomposition import FastICA

import jaxvae as jv
from jaxvae.log_weights import kl_each
from jaxvae.models.linear import full_precision
from jaxvae.testing import in_float64
from jaxvae.testing.linear_gaussian import LinearGaussian, parameters
from tests.support.linear import (
    IRIS_PPCA,
    iris,
    laplace_mixture,
    largest_angle,
    total_log_evidence,
    train,
)
from tests.support.refusals import refused
from tests.support.slow import slow_but


def linear(name="factor_analysis", event_shape=(2, 3), latent_dim=2, **options):
    """A model of data of unequal scales, away from any optimum."""
    factory = getattr(jv.models, name)
    model = factory(jax.random.key(0), event_shape, latent_dim=latent_dim, **options)
    size = int(np.prod(event_shape))
    xs = np.random.default_rng(1).normal(2.0, np.linspace(0.3, 3, size), (30, size))
    return model.initialized(jax.random.key(1), xs.reshape(-1, *event_shape))


def mixture(event_shape=(2, 2), covariance="full", **options):
    options = {"num_components": 3} | options
    model = jv.models.gaussian_mixture(
        jax.random.key(0), event_shape, covariance=covariance, **options
    )
    noise = np.random.default_rng(2)
    for path, param in nnx.iter_graph(model):
        if isinstance(param, nnx.Param) and path[-1] != "means":
            param[...] = jnp.asarray(noise.normal(0, 0.4, param[...].shape), jnp.float32)
    return model


def float64_moments(model):
    """W, mu and the noise variances, float64."""
    return (np.float64(v) for v in (model.weight[...], model.offset[...], model.noise))


MODELS = {
    "factor_analysis": lambda shape: linear("factor_analysis", shape),
    "ica": lambda shape: linear("ica", shape),
    "ica_full": lambda shape: linear("ica", shape, posterior="full_covariance"),
    "ica_normal": lambda shape: linear("ica", shape, posterior="normal", variance=0.5),
    "full": lambda shape: mixture(shape),
    "spherical": lambda shape: mixture(shape, "spherical"),
}


@pytest.mark.parametrize(
    ("name", "event_shape"), [("full", (4,)), *((name, (1, 2, 2)) for name in MODELS)]
)
def test_shapes_follow_the_protocol(name, event_shape):
    model = MODELS[name](event_shape)
    assert isinstance(model, jv.Model)
    x, p = jnp.ones(event_shape), model.prior()
    z = p.sample(jax.random.key(0))
    likelihood = model.likelihood(z)
    for distribution, shape in ((p, z.shape), (model.posterior(x), z.shape)):
        assert (distribution.batch_shape, distribution.event_shape) == ((), shape)
    assert (likelihood.batch_shape, likelihood.event_shape) == ((), event_shape)
    assert likelihood.mean.shape == likelihood.variance.shape == event_shape
    assert likelihood.sample(jax.random.key(1)).shape == event_shape


@pytest.mark.parametrize("name", ["ppca", "factor_analysis"])
def test_log_evidence_and_posterior_are_those_of_the_joint_normal(name):
    """SciPy on the E x E covariance, and Bayes' rule on the joint one, in float64."""
    model = linear(name)
    weight, offset, noise = float64_moments(model)
    covariance = weight @ weight.T + np.diag(noise)
    xs = np.random.default_rng(0).normal(2, 3, (5, 2, 3)).astype(np.float32)
    exact = stats.multivariate_normal(offset, covariance).logpdf(xs.reshape(5, -1))
    np.testing.assert_allclose(jax.vmap(model.log_evidence)(xs), exact, rtol=1e-5)
    gain = weight.T @ np.linalg.inv(covariance)
    q = model.exact_posterior(jnp.asarray(xs[0]))
    np.testing.assert_allclose(q.mean, gain @ (xs[0].reshape(-1) - offset), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(q.covariance_matrix, np.eye(2) - gain @ weight, atol=1e-5)


def test_log_evidence_agrees_with_the_solvable_model():
    model = linear("ppca", (4,))
    weight, offset, noise = float64_moments(model)
    encoder = parameters(weight=np.zeros((2, 4)), bias=np.zeros(2), log_scale=np.zeros(2))
    decoder = parameters(weight=weight, bias=offset, log_scale=0.5 * np.log(noise[0]))
    x = jnp.arange(4.0)
    exact = in_float64(lambda m, x: m.log_evidence(x), LinearGaussian(encoder, decoder), x)
    np.testing.assert_allclose(model.log_evidence(x), exact, rtol=1e-5)


def test_log_evidence_keeps_its_accuracy_at_little_noise():
    """Woodbury's difference of squares, the twin, loses the digits that the sum of squares keeps."""
    size, latent_dim = 50, 3
    model = jv.models.ppca(jax.random.key(0), (size,), latent_dim=latent_dim, variance=1e-5)
    weight, offset, noise = float64_moments(model)
    z = np.random.default_rng(0).normal(size=(20, latent_dim))
    xs = (z @ weight.T + 1e-5**0.5 * np.random.default_rng(1).normal(size=(20, size))).astype(
        np.float32
    )
    exact = stats.multivariate_normal(offset, weight @ weight.T + np.diag(noise)).logpdf(xs)

    @full_precision
    def by_difference(x):
        scaled = model.weight[...] / jnp.sqrt(model.noise)[:, None]
        r, m = x / jnp.sqrt(model.noise), jnp.eye(latent_dim) + scaled.T @ scaled
        squares = r @ r - (scaled.T @ r) @ jnp.linalg.solve(m, scaled.T @ r)
        log_det = jnp.sum(jnp.log(model.noise)) + jnp.linalg.slogdet(m)[1]
        return -0.5 * (size * jnp.log(2 * jnp.pi) + log_det + squares)

    np.testing.assert_allclose(jax.vmap(model.log_evidence)(xs), exact, rtol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(jax.vmap(by_difference)(xs), exact, rtol=1e-5)


def test_closed_form_ppca_reaches_the_maximum_and_its_elbo_is_the_log_evidence():
    model, xs = jv.models.fit_ppca(iris(), 2), jnp.asarray(iris())
    np.testing.assert_allclose(total_log_evidence(model, xs), IRIS_PPCA, rtol=1e-6)
    elbo = jax.vmap(lambda x: jv.elbo(jax.random.key(0), model, x, kl="monte_carlo").bound)(xs)
    np.testing.assert_allclose(jnp.sum(elbo), IRIS_PPCA, rtol=1e-6)
    weight, offset, noise = float64_moments(model)
    m = weight.T @ weight + noise[0] * np.eye(2)
    q = model.posterior(xs[0])
    np.testing.assert_allclose(q.mean, np.linalg.solve(m, weight.T @ (xs[0] - offset)), rtol=1e-4)
    np.testing.assert_allclose(q.variance, noise[0] * np.diag(np.linalg.inv(m)), rtol=1e-4)


def test_any_move_from_the_closed_form_lowers_the_likelihood():
    model, xs = jv.models.fit_ppca(iris(), 2), jnp.asarray(iris())
    best = total_log_evidence(model, xs)
    gradient = jax.jit(jax.grad(lambda m: jnp.mean(jax.vmap(m.log_evidence)(xs))))(model)
    for name in ("weight", "offset", "log_variance"):
        assert float(jnp.max(jnp.abs(getattr(gradient, name)[...]))) < 1e-3, name
    for scale in (0.9, 1.1):
        moved = model.with_decoder(scale * model.weight[...], model.offset[...], model.noise)
        assert total_log_evidence(moved, xs) < best - 0.1


def test_principal_axes_keep_the_likelihood_and_make_the_encoder_exact():
    best, xs = jv.models.fit_ppca(iris(), 2), jnp.asarray(iris())
    turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
    turned = best.with_decoder(best.weight[...] @ turn, best.offset[...], best.noise)
    turned = turned.with_optimal_encoder()

    @jax.jit
    def elbo(model):
        one = partial(jv.elbo, jax.random.key(0), model, num_samples=20, kl="monte_carlo")
        return jnp.sum(jax.vmap(one)(xs).bound)

    assert float(elbo(turned)) < IRIS_PPCA - 10  # a diagonal q cannot follow the rotation
    principal = turned.principal()
    np.testing.assert_allclose(elbo(principal), IRIS_PPCA, rtol=1e-5)
    np.testing.assert_allclose(jnp.abs(principal.weight[...]), jnp.abs(best.weight[...]), atol=1e-4)


@pytest.mark.slow
def test_the_linear_vae_reaches_the_maximum_by_gradient():
    xs = iris()
    start = jv.models.ppca(jax.random.key(0), (4,), latent_dim=2)
    start = start.initialized(jax.random.key(1), xs)
    model = train(start, xs, partial(jv.elbo, num_samples=4), total_steps=1500)
    assert abs(total_log_evidence(model, xs) - IRIS_PPCA) / len(xs) < 1e-2
    assert largest_angle(model.weight[...], jv.models.fit_ppca(xs, 2).weight[...]) < 1.0
    elbo = jax.vmap(lambda x: jv.elbo(jax.random.key(0), model, x, kl="monte_carlo").bound)
    assert abs(float(jnp.mean(jax.jit(elbo)(xs))) - IRIS_PPCA / len(xs)) < 1e-2


@pytest.mark.slow
def test_a_latent_collapses_where_its_eigenvalue_is_below_the_noise():
    """Eigenvalues of iris: 4.20, 0.241, 0.078, 0.024; the noise is held at 0.15."""
    xs = iris()
    start = jv.models.ppca(jax.random.key(0), (4,), latent_dim=3, variance=0.15)
    start = start.initialized(jax.random.key(1), xs)
    model = train(start, xs, partial(jv.elbo, num_samples=4), total_steps=1500)
    best = jv.models.fit_ppca(xs, 3, variance=0.15)
    assert float(jnp.max(jnp.abs(best.weight[...][:, 2]))) == 0.0
    for each, bar in ((model, 0.02), (best, 1e-6)):
        rates, means = jax.vmap(
            lambda x, m=each: (kl_each(m.posterior(x), m.prior()), m.posterior(x).mean)
        )(xs)
        active = np.sort(jnp.var(means, axis=0))
        assert active[0] < bar
        np.testing.assert_allclose(active[1:], [1 - 0.15 / 0.24105, 1 - 0.15 / 4.20005], atol=0.03)
        assert float(jnp.min(jnp.mean(rates, axis=0))) < bar
        assert int(jnp.sum(jnp.mean(rates, axis=0) > 0.1)) == 2


@pytest.mark.slow
def test_ica_recovers_the_mixing_as_fast_ica_does():
    xs, mixing = laplace_mixture()
    start = jv.models.ica(jax.random.key(0), (3,), latent_dim=3)
    start = start.initialized(jax.random.key(2), xs)
    assert float(jv.models.amari_index(start.weight[...], mixing)) > 0.2
    model = train(start, xs, jv.elbo, total_steps=1000)
    oracle = FastICA(3, random_state=0, whiten="unit-variance").fit(xs)
    assert float(jv.models.amari_index(oracle.mixing_, mixing)) < 0.05
    assert float(jv.models.amari_index(model.weight[...], mixing)) < 0.05


def test_the_amari_index_is_its_formula():
    rng = np.random.default_rng(0)
    estimate, truth = rng.normal(size=(2, 5, 3))
    p = np.abs(np.linalg.pinv(estimate) @ truth)
    total = sum(p[i].sum() / p[i].max() + p[:, i].sum() / p[:, i].max() - 2 for i in range(3))
    np.testing.assert_allclose(jv.models.amari_index(estimate, truth), total / 12, rtol=1e-4)
    moved = truth[:, [2, 0, 1]] * np.array([-1, 3, 0.1])
    np.testing.assert_allclose(jv.models.amari_index(moved, truth), 0, atol=1e-5)
    hadamard = np.array([[1.0, 1.0], [1.0, -1.0]])
    np.testing.assert_allclose(jv.models.amari_index(hadamard, np.eye(2)), 1, rtol=1e-5)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical"])
def test_the_mixture_is_scipys(covariance):
    model = mixture((2, 2), covariance)
    weights = np.exp(np.float64(jax.nn.log_softmax(model.logits[...])))
    components = []
    for one_hot in np.eye(3, dtype=np.float32):
        normal = model.likelihood(jnp.asarray(one_hot))
        base = normal.base_dist
        matrix = (
            base.covariance_matrix if covariance == "full" else np.diag(normal.variance.ravel())
        )
        components.append(stats.multivariate_normal(np.float64(normal.mean).ravel(), matrix))
    xs = np.random.default_rng(0).normal(size=(6, 2, 2)).astype(np.float32)
    joint = np.stack(
        [w * c.pdf(xs.reshape(6, -1)) for w, c in zip(weights, components, strict=True)]
    )
    np.testing.assert_allclose(jax.vmap(model.log_evidence)(xs), np.log(joint.sum(0)), rtol=1e-5)
    responsibilities = jax.vmap(lambda x: model.exact_posterior(x).mean)(xs)
    np.testing.assert_allclose(responsibilities.T, joint / joint.sum(0), atol=1e-5)
    x, z = jnp.asarray(xs[0]), jnp.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(
        model.likelihood(z).log_prob(x), components[2].logpdf(xs[0].ravel()), rtol=1e-5
    )


@pytest.mark.parametrize("covariance", slow_but(["full", "diagonal", "spherical"], "full"))
def test_the_elbo_of_a_mixture_is_its_log_evidence_in_value_and_gradient(covariance):
    model, x = mixture((3,), covariance), jnp.array([0.3, -1.0, 0.7])

    def elbo(model):
        return jv.elbo(jax.random.key(0), model, x, gradient="enumerate").objective

    value, gradient = jax.jit(jax.value_and_grad(elbo))(model)
    exact, exact_gradient = jax.jit(jax.value_and_grad(lambda m: m.log_evidence(x)))(model)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    pairs = zip(
        jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)),
        jax.tree.leaves(nnx.state(exact_gradient, nnx.Param)),
        strict=True,
    )
    for (path, ours), theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5, err_msg=str(path))
        assert bool(jnp.any(ours != 0)), jax.tree_util.keystr(path)


def test_the_default_gradient_is_refused_for_a_mixture():
    with refused("gradient", "OneHotCategorical", "enumerate"):
        jv.elbo(jax.random.key(0), mixture((3,)), jnp.ones(3))


@pytest.mark.slow
def test_every_part_of_a_linear_model_gets_a_gradient():
    x = jnp.array([0.1, 2.0, 1.0])
    for name in ("factor_analysis", "ica_full"):
        model = MODELS[name]((3,))
        objective = partial(jv.elbo, kl="entropy" if name == "ica_full" else "analytic")
        step = jax.grad(lambda m, f=objective: f(jax.random.key(0), m, x).objective)
        gradient = jax.jit(step)(model)
        for path, leaf in jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)):
            assert bool(jnp.any(leaf != 0)), name + jax.tree_util.keystr(path)


def test_a_fixed_variance_is_no_parameter():
    model = linear("ppca", variance=0.25)
    np.testing.assert_array_equal(model.noise, 0.25)
    assert "log_variance" not in nnx.state(model, nnx.Param)


def key():
    return jax.random.key(0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: jv.models.ppca(0, (3,), latent_dim=1), ("key", "jax.random.key")),
        (lambda: jv.models.ppca(key(), (), latent_dim=1), ("event_shape",)),
        (lambda: jv.models.ppca(key(), (3,), latent_dim=0), ("latent_dim", "0")),
        (lambda: jv.models.ppca(key(), (3,), latent_dim=1, variance=0.0), ("variance", "0.0")),
        (lambda: jv.models.factor_analysis(key(), (3,), variance=True), ("variance", "True")),
        (
            lambda: jv.models.ica(key(), (3,), posterior="cauchy"),
            ("posterior", "cauchy", "laplace"),
        ),
        (
            lambda: jv.models.ica(key(), (3,), latent_dim=4).initialized(key(), jnp.ones((5, 3))),
            ("latent_dim", "4", "3"),
        ),
        (
            lambda: jv.models.gaussian_mixture(key(), (3,), num_components=0),
            ("num_components", "0"),
        ),
        (
            lambda: jv.models.gaussian_mixture(key(), (3,), covariance="tied"),
            ("covariance", "'tied'", "spherical"),
        ),
        (
            lambda: jv.models.gaussian_mixture(key(), (3,)).initialized(key(), jnp.ones((5, 3))),
            ("num_clusters", "10", "5"),
        ),
        (lambda: jv.models.fit_ppca(np.ones(3), 1), ("xs", "(3,)")),
        (lambda: jv.models.fit_ppca(iris(), 4), ("latent_dim", "3", "4")),
        (lambda: jv.models.fit_ppca(iris()[:, [0, 0, 0]], 1), ("latent_dim", "subspace")),
        (lambda: linear().initialized(key(), jnp.ones((5, 6))), ("xs", "(5, 6)", "(2, 3)")),
        (lambda: jv.models.amari_index(np.eye(2), np.eye(3)), ("estimate", "(2, 2)", "(3, 3)")),
    ],
)
def test_bad_arguments_are_refused_by_name(build, words):
    with refused(*words):
        build()
