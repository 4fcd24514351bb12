"""Strided convolution of images and its adjoints, fast under `vmap` and inside loops.

All three functions are derivatives of one trilinear form, `T(x, w, g) = <convolve(x, w), g>`:
`convolve = dT/dg`, `transposed = dT/dx` and `correlate = dT/dw`. So each is bilinear and has the other two
as its transposes. Each is a primitive for two reasons. First, a `vmap` over examples or samples folds its
axis into the axis N of images, and a `vmap` over kernels (many models at once) becomes batched matrix
products, not grouped convolutions. Second, on a CPU XLA computes the derivatives that JAX gives a
convolution by a slow path, in particular inside loops such as `lax.scan` (30 times slower than outside, for
the weights of 4 x 4 kernels on 64 images of 14 x 14 x 32); so on a CPU the two derivatives are matrix
products here. Accelerators use XLA's own convolutions.

Padding: an axis of n values gives `ceil(n / stride)`, with `(kernel - stride) // 2` zeros before the first.
The kernel size is a multiple q of the stride s, so that a window is q x q neighbouring blocks of s x s values.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxvae.rows import operands, rows

Size: TypeAlias = tuple[int, ...]

convolve_p = Primitive("convolve")
transposed_p = Primitive("transposed_convolve")
correlate_p = Primitive("correlate")


def convolve(
    x: Float[Array, "N H W C"], w: Float[Array, "k k C O"], *, stride: int, precision: Any = None
) -> Float[Array, "N h w O"]:
    """The strided convolution `y[i, j] = sum_ab x[s i + a - lo, s j + b - lo] @ w[a, b]`, zero-padded."""
    return convolve_p.bind(x, w, stride=stride, precision=precision)


def transposed(
    y: Float[Array, "N h w O"],
    w: Float[Array, "k k C O"],
    *,
    stride: int,
    size: Size,
    precision: Any = None,
) -> Float[Array, "N H W C"]:
    """The adjoint in x: `<transposed(y, w), x> = <y, convolve(x, w)>` for images of this size."""
    return transposed_p.bind(y, w, stride=stride, size=size, precision=precision)


def correlate(
    x: Float[Array, "N H W C"],
    y: Float[Array, "N h w O"],
    *,
    stride: int,
    kernel: int,
    precision: Any = None,
) -> Float[Array, "k k C O"]:
    """The adjoint in w: `<correlate(x, y), w> = <y, convolve(x, w)>`."""
    return correlate_p.bind(x, y, stride=stride, kernel=kernel, precision=precision)


def strided_size(size: Size, stride: int) -> Size:
    """Return the height and width of the output of `convolve`, `ceil(n / stride)` each."""
    return -(-size[0] // stride), -(-size[1] // stride)


# The three functions by XLA's own convolution.


def _native(x: Array, w: Array, *, stride: int, precision: Any = None) -> Array:
    padding, numbers = _padding(x.shape[1:3], w.shape[0], stride), ("NHWC", "HWIO", "NHWC")
    return _convolution(x, w, precision, (stride, stride), padding, dimension_numbers=numbers)


def _native_transposed(
    y: Array, w: Array, *, stride: int, size: Size, precision: Any = None
) -> Array:
    last = w.shape[0] - 1
    padding = [(last - low, last - high) for low, high in _padding(size, w.shape[0], stride)]
    options = {"lhs_dilation": (stride, stride), "dimension_numbers": ("NHWC", "HWOI", "NHWC")}
    return _convolution(y, jnp.flip(w, (0, 1)), precision, (1, 1), padding, **options)


def _native_correlate(
    x: Array, y: Array, *, stride: int, kernel: int, precision: Any = None
) -> Array:
    padding = _padding(x.shape[1:3], kernel, stride)
    options = {"rhs_dilation": (stride, stride), "dimension_numbers": ("CHWN", "IHWO", "HWNC")}
    return _convolution(x, y, precision, (1, 1), padding, **options)


def _convolution(a: Array, b: Array, precision: Any, *args: Any, **options: Any) -> Array:
    a, b, also = operands(a, b, precision)
    return jax.lax.conv_general_dilated(a, b, *args, **options, **also)


def _padding(size: Size, kernel: int, stride: int) -> list[Size]:
    """The number of zeros before and after each axis for which the output has `strided_size`."""
    before = (kernel - stride) // 2
    return [
        (before, (small - 1) * stride + kernel - n - before)
        for n, small in zip(size, strided_size(size, stride), strict=True)
    ]


# The three functions by matrix products, one for each of the q x q neighbouring blocks.


def _blocks(x: Array, kernel: int, stride: int) -> Array:
    """Split padded images into blocks of s x s values, [N, h + q - 1, w + q - 1, s s C]."""
    count, height, width, channels = x.shape
    before, more = (kernel - stride) // 2, kernel // stride - 1
    rows, columns = (n + more for n in strided_size((height, width), stride))
    after = rows * stride - height - before, columns * stride - width - before
    x = jnp.pad(x, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))
    x = x.reshape(count, rows, stride, columns, stride, channels).swapaxes(2, 3)
    return x.reshape(count, rows, columns, stride * stride * channels)


def _pixels(blocks: Array, size: Size, kernel: int, stride: int) -> Array:
    """The adjoint of `_blocks`: the values without the padding, [N, H, W, C]."""
    count, rows, columns, _ = blocks.shape
    before = (kernel - stride) // 2
    x = blocks.reshape(count, rows, columns, stride, stride, -1).swapaxes(2, 3)
    x = x.reshape(count, rows * stride, columns * stride, -1)
    return x[:, before : before + size[0], before : before + size[1]]


def _taps(w: Array, stride: int) -> Array:
    """The kernel as one matrix for each neighbouring block, [q q, s s C, O]."""
    kernel, _, inputs, outputs = w.shape
    q = kernel // stride
    w = w.reshape(q, stride, q, stride, inputs, outputs).swapaxes(1, 2)
    return w.reshape(q * q, stride * stride * inputs, outputs)


def _untap(taps: Array, kernel: int, stride: int) -> Array:
    """The adjoint of `_taps`, which is also its inverse."""
    q = kernel // stride
    w = taps.reshape(q, q, stride, stride, -1, taps.shape[-1]).swapaxes(1, 2)
    return w.reshape(kernel, kernel, -1, taps.shape[-1])


def _neighbours(kernel: int, stride: int) -> Iterable[Size]:
    return itertools.product(range(kernel // stride), repeat=2)


def _window(blocks: Array, at: Size, size: Size) -> Array:
    """The neighbouring block at offset `at` for every output position, [N h w, s s C]."""
    (i, j), (height, width) = at, size
    return blocks[:, i : i + height, j : j + width].reshape(-1, blocks.shape[-1])


def _matmul(x: Array, w: Array, *, stride: int, precision: Any = None) -> Array:
    kernel, size = w.shape[0], strided_size(x.shape[1:3], stride)
    blocks = _blocks(x, kernel, stride)
    each = zip(_neighbours(kernel, stride), _taps(w, stride), strict=True)
    y = sum(rows(_window(blocks, at, size), tap, precision) for at, tap in each)
    return jnp.asarray(y).reshape(x.shape[0], *size, w.shape[-1])


def _matmul_transposed(
    y: Array, w: Array, *, stride: int, size: Size, precision: Any = None
) -> Array:
    kernel, more = w.shape[0], w.shape[0] // stride - 1
    taps = _taps(w, stride)
    flat = rows(y.reshape(-1, y.shape[-1]), taps.reshape(-1, taps.shape[-1]).T, precision)
    parts = flat.reshape(*y.shape[:3], *taps.shape[:2])
    blocks = sum(
        jnp.pad(parts[..., n, :], ((0, 0), (i, more - i), (j, more - j), (0, 0)))
        for n, (i, j) in enumerate(_neighbours(kernel, stride))
    )
    return _pixels(jnp.asarray(blocks), size, kernel, stride)


def _matmul_correlate(
    x: Array, y: Array, *, stride: int, kernel: int, precision: Any = None
) -> Array:
    size, blocks = y.shape[1:3], _blocks(x, kernel, stride)
    flat = y.reshape(-1, y.shape[-1])
    windows = (_window(blocks, at, size) for at in _neighbours(kernel, stride))
    taps = [rows(window.T, flat, precision) for window in windows]
    return _untap(jnp.stack(taps), kernel, stride)


# The primitives.


def _fold(primitive: Primitive, matmul: Callable[..., Array], args: Any, axes: Any, **options: Any):
    """The batching rule: a batch of images becomes more images, a batch of kernels becomes batched products."""
    (x, w), (x_axis, w_axis) = args, axes
    if w_axis is not None:
        return jax.vmap(partial(matmul, **options), (x_axis, w_axis))(x, w), 0
    x = jnp.moveaxis(x, x_axis, 0)
    y = primitive.bind(x.reshape(-1, *x.shape[2:]), w, **options)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _batch_correlate(args: Any, axes: Any, **options: Any) -> tuple[Array, int]:
    return jax.vmap(partial(_matmul_correlate, **options), axes)(*args), 0


def _shaped(function: Callable[..., Array]) -> Callable[..., ShapedArray]:
    def abstract(a: ShapedArray, b: ShapedArray, **options: Any) -> ShapedArray:
        shape = jax.eval_shape(partial(function, **options), a, b)
        return ShapedArray(shape.shape, shape.dtype)

    return abstract


def _define(primitive: Primitive, native: Callable, cpu: Callable, matmul: Callable) -> None:
    primitive.def_abstract_eval(_shaped(matmul))
    mlir.register_lowering(primitive, mlir.lower_fun(native, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    batching.primitive_batchers[primitive] = partial(_fold, primitive, matmul)

    @partial(jax.jit, static_argnames=("stride", "size", "kernel", "precision"))
    def compiled(a: Array, b: Array, **options: Any) -> Array:
        return primitive.bind(a, b, **options)

    primitive.def_impl(compiled)


_define(convolve_p, _native, _native, _matmul)
_define(transposed_p, _native_transposed, _matmul_transposed, _matmul_transposed)
_define(correlate_p, _native_correlate, _matmul_correlate, _matmul_correlate)
batching.primitive_batchers[correlate_p] = _batch_correlate

ad.defbilinear(
    convolve_p,
    lambda g, x, w, **options: transposed(g, w, size=x.aval.shape[1:3], **options),
    lambda g, x, w, **options: correlate(x, g, kernel=w.aval.shape[0], **options),
)
ad.defbilinear(
    transposed_p,
    lambda g, y, w, *, size, **options: convolve(g, w, **options),
    lambda g, y, w, *, size, **options: correlate(g, y, kernel=w.aval.shape[0], **options),
)
ad.defbilinear(
    correlate_p,
    lambda g, x, y, *, kernel, **options: transposed(y, g, size=x.aval.shape[1:3], **options),
    lambda g, x, y, *, kernel, **options: convolve(x, g, **options),
)
