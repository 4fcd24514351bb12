"""The precision of matrix products and convolutions in a model's networks; all other operations are float32."""

from typing import Any, Literal, TypeAlias, TypeVar, get_args

import jax
from flax import nnx

from jaxvae.checks import require_choice
from jaxvae.rows import dot_general
from jaxvae.types import InputError

T = TypeVar("T")

Precision: TypeAlias = Literal["float32", "bfloat16", "highest"]


class ProductLayer(nnx.Module):
    """The base class of layers with a `precision` for their products, `jaxvae.rows.rows` or strided convolutions.

    A subclass passes `self.precision` to its products, so that `with_precision` applies to it.
    """

    precision: Any = None


def with_precision(model: T, precision: Precision) -> T:
    """Return a copy of the model whose networks multiply in this precision, forward and backward.

    - "float32": JAX's default for float32 on the device: on GPUs often TensorFloat-32, on CPUs full
      float32;
    - "bfloat16": the operands of each product or convolution (activations, weights and cotangents) are
      rounded to bfloat16, and the products of entries are summed in float32;
    - "highest": full float32 on every device; slower on GPUs and TPUs.

    Parameters, gradients, activations and everything computed from them, in particular log-probabilities
    and the KL, are float32 in all three. The precision is static, not an array, so that checkpoints do not
    change and `jax.jit` compiles again.

    It applies to every `nnx.Linear`, also in modules of your own, and to the layers of `jaxvae.networks`. It
    does not apply to explicit products, such as `x @ w` in a module of your own, in linear models and
    mixtures, or in planar flows; these keep JAX's default.

    Args:
        model: a module, or a pytree of modules.
        precision: one of the three.

    Returns:
        A copy that shares its arrays with the model.

    Raises:
        InputError: the precision is unknown, no layer of the model has a precision, or a layer, such as
            `nnx.Conv`, cannot compute in bfloat16.

    >>> import jax.numpy as jnp
    >>> layer = nnx.Linear(1, 1, use_bias=False, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    >>> x = jnp.array([1 + 2**-9])  # bfloat16 has 8 bits
    >>> float(layer(x)[0]), float(with_precision(layer, "bfloat16")(x)[0])
    (1.001953125, 1.0)
    """
    require_choice("precision", precision, get_args(Precision))
    reached: list[nnx.Module] = []

    def copied(node: Any) -> Any:
        if not isinstance(node, nnx.Module):
            return node
        copy = nnx.merge(*nnx.split(node))
        for _, part in nnx.iter_modules(copy):
            if hasattr(part, "precision"):
                _set(part, precision)
                reached.append(part)
        return copy

    result = jax.tree.map(copied, model, is_leaf=lambda node: isinstance(node, nnx.Module))
    if not reached and precision != "float32":
        raise InputError(
            f"precision: has no effect on {type(model).__name__}, no part of which is a layer; "
            f'got "{precision}", leave it at "float32"'
        )
    return result


def _set(layer: Any, precision: Precision) -> None:
    if isinstance(layer, nnx.Linear) and layer.dot_general in (jax.lax.dot_general, dot_general):
        layer.dot_general = dot_general
    elif not isinstance(layer, ProductLayer) and precision == "bfloat16":
        raise InputError(
            f'precision: expected "float32" or "highest", since a {type(layer).__name__} cannot '
            'compute in bfloat16, got "bfloat16"; apply it to other parts of the model alone'
        )
    layer.precision = None if precision == "float32" else precision
