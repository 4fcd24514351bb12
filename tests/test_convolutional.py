"""Convolutions against loops and SciPy, their adjoints, and what `vmap` and loops make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from jaxvae.networks import ConvolutionalDecoder, ConvolutionalEncoder, strided
from jaxvae.networks.convolutional import Convolution, TransposedConvolution, level_sizes
from tests.support.refusals import refused

KINDS = [(4, 2), (3, 1), (6, 3)]
SIZES = [(7, 5), (1, 4)]


def normal(seed, *shape):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def loops(x, w, stride):
    """The convolution of one image, entry by entry, in float64."""
    x, w = np.float64(x), np.float64(w)
    kernel, (height, width) = len(w), x.shape[:2]
    before = (kernel - stride) // 2
    y = np.zeros((-(-height // stride), -(-width // stride), w.shape[-1]))
    for i, j, a, b in np.ndindex(*y.shape[:2], kernel, kernel):
        row, column = stride * i + a - before, stride * j + b - before
        if 0 <= row < height and 0 <= column < width:
            y[i, j] += x[row, column] @ w[a, b]
    return y


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_a_convolution_is_the_sum_over_its_window(kernel, stride, size):
    x, w = normal(0, *size, 2), normal(1, kernel, kernel, 2, 3)
    expected = loops(x, w, stride)
    ways = (strided.convolve, strided._matmul)
    for way in ways:
        found, flipped = (way(x[None], w, stride=stride)[0] for w in (w, jnp.flip(w, 1)))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        with pytest.raises(AssertionError):  # a twin with the kernel the wrong way round
            np.testing.assert_allclose(flipped, expected, atol=1e-5)


def test_a_convolution_of_stride_one_is_scipys():
    x, w = normal(0, 7, 5, 1), normal(1, 3, 3, 1, 1)
    expected = signal.correlate2d(x[..., 0], w[..., 0, 0], mode="same")
    ours = strided.convolve(x[None], w, stride=1)[0, ..., 0]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_the_adjoints(kernel, stride, size):
    """<transposed(y, w), x> = <correlate(x, y), w> = <y, convolve(x, w)>, by either program."""
    x, w = normal(0, 2, *size, 2), normal(1, kernel, kernel, 2, 3)
    y = normal(2, 2, *strided.strided_size(size, stride), 3)
    expected = jnp.vdot(y, strided.convolve(x, w, stride=stride))
    for transposed in (
        strided.transposed,
        strided._native_transposed,
        strided._matmul_transposed,
    ):
        back = transposed(y, w, stride=stride, size=size)
        assert back.shape == x.shape
        np.testing.assert_allclose(jnp.vdot(back, x), expected, rtol=1e-4, atol=1e-4)
        moved = jnp.vdot(jnp.roll(back, 1, 2), x)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)
    for correlate in (strided.correlate, strided._native_correlate, strided._matmul_correlate):
        found = correlate(x, y, stride=stride, kernel=kernel)
        np.testing.assert_allclose(jnp.vdot(found, w), expected, rtol=1e-4, atol=1e-4)


X, W, WS = normal(0, 2, 3, 5, 4, 2), normal(1, 4, 4, 2, 3), normal(2, 3, 4, 4, 2, 3)
Y, FACTORS = normal(3, 2, 3, 3, 2, 3), normal(4, 2, 3, 3, 2, 3)


def ours(x, w):
    return strided.convolve(x[None], w, stride=2)[0]


def native(x, w):
    return strided._native(x[None], w, stride=2)[0]


def shifted(x, w):
    """A twin with a bug that no shape shows: one row lower."""
    return jnp.roll(native(x, w), 1, 0)


def batched(one):
    return lambda w, x=X: jnp.sum(
        jax.vmap(jax.vmap(one, (0, None)), (0, None))(x, w) ** 3 * FACTORS
    )


def scanned(one):
    """Three steps of descent inside a loop."""

    def step(w, _):
        return w - 1e-3 * jax.grad(batched(one))(w), None

    return jax.lax.scan(step, W, None, length=3)[0]


TRANSFORMED = {
    "one example": lambda one: one(X[0, 0], W),
    "two axes": lambda one: batched(one)(W),
    "another axis": lambda one: jax.vmap(one, (3, None))(jnp.moveaxis(X[0], 0, 3), W),
    "gradient": lambda one: jax.grad(batched(one))(W),
    "gradient in x": lambda one: jax.grad(batched(one), 1)(W, X),
    "gradient of each example": lambda one: jax.vmap(
        jax.grad(lambda w, x: jnp.sum(one(x, w) ** 3 * FACTORS[0, 0])), (None, 0)
    )(W, X[0]),
    "many models": lambda one: jax.vmap(jax.grad(batched(one)))(WS),
    "derivative of the gradient": lambda one: jax.jvp(jax.grad(batched(one)), (W,), (WS[0],))[1],
    "gradient of the gradient": lambda one: jax.grad(
        lambda w, x: jnp.sum(jax.grad(batched(one), 1)(w, x) ** 2), (0, 1)
    )(W, X),
    "rematerialised": lambda one: jax.grad(jax.checkpoint(batched(one)))(W),
    "in a loop": scanned,
}


@pytest.mark.parametrize("how", TRANSFORMED.values(), ids=TRANSFORMED)
def test_it_is_the_convolution_under(how):
    expected = jax.jit(lambda: how(native))()
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))

    def check(found):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a / scale, b / scale, rtol=2e-5, atol=2e-5)

    check(jax.jit(lambda: how(ours))())
    with pytest.raises(AssertionError):
        check(jax.jit(lambda: how(shifted))())


def program(platform):
    """What the weight gradient of two batched axes is lowered to."""
    traced = jax.jit(jax.grad(batched(ours))).trace(W)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_batch_becomes_images_and_not_groups():
    for platform in ("cpu", "cuda", "tpu"):
        text = program(platform)
        assert "feature_group_count = 1 " in text
        assert text.count("feature_group_count") == text.count("feature_group_count = 1 ")
        assert "tensor<6x5x4x2xf32>" in text  # 2 x 3 examples


def test_derivatives_are_products_on_a_cpu_and_convolutions_elsewhere():
    counts = [program(platform).count("stablehlo.convolution") for platform in ("cpu", "cuda")]
    assert counts == [1, 2]


def test_many_models_are_batched_products():
    text = jax.jit(jax.vmap(jax.grad(batched(ours)))).lower(WS).as_text()
    assert "stablehlo.convolution" not in text


@pytest.mark.parametrize("size", SIZES)
def test_layers_add_the_bias_and_undo_each_others_sizes(size):
    rngs = nnx.Rngs(jax.random.key(0))
    down = Convolution(2, 3, kernel_size=4, stride=2, initializer="fan_in_uniform", rngs=rngs)
    up = TransposedConvolution(3, 2, size=size, kernel_size=4, stride=2, rngs=rngs)
    x = normal(0, *size, 2)
    expected = loops(x, down.kernel[...], 2) + np.float64(down.bias[...])
    np.testing.assert_allclose(down(x), expected, atol=1e-5)
    up.kernel, up.bias = down.kernel, nnx.Param(jnp.ones(2))
    y = normal(1, *down(x).shape)
    left = jnp.vdot(up(y) - jnp.ones_like(x), x)
    right = np.vdot(y, expected - np.float64(down.bias[...]))
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_initial_weights_keep_the_variance_in_the_interior():
    """Of unit normal inputs, within a tenth: 2,000 and more weights and as many outputs each."""
    rngs = nnx.Rngs(jax.random.key(0))
    down = Convolution(64, 64, kernel_size=4, stride=2, rngs=rngs)
    up = TransposedConvolution(64, 64, size=(32, 32), kernel_size=4, stride=2, rngs=rngs)
    for layer, x in ((down, normal(0, 32, 32, 64)), (up, normal(1, 16, 16, 64))):
        inside = np.float64(layer(x))[2:-2, 2:-2]
        assert abs(inside.var() - 1) < 0.1
        assert abs(np.float64(layer(2 * x))[2:-2, 2:-2].var() - 1) > 0.1


def test_the_interior_shifts_with_the_image():
    rngs = nnx.Rngs(jax.random.key(0))
    encoder = ConvolutionalEncoder((32, 32), (3, 4), 2, network="residual_conv", rngs=rngs)

    def levels(x):
        h = x[..., None]
        for level, block in zip(encoder.levels, encoder.blocks, strict=True):
            h = encoder.activation(block(level(h)))
        return h

    x = jnp.zeros((32, 32)).at[12:16, 12:16].set(normal(0, 4, 4))
    before, after = levels(x), levels(jnp.roll(x, (4, 4), (0, 1)))  # one position of the last level
    np.testing.assert_allclose(after[3:7, 3:7], before[2:6, 2:6], atol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(after[3:7, 3:7], before[3:7, 3:7], atol=1e-5)


def test_the_sizes_of_levels():
    assert level_sizes((28, 28), 2) == [(28, 28), (14, 14), (7, 7)]
    assert level_sizes((7, 5), 3) == [(7, 5), (4, 3), (2, 2), (1, 1)]
    with refused("event_shape", "channels", "at least 5 x 5", "4 x 9"):
        level_sizes((4, 9), 3)


def test_a_batch_of_images_is_refused():
    rngs = nnx.Rngs(jax.random.key(0))
    encoder = ConvolutionalEncoder((8, 8), (2,), 2, rngs=rngs)
    with refused("x", "(8, 8)", "(5, 8, 8)", "jax.vmap"):
        encoder(jnp.zeros((5, 8, 8)))


def test_the_numbers_of_one_value_come_first():
    """Output p of the decoder is that of channel p of its last level, at every position."""
    rngs = nnx.Rngs(jax.random.key(0))
    decoder = ConvolutionalDecoder(2, (3,), (2, 5, 4, 3), rngs=rngs)
    decoder.levels[-1].bias[...] = 100 * jnp.arange(6.0)
    out = decoder(jnp.ones(2))
    assert out.shape == (2, 5, 4, 3)
    expected = 100 * np.arange(6.0).reshape(2, 1, 1, 3)
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), atol=40)
