"""M2 and learning from few labels, against enumeration, quadrature and scikit-learn.

False-alarm rate of each z-test: 1e-6 over all entries.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from scipy import special, stats
from sklearn.metrics import confusion_matrix

import jaxvae as jv
from jaxvae.distributions import (
    ClassConditional,
    analytic_entropy,
    analytic_kl,
    log_prob,
    sample,
    sample_with_log_prob,
)
from jaxvae.evaluation import classification
from jaxvae.objectives import elbo
from jaxvae.semi_supervised import (
    choose_labelled,
    label_log_probs,
    redrawn,
    semi_supervised,
)
from jaxvae.testing import check_order, z_test
from tests.support.refusals import refused
from tests.support.statistics import assert_mean

C, D = 3, 2
X = jnp.float32([1, 0, 1])
ROWS = {"labelled_x": jnp.eye(3)[jnp.array([0, 1, 2, 0])], "labelled_y": np.array([0, 1, 2, 2])}
KLS = ["analytic", "entropy", "monte_carlo"]


def tiny(gain=3, **options):
    """A model whose classes and posteriors differ: weights `gain` times those of the start."""
    options = {"num_classes": C, "latent_dim": D, "hidden": (5, 4)} | options
    model = jv.models.ssvae(jax.random.key(0), (3,), **{"initializer": "fan_in_uniform"} | options)
    return jax.tree.map(lambda leaf: gain * leaf, model)


MODEL = tiny()


def joint(seed=0):
    rng = np.random.default_rng(seed)
    loc, scale = rng.normal(size=(C, D)), np.exp(rng.normal(size=(C, D)))
    return ClassConditional(*(jnp.float32(a) for a in (rng.normal(size=C), loc, scale)))


def key(seed=7):
    return jax.random.key(seed)


def keys(count, seed=7):
    return jax.random.split(key(seed), count)


def samples_of(q, count=20_000):
    return jax.jit(jax.vmap(partial(sample, q)))(keys(count))


# The latent [y, z].


def test_density_is_that_of_its_two_parts():
    q, z = joint(), np.float32([0.3, -1.2])
    for c in range(C):
        latent = jnp.concatenate([jnp.eye(C)[c], jnp.asarray(z)])
        exact = special.log_softmax(np.float64(q.logits))[c]
        exact += stats.norm.logpdf(z, np.float64(q.loc[c]), np.float64(q.scale[c])).sum()
        np.testing.assert_allclose(log_prob(q, latent), exact, rtol=1e-5)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((), (C + D,), False)


def test_density_and_gradient_stay_finite_beside_a_class_of_no_chance():
    def score(logits, scale):
        q = ClassConditional(logits, jnp.zeros((2, 1)), scale)
        return log_prob(q, jnp.float32([1, 0, 5]))

    extreme = jnp.float32([200, -200]), jnp.float32([[1], [1e-20]])
    value, gradients = jax.jit(jax.value_and_grad(score, (0, 1)))(*extreme)
    assert jax.tree.all(jax.tree.map(lambda a: bool(np.isfinite(a).all()), (value, gradients)))


def check_samples(q, drawn):
    drawn = np.float64(drawn)
    np.testing.assert_array_equal(np.sort(drawn[:, :C]), np.float64([[0, 0, 1]] * len(drawn)))
    mean, probs = np.float64(q.mean), np.float64(jax.nn.softmax(q.logits))
    moments = np.float64(q.variance) + mean**2
    of_pairs = [p * np.float64(q.loc[c]) for c, p in enumerate(probs)]
    pairs = (drawn[:, :C, None] * drawn[:, None, C:]).reshape(len(drawn), -1)
    columns = np.concatenate([drawn, drawn**2, pairs], axis=1)
    exact = np.concatenate([mean, moments, *of_pairs])
    return z_test(columns, exact, rounding=1e-5).passed


def test_samples_have_the_moments_and_z_goes_with_its_class():
    q = joint()
    drawn = samples_of(q)
    assert check_samples(q, drawn)
    # The twin forgets which class z was drawn for.
    z = jnp.roll(drawn[:, C:], 1, axis=0)
    assert not check_samples(q, jnp.concatenate([drawn[:, :C], z], axis=1))
    z, log_q = sample_with_log_prob(q, key())
    np.testing.assert_allclose(log_q, log_prob(q, z), rtol=1e-6)
    assert q.sample(key(), (4, 2)).shape == (4, 2, C + D)


def test_no_gradient_flows_through_samples():
    gradient = jax.grad(lambda q: jnp.sum(sample(q, key())))(joint())
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(gradient))


def test_divergence_and_entropy_are_those_of_samples():
    q, other = joint(0), joint(1)
    p = ClassConditional(-2 * q.logits, other.loc, other.scale)
    drawn = samples_of(q)

    @jax.jit
    def exact_and_twins(q, p):
        # The twins: z without the classes, another class's weight, the other direction.
        each, of_y = analytic_kl(q.given_label, p.given_label), analytic_kl(q.label, p.label)
        of_z = jnp.sum(jax.nn.softmax(q.logits) * each)
        swapped = of_y + jnp.sum(jax.nn.softmax(jnp.roll(q.logits, 1)) * each)
        log_densities = [jax.vmap(partial(log_prob, d))(drawn) for d in (q, p)]
        exact = analytic_kl(q, p), analytic_entropy(q)
        return log_densities, exact, (of_z, swapped, analytic_kl(p, q))

    (log_q, log_p), (kl, entropy), twins = exact_and_twins(q, p)
    log_q, difference = np.float64(log_q), np.float64(log_q) - np.float64(log_p)
    assert_mean(difference, float(kl), rounding=1e-5)
    assert_mean(-log_q, float(entropy), rounding=1e-5)
    for wrong in twins:
        assert not z_test(difference, float(wrong), rounding=1e-5).passed
    with refused("kl", "ClassConditional", "monte_carlo"):
        analytic_kl(q, dist.Normal(jnp.zeros(C + D), 1.0).to_event(1))


def test_shapes_of_the_latent_are_checked():
    for shapes in (((), (1, 1), (1, 1)), ((3,), (2, 1), (2, 1)), ((3,), (3, 2), (3, 1))):
        with refused("logits", "scale [C, D]"):
            ClassConditional(*map(jnp.ones, shapes))


# The model.


def test_the_model_is_what_it_declares():
    assert isinstance(MODEL, jv.Model)
    p, q = MODEL.prior(), MODEL.posterior(X)
    for latent in (p, q):
        assert (latent.batch_shape, latent.event_shape) == ((), (C + D,))
    np.testing.assert_allclose(p.mean, [1 / C] * C + [0] * D, atol=1e-6)
    np.testing.assert_allclose(q.logits, MODEL.classifier(X), rtol=1e-6)
    np.testing.assert_allclose(q.logits, MODEL.label_posterior(X).logits, rtol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(MODEL.label_prior().logits), 1 / C, rtol=1e-6)
    assert MODEL.likelihood(jnp.zeros(C + D)).event_shape == (3,)


@pytest.mark.parametrize("hidden", [(), (5, 4)])
def test_the_first_layer_is_that_of_x_beside_y(hidden):
    encoder = tiny(hidden=hidden).encoder
    kernel = np.concatenate([encoder.x_kernel[...], encoder.y_kernel[...]])
    for c, found in enumerate(encoder(X)):
        y = jnp.eye(C)[c]
        h = np.concatenate([X, y]) @ kernel + np.asarray(encoder.bias[...])
        naive = h if not hidden else encoder.rest(jax.nn.elu(jnp.asarray(h)))
        np.testing.assert_allclose(found, naive, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(encoder.of_class(X, y), naive, rtol=1e-5, atol=1e-6)


def test_the_first_layer_starts_as_one_of_x_beside_y():
    wide = jv.models.ssvae(jax.random.key(0), (60,), num_classes=40, hidden=(50,)).encoder
    for kernel in (wide.x_kernel[...], wide.y_kernel[...]):
        np.testing.assert_allclose(np.var(kernel), 1 / 100, rtol=0.1)


def test_a_bound_class_is_a_plain_model():
    q = MODEL.posterior(X)
    for c in range(C):
        plain = MODEL.given(jnp.asarray(c))
        assert isinstance(plain, jv.Model)
        assert len(jax.tree.leaves(plain)) > 1
        np.testing.assert_allclose(plain.posterior(X).mean, q.loc[c], rtol=1e-5)
        np.testing.assert_allclose(plain.posterior(X).variance, q.scale[c] ** 2, rtol=1e-5)
        z = jnp.float32([0.3, -1])
        latent = jnp.concatenate([jnp.eye(C)[c], z])
        np.testing.assert_allclose(plain.likelihood(z).mean, MODEL.likelihood(latent).mean)
        assert analytic_kl(plain.prior(), dist.Normal(jnp.zeros(D), 1.0).to_event(1)) == 0


@pytest.mark.slow
def test_every_part_of_the_model_gets_a_finite_gradient():
    model = tiny(likelihood="gaussian")
    objective = partial(semi_supervised, **ROWS)
    gradient = jax.jit(jax.grad(lambda m: objective(key(), m, X).objective))(model)
    for path, leaf in jax.tree.leaves_with_path(nnx.state(gradient, nnx.Param)):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(np.asarray(leaf) != 0), jax.tree_util.keystr(path)


# The unlabelled bound.


def summed_over_classes(model, key, **options):
    """The sum as the source writes it, from C plain models; then twins that leave a part of it out."""
    log_q = jax.nn.log_softmax(model.label_posterior(X).logits)

    def bound(c):
        return elbo(jax.random.fold_in(key, c), model.given(c), X, **options).bound

    parts, log_p = jax.vmap(bound)(jnp.arange(C)), -jnp.log(float(C))
    q = jnp.exp(log_q)
    exact = jnp.sum(q * (parts + log_p - log_q))
    twins = (
        jnp.sum(q * (parts + log_p)),
        jnp.sum(q * (parts - log_q)),
        jnp.mean(parts + log_p - log_q),
    )
    return exact, jnp.stack(twins)


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_the_bound_is_the_exact_sum_over_classes(kl):
    options = {"kl": kl, "num_samples": 2}

    def ours(model):
        terms = elbo(key(), model, X, gradient="enumerate", **options)
        return terms.objective, -(terms.distortion + terms.rate)

    def theirs(model):
        return summed_over_classes(model, key(), **options)

    both = jax.jit(lambda m: [jax.value_and_grad(f, has_aux=True)(m) for f in (ours, theirs)])
    ((value, total), gradient), ((exact, twins), other) = both(MODEL)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(total, exact, rtol=1e-5)
    chunked = jax.jit(partial(elbo, x=X, gradient="enumerate", chunk_size=4, **options))
    np.testing.assert_allclose(chunked(key(), MODEL).bound, value, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (gradient, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert np.all(np.abs(twins - value) > 1e-2)


SMALL = tiny(1.5, latent_dim=1)
GRID = np.linspace(-12, 12, 4001)
STEP = GRID[1] - GRID[0]


def log_joint_on_grid():
    """log p(x, y, z) and log q(y, z|x) on the grid, [C, G], float64."""
    y, z = jnp.repeat(jnp.eye(C), len(GRID), axis=0), jnp.tile(jnp.float32(GRID), C)[:, None]

    @jax.vmap
    def both(latent):
        log_p = log_prob(SMALL.likelihood(latent), X) + log_prob(SMALL.prior(), latent)
        return log_p, log_prob(SMALL.posterior(X), latent)

    pair = both(jnp.concatenate([y, z], axis=1))
    return [np.float64(values).reshape(C, -1) for values in pair]


def values_of(*objectives, count=4096):
    """The bounds of each, at the same keys."""
    each = jax.vmap(lambda key: [objective(key, SMALL, X).bound for objective in objectives])
    return np.float64(jax.jit(each)(keys(count)))


@pytest.mark.slow
def test_the_bounds_lie_below_the_evidence_in_their_order():
    log_p, log_q = log_joint_on_grid()
    evidence = special.logsumexp(log_p) + np.log(STEP)
    exact = np.sum(np.exp(log_q) * (log_p - log_q)) * STEP
    weighted = values_of(*(partial(jv.iwae, num_samples=k, gradient="score") for k in (1, 4)))
    enumerated = values_of(*(partial(elbo, gradient="enumerate", kl=kl) for kl in KLS))
    assert_mean(np.stack([*enumerated, weighted[0]], axis=1), exact, rounding=1e-4)
    order = check_order(weighted, evidence)
    assert order.passed
    assert order.shown
    found = jv.evaluation.log_likelihood(key(), SMALL, X[None], num_samples=20_000)
    assert abs(found.estimate[0] - evidence) < 6 * found.standard_error[0]
    assert found.standard_error[0] < 0.05


@pytest.mark.slow
def test_estimators_for_discrete_latents_agree():
    def gradients(objective, count):
        @jax.jit
        @jax.vmap
        def each(key):
            gradient = jax.grad(lambda m: objective(key, m, X).objective)(SMALL)
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

        return np.float64(each(keys(count)))

    exact = partial(elbo, gradient="enumerate", kl="monte_carlo", num_samples=8)
    scored = partial(elbo, gradient="score", kl="monte_carlo", num_samples=4)
    scored = partial(scored, baseline="leave_one_out")
    # The same keys: another stream of normals in either, so the pairs differ by noise alone.
    differences = gradients(scored, 4000) - gradients(exact, 4000)
    assert_mean(differences, 0, rounding=1e-4)
    vimco = gradients(partial(jv.iwae, gradient="vimco", num_samples=3), 2)
    assert np.isfinite(vimco).all()
    assert np.abs(vimco).sum() > 0


@pytest.mark.parametrize("gradient", ["pathwise", "disarm", "gumbel_softmax", "straight_through"])
def test_other_estimators_are_refused_in_words(gradient):
    with refused("gradient", "ClassConditional"):
        jax.eval_shape(partial(elbo, model=MODEL, x=X, gradient=gradient), key())
    with refused("gradient", "ClassConditional"):
        jax.eval_shape(partial(jv.iwae, model=MODEL, x=X, num_samples=2), key())


# The labels.


def test_labels_move_the_objective_and_never_the_bound():
    @jax.jit
    def run(model, key):
        terms = semi_supervised(key, model, X, label_weight=5.0, num_samples=2, **ROWS)
        weightless = semi_supervised(key, model, X, label_weight=0.0, num_samples=2, **ROWS)
        logits = jax.vmap(model.classifier)(ROWS["labelled_x"])
        return terms, weightless, elbo(key, model, X, gradient="enumerate", num_samples=2), logits

    terms, weightless, unlabelled, logits = run(MODEL, key())
    np.testing.assert_array_equal(terms[1:], unlabelled[1:])
    np.testing.assert_array_equal(weightless, unlabelled)
    chosen = special.log_softmax(np.float64(logits), axis=1)[range(4), ROWS["labelled_y"]]
    np.testing.assert_allclose(terms.objective - terms.bound, 5 * chosen.mean(), rtol=1e-4)


def added(count=4096, **options):
    @jax.jit
    @jax.vmap
    def each(key):
        terms = semi_supervised(key, MODEL, X, **ROWS | options)
        return terms.objective - terms.bound

    return np.float64(each(keys(count, 3)))


def test_one_row_drawn_expects_the_mean_of_all():
    means = added(2, label_weight=2.0)
    assert means[0] == pytest.approx(means[1], rel=1e-5)
    drawn = added(label_weight=2.0, labelled_batch=3)
    assert_mean(drawn, means[0], rounding=1e-5)
    assert len(np.unique(drawn.round(3))) == 4


def test_the_bound_of_labelled_rows_has_the_weight_it_is_given():
    drawn = added(label_weight=0.0, labelled_bound=0.5)

    def one(key, x, y):
        return elbo(key, MODEL.given(y), x).bound - jnp.log(float(C))

    of_all = jax.vmap(one, (None, 0, 0))
    rows = ROWS["labelled_x"], jnp.asarray(ROWS["labelled_y"])
    each = jax.jit(jax.vmap(lambda key: of_all(key, *rows)))
    exact = np.float64(each(keys(len(drawn), 4))).mean(axis=1)
    assert_mean(drawn - 0.5 * exact, 0.0, rounding=1e-5)
    # The twin forgets log p(y).
    assert not z_test(drawn - 0.5 * (exact + np.log(C)), 0.0, rounding=1e-5).passed


def rows_multiplied(batched_rows=False, **options):
    """The row counts of the classifier's first product, over a batch of 5 examples."""
    xs = jnp.zeros((5, 3))
    labelled_x = jnp.stack([ROWS["labelled_x"]] * 5) if batched_rows else ROWS["labelled_x"]

    def one(model, key, x, labelled_x):
        rows = {**ROWS, "labelled_x": labelled_x}
        return semi_supervised(key, model, x, **rows, **options).objective

    over = jax.vmap(one, (None, 0, 0, 0 if batched_rows else None))
    found, width = [], 7

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            shapes = [v.aval.shape for v in equation.invars if hasattr(v, "aval")]
            if equation.primitive.name == "rows" and shapes[1] == (3, width):
                found.append(shapes[0][0])
            for inner in jaxprs_in_params(equation.params):
                visit(inner)

    model = tiny(classifier_hidden=(width,))
    visit(jax.make_jaxpr(over)(model, keys(5), xs, labelled_x).jaxpr)
    return sorted(found)


def test_the_labels_are_scored_once_for_a_batch():
    assert rows_multiplied() == [4, 5]
    assert rows_multiplied(labelled_batch=3) == [5, 5]
    assert rows_multiplied(batched_rows=True) == [5, 20]


@pytest.mark.slow
def test_training_on_redrawn_rows():
    def observe(key, x):
        return x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)

    stored = np.ones((4, 3), np.float32)
    of_step = redrawn(key(), observe, stored)
    a, again, b = (np.asarray(of_step(jnp.int32(step))) for step in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any()
    assert len(np.unique(np.concatenate([a, b]), axis=0)) > 2

    objective = partial(semi_supervised, labelled_y=ROWS["labelled_y"])
    optimizer = optax.adam(1e-2)
    step = jv.training.make_step(objective, optimizer, schedules={"labelled_x": of_step})
    state, metrics = jax.jit(step)(jv.training.init(key(), MODEL, optimizer), jnp.zeros((5, 3)))
    assert int(state.step) == 1
    assert {"loss", "bound"} <= {name for name, _ in metrics.items()}


LABELS = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 2])


def test_as_many_labels_of_every_class():
    chosen = choose_labelled(key(), LABELS, 6, 3)
    assert len(set(chosen.tolist())) == 6
    np.testing.assert_array_equal(LABELS[chosen], [0, 0, 1, 1, 2, 2])
    others = {tuple(choose_labelled(jax.random.key(i), LABELS, 6, 3)) for i in range(5)}
    assert len(others) > 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_labels": 7}, ("num_labels", "multiple", "7")),
        ({"num_labels": 12}, ("num_labels", "at most 9", "12")),
        ({"num_labels": 0}, ("num_labels", "0")),
        ({"num_classes": 2, "num_labels": 2}, ("labels", "0 to 1", "2")),
        ({"labels": -LABELS}, ("labels", "0 to 2", "-2")),
        ({"labels": LABELS / 2}, ("labels", "integers", "float64")),
        ({"labels": LABELS[:, None]}, ("labels", "[N]", "(10, 1)")),
        ({"key": 3}, ("key", "int")),
    ],
)
def test_bad_choices_of_labels_are_refused(options, words):
    given = {"key": key(), "labels": LABELS, "num_labels": 3, "num_classes": 3} | options
    with refused(*words):
        choose_labelled(**given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labelled_y": np.array([0, 1, 2, 3])}, ("labelled_y", "0 to 2", "3")),
        ({"labelled_y": jnp.array([0, -1, 2, 1])}, ("labelled_y", "-1")),
        ({"labelled_y": np.float32([0, 1, 2, 1])}, ("labelled_y", "integers", "float32")),
        ({"labelled_y": np.array([0, 1])}, ("labelled_x", "(4, 3)", "(2,)")),
        ({"labelled_x": jnp.zeros((4, 2))}, ("labelled_x", "(3,)", "(4, 2)")),
        ({"label_weight": -1.0}, ("label_weight", "-1.0")),
        ({"labelled_bound": float("inf")}, ("labelled_bound", "inf")),
        ({"labelled_batch": 0}, ("labelled_batch", "0")),
        ({"gradient": "pathwise"}, ("gradient", "ClassConditional")),
        ({"model": MODEL.given(0)}, ("model", "label_posterior", "GivenLabel")),
        ({"key": 0}, ("key", "int")),
    ],
)
def test_bad_labelled_rows_are_refused(options, words):
    given = {"model": MODEL, "x": X, **ROWS} | options
    with refused(*words):
        if "key" in options:
            semi_supervised(**given)
        jax.eval_shape(partial(semi_supervised, **given), key())


def test_a_class_that_is_none_is_refused():
    for y, word in ((C, "3"), (-1, "-1"), (np.int64(5), "5"), (jnp.int32(4), "4")):
        with refused("y", "0 to 2", word):
            MODEL.given(y)
    for y in (1.0, True, jnp.zeros(2, jnp.int32)):
        with refused("y", "one class"):
            MODEL.given(y)
    assert jax.jit(lambda y: MODEL.given(y).posterior(X).mean)(1).shape == (D,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 1}, ("num_classes", "1")),
        ({"num_classes": 2.0}, ("num_classes", "2.0")),
        ({"latent_dim": 0}, ("latent_dim", "0")),
        ({"hidden": 3}, ("hidden", "3")),
        ({"hidden": (0,)}, ("hidden", "0")),
        ({"classifier_hidden": (0,)}, ("hidden", "0")),
        ({"activation": "sine"}, ("activation", "'sine'")),
        ({"classifier_activation": "sine"}, ("activation", "'sine'")),
        ({"initializer": "zeros"}, ("initializer", "'zeros'")),
        ({"likelihood": "sine"}, ("likelihood", "'sine'")),
    ],
)
def test_bad_arguments_are_refused_by_name(options, words):
    with refused(*words):
        tiny(**options)


# Evaluation.


def test_accuracy_and_confusion_are_those_of_another_library():
    xs = np.float32(np.random.default_rng(0).random((50, 3)) > 0.5)
    labels = np.random.default_rng(1).integers(0, C, 50)
    found = classification(MODEL, xs, labels, batch_size=16)
    predicted = np.array(
        [int(jnp.argmax(MODEL.label_posterior(jnp.asarray(x)).logits)) for x in xs]
    )
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, predicted))
    accuracy = np.mean(predicted == labels)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.standard_error == pytest.approx(np.std(predicted == labels) / np.sqrt(50))
    np.testing.assert_allclose(
        label_log_probs(MODEL, jnp.asarray(xs), jnp.asarray(labels)),
        [jax.nn.log_softmax(MODEL.classifier(jnp.asarray(x)))[y] for x, y in zip(xs, labels, strict=True)],
        rtol=1e-4,
    )  # fmt: skip
    with refused("labels", "0 to 2", "3"):
        classification(MODEL, xs, labels + 1)
    with refused("labels", "50", "49"):
        classification(MODEL, xs, labels[1:])
    with refused("model", "label_posterior", "VAE"):
        vae = jv.models.vae(jax.random.key(0), (3,), latent_dim=1, hidden=(2,))
        classification(vae, xs, labels)
