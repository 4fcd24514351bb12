"""Autoregressive decoders against enumeration of all x, and whether z is used against decoders of which it is known."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import jaxvae as jv
from jaxvae.distributions import Autoregressive, made_masks, sample
from jaxvae.models.likelihoods import Bernoulli, Categorical
from jaxvae.networks import GRU, MarkovMLP, MaskedMLP, autoregressive
from tests.support.refusals import refused
from tests.support.slow import slow_but
from tests.support.statistics import FALSE_ALARM

DECODERS = {"made": {}, "recurrent": {}, "markov": {"order": 2}}
EVENT, LATENT = (2, 3), 2
BITS = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=6)), jnp.float32).reshape(-1, *EVENT)
Z = jnp.array([0.7, -1.2])


def make(decoder, *, gain=2.0, event_shape=EVENT, latent_dim=LATENT, **options):
    """A model with weights larger than those it would start from, and biases; only shapes are traced."""
    options = {"hidden": (9, 8), "decoder": decoder} | DECODERS[decoder] | options

    def build(key):
        return jv.models.autoregressive(key, event_shape, latent_dim=latent_dim, **options)

    rng = np.random.default_rng(0)

    def fill(leaf):
        scale = gain / np.sqrt(leaf.shape[0]) if leaf.ndim == 2 else 0.3
        return jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map(fill, jax.eval_shape(build, jax.random.key(0)))


@jax.jit
def scores(p, xs):
    return jax.vmap(p.log_prob)(xs)


def check_normalised(p, xs, scores=scores):
    np.testing.assert_allclose(np.exp(np.float64(scores(p, xs))).sum(), 1, atol=2e-6)


@pytest.mark.parametrize("latent_dim", [0, LATENT])
@pytest.mark.parametrize("decoder", DECODERS)
def test_probabilities_of_all_bits_sum_to_one(decoder, latent_dim):
    check_normalised(make(decoder, latent_dim=latent_dim).likelihood(Z[:latent_dim]), BITS)


@pytest.mark.parametrize("decoder", DECODERS)
def test_probabilities_of_all_classes_sum_to_one_and_samples_follow_them(decoder):
    model = make(decoder, event_shape=(4,), likelihood="categorical", num_categories=3)
    xs = jnp.asarray(list(itertools.product([0.0, 1.0, 2.0], repeat=4)), jnp.float32)
    check_normalised(model.likelihood(Z), xs)
    check_frequencies(model.likelihood(Z), xs)


@jax.jit
def _draws(p, keys):
    return jax.vmap(lambda key: sample(p, key))(keys)


def check_frequencies(p, xs, count=20_000):
    """Chi-square of the draws against the scores of all x; rare x are taken together. False alarm 1e-6."""
    draws = np.asarray(_draws(p, jax.random.split(jax.random.key(5), count)))
    assert draws.dtype == np.float32
    rows = {tuple(x.ravel()): i for i, x in enumerate(np.asarray(xs))}
    seen = np.bincount([rows[tuple(x.ravel())] for x in draws], minlength=len(rows))
    expected = count * np.exp(np.float64(scores(p, xs)))
    rare = expected < 10
    seen, expected = (np.append(a[~rare], a[rare].sum()) for a in (seen, expected))
    seen, expected = seen[expected > 0], expected[expected > 0]
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > FALSE_ALARM


@pytest.mark.parametrize("decoder", DECODERS)
def test_samples_follow_the_probabilities(decoder):
    check_frequencies(make(decoder).likelihood(Z), BITS)


def jacobian(model, x=BITS[37], z=Z):
    """d params[p, k] / d features[j], and by z, at a point between bits."""
    x = 0.3 + 0.4 * x.reshape(-1, 1)
    by_x, by_z = jax.jit(jax.jacobian(lambda x, z: model.decoder(x, z), (0, 1)))(x, z)
    return np.asarray(by_x)[..., 0], np.asarray(by_z)


def check_sees(model, sees):
    by_x, by_z = jacobian(model)
    for of_one_output in by_x:
        np.testing.assert_array_equal(of_one_output != 0, sees)
    assert np.all(by_z != 0)


BEFORE = np.tril(np.ones((6, 6), bool), -1)


@pytest.mark.parametrize(
    ("decoder", "likelihood"),
    [("made", "bernoulli"), ("made", "beta"), ("recurrent", "bernoulli")],
)
def test_a_value_sees_all_before_it_and_only_those(decoder, likelihood):
    check_sees(make(decoder, likelihood=likelihood), BEFORE)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_markov_decoder_sees_the_last_values_only(order):
    check_sees(make("markov", order=order), BEFORE & ~np.tril(BEFORE, -1 - order))


def test_a_block_of_one_hot_features_belong_to_one_value():
    model = make("made", event_shape=(4,), likelihood="categorical", num_categories=3)
    by_x = jax.jit(jax.jacobian(lambda x: model.decoder(x, Z)))(
        jnp.full((4, 3), 1 / 3)
    )  # [C, N, N, C]
    seen = np.tril(np.ones((4, 4), bool), -1)[None, :, :, None]
    np.testing.assert_array_equal(by_x != 0, np.broadcast_to(seen, (3, 4, 4, 3)))


def test_direct_weights_see_the_nearest_values_where_hidden_units_are_few():
    """Six values and two hidden units: without direct weights the last output is blind to some."""
    nets = [
        MaskedMLP(6, 0, (2,), num_outputs=1, direct=direct, rngs=nnx.Rngs(jax.random.key(0)))
        for direct in (True, False)
    ]
    seen = [
        np.asarray(jax.jit(jax.jacobian(net))(jnp.zeros(6), jnp.zeros(0)))[0] != 0 for net in nets
    ]
    np.testing.assert_array_equal(seen[0], BEFORE)
    assert not seen[1][5, 4]


SHIFTED = {
    "the last mask sees itself": lambda masks: [*masks[:-1], masks[-1] | np.roll(masks[-1], -1, 1)],
    "values shifted by one": lambda masks: [np.roll(masks[0], 1, 0), *masks[1:]],
}


@pytest.mark.parametrize("twin", SHIFTED.values(), ids=SHIFTED)
def test_the_checks_reject_a_mask_shifted_by_one(monkeypatch, twin):
    monkeypatch.setattr(autoregressive, "made_masks", lambda *a, **k: twin(made_masks(*a, **k)))
    model = make("made")
    with pytest.raises(AssertionError):
        check_sees(model, BEFORE)
    with pytest.raises(AssertionError):  # traced anew, with the masks of the twin
        check_normalised(model.likelihood(Z), BITS, scores=lambda p, xs: p.log_prob(xs))


class SeesItself(MarkovMLP):
    """A window that ends one value too late."""

    def __call__(self, features, context):
        later = jnp.concatenate([features[1:], jnp.zeros_like(features[:1])])
        return super().__call__(later, context)


class NotAdvanced(GRU):
    """Scores a state behind what it draws from."""

    def params(self, state, k, context):
        return self.head(jnp.where(k == 0, state[-1], 0.5 * state[-1]))


def test_the_checks_reject_a_window_and_a_state_shifted_by_one():
    rngs = nnx.Rngs(jax.random.key(0))
    window = SeesItself(6, LATENT, (9,), order=2, rngs=rngs)
    window = jax.tree.map(lambda leaf: 3 * leaf, window)
    with pytest.raises(AssertionError):
        check_normalised(Autoregressive(window, Bernoulli(), Z, EVENT), BITS)
    state = jax.tree.map(lambda leaf: 3 * leaf, NotAdvanced(6, LATENT, (9,), rngs=rngs))
    p = Autoregressive(state, Bernoulli(), Z, EVENT)
    check_normalised(p, BITS)
    with pytest.raises(AssertionError):
        check_frequencies(p, BITS)


def test_the_checks_reject_an_order_that_differs_between_scoring_and_drawing():
    """With the order of values reversed, the density is one, but not the one that is drawn from."""
    model = make("made")
    model.decoder.reverse = True
    p = model.likelihood(Z)
    check_normalised(p, BITS)
    with pytest.raises(AssertionError):
        check_frequencies(p, BITS)
    with pytest.raises(AssertionError):
        check_chain(model)


def chain(decoder, output, z, x):
    """log p(x_k | x_<k, z) of every k, one value after another in a Python loop."""
    state, terms = decoder.start(z), []
    for k, value in enumerate(x.reshape(-1)):
        terms.append(output(decoder.params(state, k, z)[:, None]).log_prob(value[None]))
        state = decoder.advance(state, k, output.features(value[None]).reshape(-1), z)
    return np.float64(terms)


def check_chain(model):
    p = model.likelihood(Z)
    log_p, index = scores(p, BITS), jnp.array([5, 37, 62])
    for x, expected in zip(BITS[index], log_p[index], strict=True):
        terms = chain(model.decoder, model.output, Z, x)
        np.testing.assert_allclose(expected, terms.sum(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_score_is_the_sum_of_the_conditionals(decoder):
    check_chain(make(decoder))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_the_recurrent_network_is_its_equations():
    """Two layers in NumPy, float64, from the weights alone."""
    net, x = make("recurrent").decoder, np.asarray(BITS[37].reshape(-1, 1), np.float64)
    z = np.asarray(Z, np.float64)

    def affine(layer, h):
        return h @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...])

    states = np.split(np.tanh(affine(net.initial, z)), [8])
    outputs = [affine(net.head, states[-1])]
    for value in x[:-1]:
        h = np.concatenate([value, z])
        for layer, state in enumerate(states):
            a = np.split(affine(net.inputs[layer], h), 3)
            b = np.split(affine(net.states[layer], state), 3)
            reset, update = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            states[layer] = h = update * state + (1 - update) * np.tanh(a[2] + reset * b[2])
        outputs.append(affine(net.head, h))
    result = net(jnp.asarray(x, jnp.float32), Z)
    np.testing.assert_allclose(result, np.transpose(outputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_jit_is_eager_and_batches_are_rows(decoder):
    p = make(decoder).likelihood(Z)
    compiled = scores(p, BITS)
    np.testing.assert_allclose(compiled[5], p.log_prob(BITS[5]), rtol=1e-5)
    rows = jax.jit(lambda p, xs: p.log_prob(xs))(p, BITS.reshape(16, 4, *EVENT))
    np.testing.assert_allclose(rows.reshape(-1), compiled, rtol=1e-5)
    key = jax.random.key(2)
    x = p.sample(key)
    np.testing.assert_array_equal(jax.jit(lambda p, key: p.sample(key))(p, key), x)
    shape = jax.eval_shape(lambda key: p.sample(key, (2, 3)), key)
    assert (shape.shape, shape.dtype) == ((2, 3, *EVENT), jnp.float32)
    assert bool(p.support(x))
    assert not p.has_rsample


def contracted(decoder):
    """The contracted axes of all products in the gradient of K samples by B examples."""
    model = make(decoder)

    def loss(decoder, xs, zs):
        def one(x, z):
            return Autoregressive(decoder, model.output, z, EVENT).log_prob(x)

        return jnp.sum(jax.vmap(lambda x, z: jax.vmap(lambda z: one(x, z))(z))(xs, zs))

    zs = jnp.ones((4, 5, LATENT))
    program = jax.jit(jax.grad(loss)).lower(model.decoder, BITS[40:44], zs).as_text()
    return re.findall(r"contracting_dims = (\[[\d, ]*\])", program)


@pytest.mark.parametrize("decoder", DECODERS)
def test_products_stay_two_dimensional_under_nested_vmap(decoder):
    found = contracted(decoder)
    assert found
    assert all("," not in axes for axes in found), found


def test_check_of_products_rejects_a_plain_one(monkeypatch):
    monkeypatch.setattr(autoregressive, "rows", jnp.matmul)
    assert any("," in axes for axes in contracted("made"))


@pytest.mark.parametrize("decoder", slow_but(DECODERS, "made"))
def test_without_latents_the_bound_is_the_likelihood(decoder):
    model = make(decoder, latent_dim=0)
    assert isinstance(model, jv.Model)
    xs, key = BITS[jnp.array([5, 37])], jax.random.key(1)
    exact = scores(model.likelihood(jnp.zeros(0)), BITS)[jnp.array([5, 37])]

    @jax.jit
    @jax.vmap
    def objectives(x):
        return (
            jv.elbo(key, model, x, num_samples=3),
            jv.elbo(key, model, x, kl="monte_carlo", gradient="stl"),
            jv.iwae(key, model, x, num_samples=3, gradient="dreg"),
        )

    for terms in objectives(xs):
        np.testing.assert_array_equal(terms.rate, 0)
        np.testing.assert_allclose(terms.bound, exact, rtol=1e-6)
    estimate = jv.evaluation.log_likelihood(key, model, xs, num_samples=5, chunk_size=2)
    np.testing.assert_allclose(estimate.estimate, exact, rtol=1e-6)
    np.testing.assert_array_equal(estimate.ess, 5)
    assert jv.evaluation.active_units(model, xs).count == 0
    reliance = jv.evaluation.reliance_on_latents(key, model, xs)
    assert (reliance.mean_rate[0], reliance.mean_drop[0]) == (0, 0)


@pytest.mark.parametrize("decoder", slow_but(DECODERS, "made"))
def test_the_evidence_is_the_average_over_the_prior(decoder):
    """IWAE with many samples against quadrature over one latent."""
    model, x = make(decoder, latent_dim=1, gain=1.0), BITS[11]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    log_p = jax.jit(jax.vmap(lambda z: model.likelihood(z[None]).log_prob(x)))(jnp.float32(nodes))
    exact = np.log(np.exp(np.float64(log_p)) @ weights / np.sqrt(2 * np.pi))
    result = jv.evaluation.log_likelihood(jax.random.key(0), model, x[None], num_samples=4000)
    # Five standard errors: a false alarm of 6e-7, where the estimate is near normal.
    assert abs(result.estimate[0] - exact) < 5 * result.standard_error[0] + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_part_gets_a_gradient(decoder):
    gradient = jax.jit(
        jax.grad(lambda m: jv.elbo(jax.random.key(0), m, BITS[37], num_samples=2).objective)
    )(make(decoder))
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert bool(jnp.any(leaf != 0)), jax.tree_util.keystr(path)
        assert bool(jnp.all(jnp.isfinite(leaf)))


def test_one_value_and_the_order_of_all_before():
    for decoder in DECODERS:
        model = make(decoder, event_shape=(1,), **({"order": 1} if decoder == "markov" else {}))
        check_normalised(model.likelihood(Z), jnp.array([[0.0], [1.0]]))


def test_masks_of_values_and_means_are_refused():
    model = make("made")
    batch = {"x": BITS[:2], "mask": jnp.ones((2, *EVENT))}
    with refused("mask", "factorises", "Autoregressive"):
        jv.evaluation.terms(jax.random.key(0), model, batch)
    with pytest.raises(NotImplementedError):
        _ = model.likelihood(Z).mean


class Shared(nnx.Module):
    """A likelihood whose values share a total, which one value alone does not have."""

    num_params, support = 1, Bernoulli.support

    def features(self, x):
        return jnp.append(x.reshape(-1), x.sum())

    def __call__(self, params):
        return Bernoulli()(params)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": -1}, ("latent_dim", "-1")),
        ({"latent_dim": True}, ("latent_dim", "True")),
        ({"decoder": "pixelcnn"}, ("decoder", "'pixelcnn'", "markov")),
        ({"order": 2}, ("order", "markov", "'made'")),
        ({"decoder": "markov", "order": 0}, ("order", "0")),
        ({"decoder": "markov", "order": 6}, ("order", "at most 5", "6")),
        ({"decoder": "recurrent", "hidden": ()}, ("hidden", "()")),
        ({"hidden": 3}, ("hidden", "3")),
        ({"hidden": (3, 0)}, ("hidden", "0")),
        ({"activation": "sine"}, ("activation", "'sine'")),
        (
            {"decoder": "recurrent", "latent_dim": 0, "activation": "relu"},
            ("activation", "no effect", "'relu'"),
        ),
        ({"event_shape": ()}, ("event_shape",)),
        ({"likelihood": Shared()}, ("likelihood", "Shared", "features")),
        ({"likelihood": Categorical(3), "num_categories": 3}, ("num_categories",)),
    ],
)
def test_bad_arguments_are_refused_by_name(options, words):
    options = {"event_shape": EVENT, "latent_dim": 2, "hidden": (4,)} | options
    with refused(*words):
        jv.models.autoregressive(jax.random.key(0), options.pop("event_shape"), **options)


def without_latents_in(model):
    """The same model, the decoder's weights of z set to zero."""
    kernel = model.decoder.layers[0].kernel
    kernel[...] = kernel[...].at[6:].set(0)
    kernel = model.decoder.layers[-1].kernel  # the direct weights
    kernel[...] = kernel[...].at[6:].set(0)
    return model


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_a_decoder_without_weights_of_z_does_not_rely_on_it(kl):
    model = without_latents_in(make("made"))
    result = jv.evaluation.reliance_on_latents(jax.random.key(0), model, BITS, kl=kl)
    np.testing.assert_array_equal(result.drop, 0)
    assert result.mean_drop == (0, 0)
    assert result.verdict == "ignored"
    assert result.mean_rate[0] > 0.1
    assert "ignored" in str(result)
    used = jv.evaluation.reliance_on_latents(jax.random.key(0), make("made"), BITS, kl=kl)
    assert np.any(used.drop != 0)  # the check of zero can fail


class Copies(nnx.Module):
    """z is x, up to noise, and p(x|z) has logits 2 z: what z is worth is known."""

    scale = 0.5

    def prior(self):
        return jv.models.vae(jax.random.key(0), (6,), latent_dim=6, hidden=()).prior()

    def posterior(self, x):
        q = self.prior().base_dist
        return type(q)(2 * x.reshape(-1) - 1, jnp.full(6, self.scale)).to_event(1)

    def likelihood(self, z):
        return Bernoulli()(2 * z.reshape(1, *EVENT))


def test_reliance_is_the_expectation_that_it_says():
    """E log p(x|z) has x z' - E softplus(z'), whose second part cancels in the mean over the ring."""
    xs = jax.random.permutation(jax.random.key(3), BITS)
    result = jv.evaluation.reliance_on_latents(jax.random.key(0), Copies(), xs, num_samples=400)
    signs, x = 2 * np.asarray(xs).reshape(-1, 6) - 1, np.asarray(xs).reshape(-1, 6)
    exact = np.mean(np.sum(2 * x * (signs - np.roll(signs, -1, 0)), axis=1))
    # The ring has every z once on either side: only x z' differs, and its noise is shared by both.
    np.testing.assert_allclose(result.mean_drop[0], exact, atol=0.05)
    rate = 6 * (1 + 0.25 - 1 - np.log(0.25)) / 2
    np.testing.assert_allclose(result.rate, rate, rtol=1e-5)
    assert result.verdict == "used"
    # A twin that takes z from the example itself would say 0.
    assert exact > 1
    same = jv.evaluation.reliance_on_latents(jax.random.key(0), Copies(), xs[:1].repeat(4, 0))
    np.testing.assert_allclose(same.drop, 0, atol=1e-5)


def test_reliance_does_not_depend_on_the_batch_and_says_what_it_cannot_decide():
    key, model = jax.random.key(0), make("made")
    whole, parts = (
        jv.evaluation.reliance_on_latents(key, model, BITS[:10], batch_size=size)
        for size in (10, 4)
    )
    np.testing.assert_allclose(whole.drop, parts.drop, rtol=1e-4, atol=1e-5)
    mean, error = whole.mean_drop
    verdicts = [
        jv.evaluation.reliance_on_latents(
            key, model, BITS[:10], batch_size=10, threshold=mean + shift * error
        ).verdict
        for shift in (-3.1, 0, 3.1)
    ]
    assert verdicts == ["used", "undecided", "ignored"]
    with refused("xs", "two examples"):
        jv.evaluation.reliance_on_latents(key, model, BITS[:1])
    with refused("kl", "'entropy'"):
        jv.evaluation.reliance_on_latents(key, model, BITS, kl="entropy")


def test_reliance_of_values_that_were_observed():
    """A mask goes with its x, and an example without its values has nothing to lose."""
    model = jv.models.vae(jax.random.key(0), EVENT, latent_dim=2, hidden=(4,))
    mask = jnp.ones_like(BITS[40:44]).at[1].set(0)
    batch = {"x": jnp.where(mask > 0, BITS[40:44], jnp.nan), "mask": mask}
    result = jv.evaluation.reliance_on_latents(jax.random.key(0), model, batch)
    assert result.drop[1] == 0
    assert np.all(np.isfinite(result.drop))
    assert np.all(result.drop[[0, 2, 3]] != 0)


@pytest.mark.slow
def test_experiment(experiment):
    """A few steps; the numbers of the claim take longer and are in the file."""
    options = "--only markov --hidden 4 --total-steps 2 --num-samples 2 --num-test 4".split()
    assert re.search(r"markov +\d+\.\d+ \+- \d+\.\d+", experiment("autoregressive", *options))
