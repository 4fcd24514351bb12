"""Models and networks in NumPy, from their weights: p(z), q(z|x) and p(x|z), then fits with known optima."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import jaxvae as jv
from jaxvae.distributions import Autoregressive, log_prob, sample_with_log_prob
from jaxvae.models.likelihoods import Bernoulli
from jaxvae.networks import (
    GRU,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    MarkovMLP,
    MaskedMLP,
    activation_function,
)
from tests.support.linear import IRIS_PPCA, iris
from tests.support.slow import slow_but
from tests.test_autoregressive import BITS, EVENT, Z, check_frequencies, check_normalised
from tests.test_convolutional import loops
from tests.test_networks import REFERENCES

D, C = 2, 3
IMAGE = (5, 4)
SMALL = {"latent_dim": D, "hidden": (5,)}
CONVOLVED = {"latent_dim": D, "channels": (2, 3), "activation": "tanh"}


def moved(model, scale=0.4):
    """The model with noise on every parameter, so that no bias is zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), model
    )


def of(name, event_shape=(6,), **options):
    return moved(getattr(jv.models, name)(jax.random.key(0), event_shape, **options))


MODELS = {
    "vae": lambda: of("vae", **SMALL),
    "beta_vae": lambda: of("beta_vae", **SMALL),
    "conditional_vae": lambda: of("conditional_vae", num_classes=C, **SMALL).given(1),
    "gmvae": lambda: of("gmvae", num_components=C, learn_weights=True, activation="tanh", **SMALL),
    "vampprior": lambda: of("vampprior", num_pseudo_inputs=C, **SMALL),
    "conv_vae": lambda: of("conv_vae", IMAGE, **CONVOLVED),
    "ssvae": lambda: of(
        "ssvae", num_classes=C, activation="tanh", classifier_activation="tanh", **SMALL
    ),
    "ppca": lambda: of("ppca", latent_dim=D),
    "factor_analysis": lambda: of("factor_analysis", latent_dim=D),
    "ica": lambda: of("ica", latent_dim=D),
}
build = cache(lambda name: MODELS[name]())


# The same in float64.


def params(layer):
    return np.float64(layer.kernel[...]), np.float64(layer.bias[...])


def mlp(network, x):
    h = np.float64(x).ravel()
    for layer in network.layers:
        kernel, bias = params(layer)
        h = h @ kernel + bias
        h = np.tanh(h) if layer is not network.layers[-1] else h
    return h


def encoded(network, x):
    """A convolutional encoder: two levels of stride 2, each with a tanh, then a linear layer."""
    h = np.float64(x)[..., None]
    for level in network.levels:
        kernel, bias = params(level)
        h = np.tanh(loops(h, kernel, 2) + bias)
    kernel, bias = params(network.last)
    return h.ravel() @ kernel + bias


def decoded(network, z):
    """A convolutional decoder: each value spread over the 4 x 4 window that it would be the sum of."""
    kernel, bias = params(network.first)
    h = (np.float64(z) @ kernel + bias).reshape(network.small)
    for level in network.levels:
        kernel, bias = params(level)
        large, h = np.zeros((*level.size, kernel.shape[2])), np.tanh(h)
        for i, j, a, b in np.ndindex(*h.shape[:2], 4, 4):
            row, column = 2 * i + a - 1, 2 * j + b - 1
            if row in range(level.size[0]) and column in range(level.size[1]):
                large[row, column] += kernel[a, b] @ h[i, j]
        h = large + bias
    return h[..., 0]


def normal(z, output):
    """`log N(z; mean, diag softplus(raw))` of an output [mean, raw]."""
    mean, raw = np.split(output, 2)
    return stats.norm.logpdf(z, mean, np.sqrt(np.logaddexp(0, raw) + 1e-8)).sum()


def bernoulli(x, logits):
    return np.sum(x * logits - np.logaddexp(0, logits))


def dense(model, x, z):
    return stats.norm.logpdf(z).sum(), normal(z, mlp(model.encoder, x)), mlp(model.decoder, z)


def of_class(bound, x, z):
    model, one_hot = bound.model, np.eye(C)[1]
    q = mlp(model.encoder, np.append(np.ravel(x), one_hot))
    logits = mlp(model.decoder, np.append(z, one_hot))
    return stats.norm.logpdf(z).sum(), normal(z, q), logits


def mixture(model, x, z):
    own, rest = model.own_prior, dense(model, x, z)
    scale = np.sqrt(np.logaddexp(0, np.float64(own.raw_variance[...])) + 1e-8)
    each = stats.norm.logpdf(z, np.float64(own.loc[...]), scale).sum(1)
    return special.logsumexp(each + special.log_softmax(np.float64(own.logits[...]))), *rest[1:]


def posteriors(model, x, z):
    """The prior is the mean of the posteriors of what sigmoids of `raw` are encoded to."""
    us, rest = special.expit(np.float64(model.pseudo_inputs.raw[...])), dense(model, x, z)
    return special.logsumexp([normal(z, mlp(model.encoder, u)) for u in us]) - np.log(C), *rest[1:]


def convolved(model, x, z):
    q = normal(z, encoded(model.encoder, x))
    return stats.norm.logpdf(z).sum(), q, decoded(model.decoder, z)


def classes(model, x, latent):
    """M2: `p(y) p(z)`, `q(y|x) q(z|x, y)`, and p(x|y, z) of the latent [y, z]."""
    y, z = latent[:C], latent[C:]
    log_q = special.log_softmax(mlp(model.classifier, x)) @ y
    encoder = model.encoder
    h = np.float64(x).ravel() @ np.float64(encoder.x_kernel[...]) + np.float64(encoder.bias[...])
    h = np.tanh(h + y @ np.float64(encoder.y_kernel[...]))
    log_p = stats.norm.logpdf(z).sum() - np.log(C)
    return log_p, log_q + normal(z, mlp(encoder.rest, h)), mlp(model.decoder, latent)


def linear(model, x, z, latent=stats.norm):
    encoder = model.encoder
    mean = np.float64(encoder.weight[...]) @ (np.float64(x) - np.float64(encoder.offset[...]))
    q = latent.logpdf(z, mean, np.exp(np.float64(encoder.log_scale[...]))).sum()
    decoded = np.float64(model.weight[...]) @ z + np.float64(model.offset[...])
    noise = np.exp(0.5 * np.float64(model.log_variance[...]))
    return latent.logpdf(z).sum(), q, stats.norm.logpdf(x, decoded, noise).sum()


EXACT = {
    "vae": dense,
    "beta_vae": dense,
    "conditional_vae": of_class,
    "gmvae": mixture,
    "vampprior": posteriors,
    "conv_vae": convolved,
    "ssvae": classes,
    "ppca": linear,
    "factor_analysis": linear,
    "ica": partial(linear, latent=stats.laplace),
}
LINEAR = ("ppca", "factor_analysis", "ica")


def points(name):
    """An example and a latent, which has a class before it where the model has."""
    shape = IMAGE if name == "conv_vae" else (6,)
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape) if name in LINEAR else rng.random(shape) < 0.5
    z = np.array([0.7, -1.2])
    return x.astype(np.float32), np.append([0.0, 0.0, 1.0], z) if name == "ssvae" else z


@cache
def found(name):
    """log p(z), log q(z|x) and log p(x|z) by the model."""
    x, z = map(jnp.float32, points(name))

    @jax.jit
    def parts(model):
        likelihood = model.likelihood(z)
        return log_prob(model.prior(), z), log_prob(model.posterior(x), z), log_prob(likelihood, x)

    return np.float64(parts(build(name)))


def check_densities(name, densities):
    x, z = points(name)
    log_p, log_q, last = EXACT[name](build(name), x, z)
    last = last if name in LINEAR else bernoulli(x, last)
    np.testing.assert_allclose(densities, [log_p, log_q, last], rtol=1e-5, atol=1e-5)


FAST = ("vae", "gmvae", "ssvae", "ica")


@pytest.mark.parametrize("name", slow_but(MODELS, *FAST))
def test_models_are_their_formulas(name):
    check_densities(name, found(name))


@pytest.mark.parametrize("name", slow_but(MODELS, *FAST))
def test_check_of_models_rejects(name):
    """Each density averaged, prior and posterior exchanged, and another model's numbers."""
    right = found(name)
    size = np.prod(points(name)[0].shape)
    other = found("vae" if name == "ica" else "ica" if name != "ppca" else "factor_analysis")
    twins = [right / [D, 1, 1], right / [1, D, 1], right / [1, 1, size], right[[1, 0, 2]]]
    for twin in (*twins, np.append(right[:2], other[2])):
        with pytest.raises(AssertionError):
            check_densities(name, twin)


# Networks.

ENCODER = ConvolutionalEncoder(
    IMAGE, (2, 3), 4, activation="tanh", rngs=nnx.Rngs(jax.random.key(0))
)
DECODER = ConvolutionalDecoder(
    3, (2, 3), (1, *IMAGE), activation="tanh", rngs=nnx.Rngs(jax.random.key(0))
)


def check_convolutional(encode, decode):
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=IMAGE), rng.normal(size=3)
    np.testing.assert_allclose(encode(jnp.float32(x)), encoded(ENCODER, x), atol=1e-5)
    np.testing.assert_allclose(decode(jnp.float32(z))[0], decoded(DECODER, z), atol=1e-5)


def test_convolutional_networks_are_sums_over_windows():
    encode, decode = jax.jit(lambda x: ENCODER(x)), jax.jit(lambda z: DECODER(z))
    check_convolutional(encode, decode)
    for twin in (
        (lambda x: encode(x[::-1]), decode),
        (encode, lambda z: decode(z)[:, ::-1]),
        (encode, lambda z: jnp.roll(decode(z), 1, axis=1)),
    ):
        with pytest.raises(AssertionError):
            check_convolutional(*twin)


def check_activation(name, function):
    x = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(function(jnp.float32(x)), REFERENCES[name](x), atol=2e-6)


@pytest.mark.parametrize("name", REFERENCES)
def test_activations_are_their_formulas(name):
    check_activation(name, activation_function(name))
    for other in set(REFERENCES) - {name}:
        with pytest.raises(AssertionError):
            check_activation(name, activation_function(other))


NETWORKS = {
    "GRU": partial(GRU, hidden=(5,)),
    "MarkovMLP": partial(MarkovMLP, hidden=(5,), order=2),
    "MaskedMLP": partial(MaskedMLP, hidden=(9,), num_outputs=1),
}


@pytest.mark.parametrize("name", slow_but(NETWORKS, "MaskedMLP"))
def test_autoregressive_networks_make_a_distribution(name):
    """All 64 probabilities sum to one; draws of a network with a state of its own follow them."""
    network = moved(NETWORKS[name](6, 2, rngs=nnx.Rngs(jax.random.key(0))))
    p = Autoregressive(network, Bernoulli(), Z, EVENT)
    check_normalised(p, BITS)
    if name == "GRU":
        check_frequencies(p, BITS)


# Fits.

ROWS = np.random.default_rng(5).normal(size=(8, 2)) + np.repeat(
    [[0, 0], [3, 0], [1, 3]], [3, 3, 2], 0
)
WEIGHTS = np.array([1.0, 5.0, 1.0, 0.2, 1.0, 3.0, 1.0, 2.0])


def costs_of(members, weights):
    """Weighted squares about the weighted means of the groups, for members [..., N, C] of 0 and 1."""
    shares = weights[:, None] * members
    sums = np.einsum("...nc,nd->...cd", shares, ROWS)
    within = np.sum(sums**2, axis=-1) / np.maximum(shares.sum(axis=-2), 1e-9)
    return weights @ np.sum(ROWS**2, axis=1) - within.sum(axis=-1)


@cache
def least_cost(weighted):
    """Of all 3^8 ways to share out the rows."""
    ways = np.eye(C)[np.array(list(itertools.product(range(C), repeat=len(ROWS))))]
    return costs_of(ways, WEIGHTS if weighted else np.ones(len(ROWS))).min()


def check_kmeans(function):
    """The best of all 3^8 partitions, at its means; that of scikit-learn where rows count alike."""
    for weighted in (False, True):
        weights = WEIGHTS if weighted else np.ones(8)
        centres, nearest = map(np.asarray, function(jnp.float32(weights)))
        np.testing.assert_allclose(
            costs_of(np.eye(C)[nearest], weights), least_cost(weighted), rtol=1e-5
        )
        for c in range(C):
            mean = np.average(ROWS[nearest == c], axis=0, weights=weights[nearest == c])
            np.testing.assert_allclose(centres[c], mean, rtol=1e-4)
    plain = KMeans(C, n_init=20, random_state=0).fit(ROWS)
    np.testing.assert_allclose(plain.inertia_, least_cost(False), rtol=1e-5)


@jax.jit
def kmeans(weights):
    return jv.models.kmeans(jax.random.key(0), jnp.float32(ROWS), C, weights=weights)


def without_weights(weights):
    return kmeans(jnp.ones_like(weights))


def to_the_farthest(weights):
    centres, _ = kmeans(weights)
    distance = jnp.sum((jnp.float32(ROWS)[:, None] - centres[None]) ** 2, axis=2)
    return centres, jnp.argmax(distance, axis=1)


def test_kmeans_finds_the_best_of_all_partitions():
    check_kmeans(kmeans)
    for twin in (without_weights, to_the_farthest):
        with pytest.raises(AssertionError):
            check_kmeans(twin)


def check_best_ppca(model):
    """The covariance of scikit-learn's, but for its divisor N - 1, and p(z|x) of Bayes' rule as the encoder."""
    theirs = PCA(2).fit(np.float64(iris()))
    weight, offset = np.float64(model.weight[...]), np.float64(model.offset[...])
    covariance = theirs.get_covariance() * 149 / 150
    ours = weight @ weight.T + np.diag(np.float64(model.noise))
    np.testing.assert_allclose(ours, covariance, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(offset, theirs.mean_, rtol=1e-5)
    total = stats.multivariate_normal(offset, ours).logpdf(iris()).sum()
    np.testing.assert_allclose(total, IRIS_PPCA, rtol=1e-6)
    x = np.float64(iris()[7])
    mean = weight.T @ np.linalg.solve(covariance, x - offset)
    np.testing.assert_allclose(model.posterior(jnp.float32(x)).mean, mean, rtol=1e-3, atol=1e-4)


def test_the_closed_form_of_ppca_is_scikit_learns():
    best = jv.models.fit_ppca(iris(), 2)
    check_best_ppca(best)
    weight, offset, noise = best.weight[...], best.offset[...], best.noise
    for twin in (
        best.with_decoder(weight, offset, 2 * noise),
        best.with_decoder(1.02 * weight, offset, noise),
        best.with_decoder(weight, offset + 0.1, noise),
        best.with_decoder(-weight, offset, noise),  # its encoder stays behind
    ):
        with pytest.raises(AssertionError):
            check_best_ppca(twin)


def check_evidence(name, evidence):
    """`N(x; offset, W W' + noise)` by SciPy."""
    model, (x, _) = build(name), points(name)
    weight, noise = np.float64(model.weight[...]), np.float64(model.noise)
    exact = stats.multivariate_normal(
        np.float64(model.offset[...]), weight @ weight.T + np.diag(noise)
    ).logpdf(x)
    np.testing.assert_allclose(evidence(model, jnp.float32(x)), exact, rtol=1e-5)


@pytest.mark.parametrize("name", ["ppca", "factor_analysis"])
def test_the_evidence_of_linear_models(name):
    check_evidence(name, lambda model, x: model.log_evidence(x))
    for twin in (
        lambda model, x: log_prob(model.likelihood(jnp.zeros(D)), x),
        lambda model, x: model.log_evidence(x) / 6,
    ):
        with pytest.raises(AssertionError):
            check_evidence(name, twin)


MIXED = np.array([0.3, -0.8])


@cache
def mixed():
    """A mixture, and its log p(x), p(z|x) and p(z)."""
    model = moved(jv.models.gaussian_mixture(jax.random.key(0), (2,), num_components=C))
    call = jax.jit(lambda m, x: (m.log_evidence(x), m.posterior(x).mean, m.prior().mean))
    return model, call(model, jnp.float32(MIXED))


def check_mixture(evidence, posterior, prior):
    """`log sum_c w_c N(x; m_c, L_c L_c')` and the responsibilities, by SciPy."""
    model = mixed()[0]
    trils = np.zeros((C, 2, 2))
    trils[:, [0, 1], [0, 1]] = np.exp(np.float64(model.log_scale[...]))
    trils[:, 1, 0] = np.float64(model.lower[...])[:, 0]
    means, log_w = np.float64(model.means[...]), special.log_softmax(np.float64(model.logits[...]))
    joint = log_w + [
        stats.multivariate_normal(m, t @ t.T).logpdf(MIXED)
        for m, t in zip(means, trils, strict=True)
    ]
    np.testing.assert_allclose(evidence, special.logsumexp(joint), rtol=1e-5)
    np.testing.assert_allclose(posterior, special.softmax(joint), rtol=1e-4)
    np.testing.assert_allclose(prior, np.exp(log_w), rtol=1e-5)


def test_a_gaussian_mixture_is_scipys():
    model, (evidence, posterior, prior) = mixed()
    check_mixture(evidence, posterior, prior)
    unnormalised = evidence + special.logsumexp(np.float64(model.logits[...]))
    for twin in (
        (unnormalised, posterior, prior),
        (evidence, prior, prior),
        (evidence, posterior, np.full(C, 1 / C)),
    ):
        with pytest.raises(AssertionError):
            check_mixture(*twin)


def check_amari(index):
    """The formula of Amari, Cichocki and Yang (1996), over 2 D (D - 1), by loops."""
    estimate, truth = np.random.default_rng(0).normal(size=(2, 5, 3))
    p = np.abs(np.linalg.pinv(estimate) @ truth)
    total = 0.0
    for i in range(3):
        total += p[i].sum() / p[i].max() - 1 + p[:, i].sum() / p[:, i].max() - 1
    np.testing.assert_allclose(index(estimate, truth), total / 12, rtol=1e-4)


def test_the_amari_index():
    check_amari(jv.models.amari_index)
    for twin in (
        lambda a, b: jv.models.amari_index(a, a),
        lambda a, b: jv.models.amari_index(np.abs(a), b),
        lambda a, b: 3 * jv.models.amari_index(a, b),
    ):
        with pytest.raises(AssertionError):
            check_amari(twin)


@cache
def flow_prior():
    """A prior far from normal, 20 samples of it and what it says of them."""
    model = moved(
        jv.models.flow_prior_vae(
            jax.random.key(0), (3,), num_flows=2, flow="masked_autoregressive", **SMALL
        )
    )
    draw = jax.vmap(lambda key: sample_with_log_prob(model.prior(), key))
    return model, *jax.jit(draw)(jax.random.split(jax.random.key(1), 20))


def check_flow_prior(of_sample):
    """`log N(f(z)) + log |det df/dz|`, the determinant that of the whole Jacobian of f."""
    model, zs, _ = flow_prior()

    def noise(z):
        for flow in reversed(model.prior().transforms):
            z = flow.inv(z)
        return z

    both = jax.jit(jax.vmap(lambda z: (noise(z), jax.jacobian(noise)(z))))
    eps, jacobians = map(np.float64, both(zs))
    exact = stats.norm.logpdf(eps).sum(1) + np.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(of_sample, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_flow_prior_is_the_density_of_its_noise_times_the_determinant():
    model, zs, log_p = flow_prior()
    check_flow_prior(log_p)
    check_flow_prior(jax.jit(jax.vmap(lambda z: log_prob(model.prior(), z)))(zs))
    for twin in (stats.norm.logpdf(zs).sum(1), -log_p, log_p / D):
        with pytest.raises(AssertionError):
            check_flow_prior(twin)
