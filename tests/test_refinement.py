import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
from jaxvae.inference import Iterative, iterative, iterative_elbo, refine, semi_amortised
from jaxvae.inference.families import Diagonal
from jaxvae.inference.refinement import diagonal_elbo
from tests.support.refusals import refused
from tests.support.statistics import assert_mean, assert_mean_exceeds
from tests.test_fit_posterior import best_diagonal, moments_and_elbo, problem

MARGIN = 0.05
"""How far below the best ELBO a trained network may end, nats, on the mean over examples."""

# Steps on the parameters of q.


STEPS = {"step_size": 0.1, "num_samples": 64, "metric": "natural"}


@partial(jax.jit, static_argnames="num_refinements")
def refined(key, model, xs, num_refinements=200):
    keys = jax.random.split(key, len(xs))
    function = partial(refine, num_refinements=num_refinements, **STEPS)
    return jax.vmap(function, (0, None, 0))(keys, model, xs)


def shortfall(function, *args, **options):
    """How far the ELBO in closed form lies below that of the best diagonal normal, [N]."""
    model, xs = problem()
    q = function(jax.random.key(0), model, xs, *args, **options)
    return best_diagonal(model, xs)[2] - np.float64(moments_and_elbo(model, q, xs)[2])


def check_reaches_the_best(function):
    short = shortfall(function)
    assert np.all(short > -1e-4)
    assert short.mean() < 0.02, short.mean()


def test_refinement_reaches_the_best_diagonal():
    check_reaches_the_best(refined)


def for_another_example(key, model, xs):
    return refined(key, model, jnp.roll(xs, 1, axis=0))


def not_at_all(key, model, xs):
    return jax.vmap(model.posterior)(xs)


@jax.jit
def downhill(key, model, xs):
    noise = jax.random.normal(key, (64, 2))

    def one(x):
        q = model.posterior(x)
        q = Diagonal(q.mean, 0.5 * jnp.log(q.variance))
        gradient = jax.grad(diagonal_elbo, argnums=2)(model, x, q, noise)
        return jax.tree.map(lambda a, g: a - 0.05 * g, q, gradient).distribution()

    return jax.vmap(one)(xs)


@pytest.mark.parametrize("twin", [for_another_example, not_at_all, downhill])
def test_check_of_refinement_rejects(twin):
    with pytest.raises(AssertionError):
        check_reaches_the_best(twin)


def test_more_steps_are_better():
    short = [shortfall(refined, n) for n in (1, 20, 200)]
    for worse, better in itertools.pairwise(short):
        assert_mean_exceeds(worse - better, 0.0, false_alarm=1e-4)


@cache
def along(through):
    """The objective along a direction of all parameters: its value and slope there, as a function."""
    model, xs = problem()
    leaves, tree = jax.tree.flatten(model)
    rng = np.random.default_rng(0)
    direction = [jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    steps = {"num_refinements": 4, "step_size": 0.1, "momentum": 0.5, "through": through}

    @jax.jit
    @jax.value_and_grad
    def function(t):
        moved = [leaf + t * d for leaf, d in zip(leaves, direction, strict=True)]
        moved = jax.tree.unflatten(tree, moved)
        return semi_amortised(jax.random.key(1), moved, xs[0], **steps).objective

    return function


def check_slope(through):
    """The gradient is the difference quotient, to 1 %."""
    t = 5e-3
    quotient = (along(through)(t)[0] - along(through)(-t)[0]) / (2 * t)
    np.testing.assert_allclose(along(through)(0.0)[1], quotient, rtol=0.01)


@pytest.mark.slow
def test_gradient_runs_through_the_steps():
    check_slope("all")
    with pytest.raises(AssertionError):
        check_slope("first_order")
    np.testing.assert_allclose(along("all")(0.0)[0], along("first_order")(0.0)[0], rtol=1e-6)


def test_semi_amortised_is_the_objective_at_the_refined_q():
    """Its mean over keys is that of the exact ELBO of the refined q."""
    model, xs = problem()
    objective = partial(semi_amortised, num_refinements=20, **STEPS)
    difference = []
    for seed in range(16):
        key = jax.random.key(seed)
        terms = jv.evaluation.terms(key, model, xs, objective=objective)
        np.testing.assert_allclose(terms.bound, -(terms.distortion + terms.rate), rtol=1e-5)
        q = refined(jax.random.key(100 + seed), model, xs, 20)
        difference.append(terms.bound - np.float64(moments_and_elbo(model, q, xs)[2]))
    assert_mean(np.concatenate(difference), 0.0, what="bound")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_refinements": 0}, ("num_refinements", "0")),
        ({"num_samples": 0}, ("num_samples", "0")),
        ({"step_size": -0.1}, ("step_size", "-0.1")),
        ({"momentum": 1.0}, ("momentum", "1.0")),
        ({"metric": "fisher"}, ("metric", "'fisher'")),
        ({"through": "none"}, ("through", "'none'")),
    ],
)
def test_options_of_the_steps_are_checked(options, words):
    model, xs = problem()
    with refused(*words):
        semi_amortised(
            jax.random.key(0), model, xs[0], **({"num_refinements": 1, "step_size": 0.1} | options)
        )


@pytest.mark.parametrize("posterior", ["full_covariance", "bernoulli", "planar"])
def test_posteriors_without_a_mean_and_scale_are_refused(posterior):
    model = jv.models.vae(jax.random.key(0), (3,), latent_dim=2, hidden=(3,), posterior=posterior)
    words = ("vector of reals",) if posterior == "bernoulli" else ("posterior", "diagonal normal")
    with refused(*words):
        refine(jax.random.key(0), model, jnp.ones(3), num_refinements=1, step_size=0.1)


# A network that learns the steps.


@cache
def trained():
    """All parameters trained together, decoder included, on the linear-Gaussian examples."""
    base, _ = problem()
    data = jv.testing.draw_examples(jax.random.key(7), base, 2048)
    model = iterative(jax.random.key(5), base, num_iterations=4, hidden=(32,), start="prior")
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 800))
    step = jv.training.make_step(iterative_elbo, optimizer)

    @jax.jit
    def run(state):
        def one(state, i):
            x = jax.lax.dynamic_slice_in_dim(data, (i % 32) * 64, 64)
            return step(state, x)[0], None

        return jax.lax.scan(one, state, jnp.arange(800))[0]

    return model, run(jv.training.init(jax.random.key(6), model, optimizer)).model


@jax.jit
def elbo_of_each(model, xs):
    """The ELBO in closed form of q_0 to q_T under the model, [T + 1, N]."""

    def one(x):
        bound = lambda q: jv.inference.free_energy(model, q, x).bound  # noqa: E731
        return jax.vmap(bound)(model.posteriors(x))

    return jax.vmap(one, out_axes=1)(xs)


def check_learned(model):
    """The last iteration beats the first, and is the best diagonal normal to `MARGIN`."""
    _, xs = problem()
    best = best_diagonal(model.model, xs)[2]
    each = np.float64(elbo_of_each(model, xs))
    assert np.all(best - each > -1e-4)
    assert_mean_exceeds(each[-1] - each[1], 0.0, false_alarm=1e-3)
    assert (best - each[-1]).mean() < MARGIN, (best - each[-1]).mean()


@pytest.mark.slow
def test_learned_inference_comes_near_the_best():
    check_learned(trained()[1])


def untrained():
    return trained()[0]


def stuck():
    """Gates that keep what they have."""
    copy = jax.tree.map(lambda leaf: leaf, trained()[1])
    bias = copy.update.layers[-1].bias
    bias[...] = bias[...].at[4:].set(30.0)
    return copy


def one_step():
    copy = jax.tree.map(lambda leaf: leaf, trained()[1])
    copy.num_iterations = 1
    return copy


@pytest.mark.parametrize("twin", [pytest.param(untrained, marks=pytest.mark.slow), stuck, one_step])
def test_check_of_learning_rejects(twin):
    with pytest.raises(AssertionError):
        check_learned(twin())


def test_iterative_elbo_is_that_of_the_iterations():
    _, xs = problem()
    model, key = trained()[1], jax.random.key(0)

    @jax.jit
    def all_of_them(model, x):
        def elbo(q):
            return jv.elbo(key, jv.inference.WithPosterior(model, q.distribution()), x)

        over = {name: iterative_elbo(key, model, x, over=name) for name in ("mean", "sum", "last")}
        return over, jax.vmap(elbo)(model.parameters(x))

    over, each = all_of_them(model, xs[0])
    after = each.bound[1:]
    expected = {"mean": jnp.mean(after), "sum": jnp.sum(after), "last": after[-1]}
    for name, terms in over.items():
        np.testing.assert_allclose(terms.objective, expected[name], rtol=1e-4)
        for field in ("bound", "distortion", "rate"):
            np.testing.assert_allclose(getattr(terms, field), getattr(each, field)[-1], rtol=1e-4)


def test_every_parameter_has_a_gradient():
    base, xs = problem()
    plain, model = (
        iterative(jax.random.key(1), base, num_iterations=2, hidden=(8,), errors=errors)
        for errors in (False, True)
    )
    sizes = [m.update.layers[0].kernel.shape[0] for m in (plain, model)]
    assert sizes == [12, 16]
    params, merge = jv.training.step.split(model)

    @jax.jit
    @jax.grad
    def gradient(params):
        return iterative_elbo(jax.random.key(2), merge(params), xs[0]).objective

    paths = jax.tree.leaves_with_path(gradient(params))
    assert len(paths) == 10
    for path, leaf in paths:
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


def test_it_is_a_model_like_another():
    _, xs = problem()
    model = trained()[1]
    assert isinstance(model, jv.Model)
    assert isinstance(model, Iterative)
    keys = [jax.random.key(seed) for seed in range(8)]
    bounds = [jv.evaluation.terms(key, model, xs).bound for key in keys]
    exact = np.float64(elbo_of_each(model, xs)[-1])
    assert_mean(np.concatenate(bounds) - np.tile(exact, 8), 0.0, rounding=1e-3, what="ELBO")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_iterations": 0}, ("num_iterations", "0")),
        ({"num_samples": 3}, ("num_samples", "even", "3")),
        ({"start": "zero"}, ("start", "'zero'")),
        ({"hidden": (0,)}, ("hidden", "0")),
    ],
)
def test_options_of_the_network_are_checked(options, words):
    with refused(*words):
        iterative(jax.random.key(0), problem()[0], **options)


def test_models_and_objectives_that_do_not_fit_are_refused():
    base, xs = problem()
    with refused("model", "nnx.Module", "tuple"):
        iterative(jax.random.key(0), (base,))
    bits = jv.models.vae(jax.random.key(0), (3,), latent_dim=2, hidden=(3,), posterior="bernoulli")
    with refused("vector of reals"):
        iterative(jax.random.key(0), bits)
    with refused("model", "jv.inference.iterative"):
        iterative_elbo(jax.random.key(0), base, xs[0])
    with refused("over", "'first'"):
        iterative_elbo(jax.random.key(0), iterative(jax.random.key(0), base), xs[0], over="first")
