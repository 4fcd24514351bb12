"""bfloat16 in the operands of products and nowhere else; the products are those of rounded operands, exactly."""

import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxvae as jv
from jaxvae.bench.products import _inside
from jaxvae.cli.main import main
from jaxvae.networks import strided, with_precision
from jaxvae.rows import dot_general, rows
from jaxvae.runs import RunFolder
from jaxvae.runs.config import build
from tests.support.refusals import refused
from tests.support.slow import slow_but


def normal(seed, *shape):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


X, W, G = normal(0, 4, 5, 7), normal(1, 7, 6), normal(2, 4, 5, 6)
XS, WS, GS = normal(3, 3, 5, 7), normal(4, 3, 7, 6), normal(5, 3, 5, 6)


def rounded(x):
    """The values that bfloat16 has, in float64."""
    return np.asarray(np.asarray(x).astype(jnp.bfloat16), np.float64)


def exact(x, w, g):
    """`x @ w` and its gradients against the cotangent g, of rounded factors."""
    x, w, g = rounded(x), rounded(w), rounded(g)
    return x @ w, g @ w.mT, x.mT @ g


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())


def ours(x, w):
    return rows(x[None], w, "bfloat16")[0]


def rounded_result(x, w):
    """A twin: what comes out is rounded as well."""
    return jnp.matmul(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)).astype(jnp.float32)


def casts_outside(x, w):
    """A twin: JAX rounds the gradients, and not the cotangent."""
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def plain(x, w):
    """A twin that rounds nothing."""
    return x @ w


TWINS = [rounded_result, casts_outside, plain]


def of_examples(one):
    """Two axes of examples."""
    y, pull = jax.vjp(jax.vmap(jax.vmap(one, (0, None)), (0, None)), X, W)
    return y, *pull(G)


def of_models(one):
    """The derivative of a `vmap` over models, each with examples of its own."""
    y, pull = jax.vjp(jax.vmap(jax.vmap(one, (0, None))), XS, WS)
    return y, *pull(GS)


def of_models_inside(one):
    """A `vmap` over models of derivatives."""

    def single(x, w, g):
        y, pull = jax.vjp(jax.vmap(one, (0, None)), x, w)
        return y, *pull(g)

    return jax.vmap(single)(XS, WS, GS)


def of_models_on_the_same(one):
    """Models with examples in common, the examples outside."""

    def models(x, w):
        return jax.vmap(lambda x: jax.vmap(one, (None, 0))(x, w))(x)

    y, pull = jax.vjp(models, XS[0], WS)
    return y, *pull(jnp.swapaxes(GS, 0, 1))


def exact_on_the_same():
    y, _, in_w = exact(XS[0], WS, GS)
    in_x = np.sum([exact(XS[0], w, g)[1] for w, g in zip(WS, GS, strict=True)], 0)
    return y.swapaxes(0, 1), in_x, in_w


def of_each_example(one):
    """The gradients of each example, that in w too."""

    def single(x, g):
        y, pull = jax.vjp(one, x, W)
        return y, *pull(g)

    return jax.vmap(single)(X[0], G[0])


def exact_of_each():
    x, g = X[0], G[0]
    y, in_x, _ = exact(x, W, g)
    return y, in_x, np.expand_dims(rounded(x), 2) * np.expand_dims(rounded(g), 1)


CASES = {
    "examples": (of_examples, lambda: (*exact(X, W, G)[:2], exact(X, W, G)[2].sum(0))),
    "models": (of_models, lambda: exact(XS, WS, GS)),
    "models inside": (of_models_inside, lambda: exact(XS, WS, GS)),
    "models on the same": (of_models_on_the_same, exact_on_the_same),
    "each example": (of_each_example, exact_of_each),
}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "expected"), CASES.values(), ids=CASES)
def test_products_are_those_of_rounded_factors(how, expected):
    close(how(ours), expected())
    for twin in TWINS:
        with pytest.raises(AssertionError):
            close(how(twin), expected())


@pytest.mark.parametrize("programs", ["_matmul", "_native"])
def test_convolutions_are_those_of_rounded_operands(programs):
    """Against float32 convolutions of operands rounded before, by the same program."""
    x, w = normal(0, 2, 7, 5, 2), normal(1, 4, 4, 2, 3)
    y = normal(2, 2, 4, 3, 3)
    for kind, a, b, options in (
        ("", x, w, {"stride": 2}),
        ("_transposed", y, w, {"stride": 2, "size": (7, 5)}),
        ("_correlate", x, y, {"stride": 2, "kernel": 4}),
    ):
        program = jax.jit(partial(getattr(strided, programs + kind), **options))
        expected = program(*(jnp.float32(rounded(part)) for part in (a, b)))
        found = partial(getattr(strided, programs + kind), precision="bfloat16", **options)(a, b)
        close([found], [np.asarray(expected)])
        with pytest.raises(AssertionError):
            close([program(a, b)], [np.asarray(expected)])


PRODUCTS = {"stablehlo.dot_general", "stablehlo.convolution"}
MOVES = {
    f"stablehlo.{name}"
    for name in "transpose reshape slice pad concatenate reverse broadcast_in_dim constant".split()
}


def operations(lowered):
    """All that a program does, whatever loops and functions it stands in."""

    def inside(operation):
        for region in operation.regions:
            for block in region:
                for inner in block:
                    yield inner.operation
                    yield from inside(inner.operation)

    return inside(lowered.compiler_ir("stablehlo").operation)


def products_in_bfloat16(lowered):
    """How many products a program has: all of rounded operands, float32 results, nothing else rounded."""
    count = 0
    for op in operations(lowered):
        before = ["bf16" in str(value.type) for value in op.operands]
        after = ["bf16" in str(value.type) for value in op.results]
        if op.name in PRODUCTS:
            assert all(before), f"an operand is not rounded: {op}"
            assert not any(after), f"the result is rounded: {op}"
            count += 1
        elif op.name == "stablehlo.convert":
            assert not any(before), f"rounded outside of products: {op}"
        elif any(before + after):
            assert op.name in MOVES, f"computed in bfloat16: {op}"
    return count


SHAPE, SMALL = (8, 8), {"latent_dim": 3, "hidden": (11, 12)}
KEY = jax.random.key(0)
MODELS = {
    "vae": (lambda: jv.models.vae(KEY, SHAPE, **SMALL), jv.elbo),
    "iwae": (lambda: jv.models.vae(KEY, SHAPE, **SMALL), partial(jv.iwae, num_samples=5)),
    "residual": (lambda: jv.models.vae(KEY, SHAPE, network="residual", **SMALL), jv.elbo),
    "flow": (
        lambda: jv.models.vae(KEY, SHAPE, posterior="iaf", **SMALL),
        partial(jv.elbo, kl="monte_carlo"),
    ),
    "conv": (
        lambda: jv.models.conv_vae(KEY, SHAPE, latent_dim=3, channels=(2, 3)),
        partial(jv.elbo, num_samples=2),
    ),
    "made": (lambda: jv.models.autoregressive(KEY, SHAPE, decoder="made", **SMALL), jv.elbo),
    "recurrent": (
        lambda: jv.models.autoregressive(KEY, SHAPE, decoder="recurrent", **SMALL),
        jv.elbo,
    ),
    "sequence": (lambda: jv.models.sequence_vae(KEY, (9,), num_symbols=4, **SMALL), jv.elbo),
    "ssvae": (
        lambda: jv.models.ssvae(KEY, SHAPE, num_classes=3, **SMALL),
        partial(jv.elbo, gradient="enumerate", kl="monte_carlo"),
    ),
}


def traced_step(name, precision):
    """The training step on 13 examples, of shapes alone."""
    make, objective = MODELS[name]
    optimizer = optax.adam(1e-3)
    step = jv.training.make_step(objective, optimizer)
    state = jax.eval_shape(
        lambda: jv.training.init(KEY, with_precision(make(), precision), optimizer)
    )
    xs = jax.ShapeDtypeStruct((13, 9) if name == "sequence" else (13, *SHAPE), jnp.float32)
    return jax.jit(step).trace(state, xs)


@pytest.mark.parametrize("name", slow_but(MODELS, "vae", "iwae", "conv"))
def test_a_step_rounds_the_operands_of_products_and_nothing_else(name):
    step = traced_step(name, "bfloat16")
    for platform in ("cpu", "cuda"):
        count = products_in_bfloat16(step.lower(lowering_platforms=(platform,)))
        assert count >= 3 * 2 + 2  # encoder and decoder, forward and backward


def test_a_step_in_float32_rounds_nothing():
    step = traced_step("vae", "float32").lower()
    assert "bf16" not in step.as_text()
    with pytest.raises(AssertionError, match="not rounded"):
        products_in_bfloat16(step)


@pytest.mark.parametrize("twin", TWINS)
def test_the_check_of_programs_rejects(twin):
    def loss(w, x):
        return jnp.sum(jnp.tanh(jax.vmap(twin, (0, None))(x, w)))

    with pytest.raises(AssertionError):
        products_in_bfloat16(jax.jit(jax.grad(loss, (0, 1))).lower(W, X[0]))


def shapes(jaxpr):
    """Of everything that a program computes."""
    for eqn in jaxpr.eqns:
        yield from (tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars)
        for inner in _inside(eqn.params):
            yield from shapes(inner)


def require_no_gradient_an_example(jaxpr, batch_size, kernel):
    assert (batch_size, *kernel) not in set(shapes(jaxpr))


def test_no_parameter_gradient_an_example():
    """For each kernel: no array [B, I, O]."""
    model = jax.eval_shape(MODELS["vae"][0])
    jaxpr = traced_step("vae", "bfloat16").jaxpr.jaxpr
    kernels = [leaf.shape for leaf in jax.tree.leaves(model) if leaf.ndim == 2]
    assert (64, 11) in kernels
    for kernel in kernels:
        require_no_gradient_an_example(jaxpr, 13, kernel)

    @jax.custom_vjp
    def product(x, w):  # a twin: the way to the same numbers that a `vmap` turns into many
        return ours(x, w)

    product.defvjp(lambda x, w: (ours(x, w), (x, w)), lambda r, g: (r[1] @ g, jnp.outer(r[0], g)))
    twin = jax.make_jaxpr(jax.grad(lambda w: jnp.sum(jax.vmap(product, (0, None))(X[0], w))))(W)
    with pytest.raises(AssertionError):
        require_no_gradient_an_example(twin.jaxpr, 5, W.shape)


@pytest.mark.slow
def test_gradients_stay_near_those_of_float32():
    """A rounding error is 2^-9 of a factor; the whole gradient is within 1 percent, and not equal."""
    make, objective = MODELS["vae"]
    model, x = jax.jit(make)(), (normal(0, *SHAPE) > 0).astype(jnp.float32)

    @jax.jit
    def gradient(model):
        found = jax.grad(lambda model: objective(KEY, model, x).objective)(model)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(found)])

    full, half, worse = (
        gradient(m)
        for m in (
            model,
            with_precision(model, "bfloat16"),
            jax.tree.map(lambda leaf: leaf + 0.02 * jnp.abs(leaf), model),  # a twin: other weights
        )
    )
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-5 < error < 1e-2
    assert np.linalg.norm(worse - full) / np.linalg.norm(full) > 1e-2


def test_highest_is_asked_of_every_product():
    def wanted(precision):
        ops = operations(traced_step("conv", precision).lower())
        return {"HIGHEST" in str(op) for op in ops if op.name in PRODUCTS}

    assert wanted("highest") == {True}
    assert wanted("float32") == {False}


class Own(nnx.Module):
    """What a user writes."""

    def __init__(self):
        rngs = nnx.Rngs(KEY)
        self.layers = nnx.List([nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](jnp.tanh(self.layers[0](x)))


@pytest.mark.parametrize("x", [normal(0, 5), normal(0, 3, 5)], ids=["vector", "rows"])
def test_modules_of_ones_own(x):
    own = Own()

    @jax.jit
    def slope(model, x):
        return jax.grad(lambda model: jnp.sum(model(x) ** 2))(model)

    full, half = slope.lower(own, x), slope.lower(with_precision(own, "bfloat16"), x)
    assert products_in_bfloat16(half) == 2 + 3
    with pytest.raises(AssertionError):
        products_in_bfloat16(full)
    again = with_precision(with_precision(own, "bfloat16"), "float32")
    np.testing.assert_array_equal(again(x), own(x))
    assert np.any(with_precision(own, "bfloat16")(x) != own(x))


def test_a_model_keeps_its_arrays():
    model = MODELS["vae"][0]()
    half = with_precision(model, "bfloat16")
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(half), strict=True):
        assert a is b
    assert [str(path) for path, _ in jax.tree.leaves_with_path(model)] == [
        str(path) for path, _ in jax.tree.leaves_with_path(half)
    ]
    assert jax.tree.structure(model) != jax.tree.structure(half)  # so that jit compiles anew
    assert jax.tree.structure(with_precision(model, "float32")) == jax.tree.structure(model)
    inside = with_precision({"model": model, "scale": jnp.ones(())}, "bfloat16")
    assert jax.tree.structure(inside["model"]) == jax.tree.structure(half)


def test_refusals():
    with refused("precision", '"float32", "bfloat16", "highest"', "'float16'"):
        with_precision(Own(), "float16")  # type: ignore[arg-type]
    ppca = jv.models.ppca(KEY, (4,), latent_dim=2)
    with_precision(ppca, "float32")
    with refused("precision", "has no effect", "bfloat16"):
        with_precision(ppca, "bfloat16")
    conv = nnx.Conv(1, 1, (3, 3), rngs=nnx.Rngs(KEY))
    assert with_precision(conv, "highest").precision == "highest"
    with refused("precision", "Conv", "bfloat16"):
        with_precision(conv, "bfloat16")
    with refused("precision", "(2, 3, 4) by (2, 4, 5)"):
        numbers = (((2,), (1,)), ((0,), (0,)))
        dot_general(jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5)), numbers, precision="bfloat16")


@pytest.mark.slow
def test_a_run(tmp_path, capsys, monkeypatch):
    options = "--hidden 8 --total-steps 2 --valid-size 0 --test-num-samples 2"
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/run"
    main(["train", *options.split(), "--precision", "bfloat16", "--name", "run"])
    assert json.loads((path / "config.json").read_text())["precision"] == "bfloat16"
    # What evaluation restores the weights into.
    model: Any = build(RunFolder.open(path).config()).model
    assert {layer.precision for layer in model.decoder.layers} == {"bfloat16"}
    capsys.readouterr()
    for wrong, expected in (
        ("--precision float16", "bfloat16"),
        ("--model ppca --precision bfloat16", "precision: has no effect on"),
    ):
        with pytest.raises(SystemExit):
            main(["train", *wrong.split(), "--name", "none"])
        _, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert line.startswith("jaxvae: error: ")
        assert expected in line
    assert not (tmp_path / "runs/none").exists()
