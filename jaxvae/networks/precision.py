"""The precision of the products of a model's networks; everything between them stays float32."""

from typing import Any, Literal, TypeAlias, TypeVar, get_args

import jax
from flax import nnx

from jaxvae.checks import require_choice
from jaxvae.rows import dot_general
from jaxvae.types import InputError

T = TypeVar("T")

Precision: TypeAlias = Literal["float32", "bfloat16", "highest"]


class ProductLayer(nnx.Module):
    """A layer whose products are `jaxvae.rows.rows` or strided convolutions, with its own `precision`.

    Derive from it, and hand `self.precision` on to them, so that `with_precision` reaches a layer.
    """

    precision: Any = None


def with_precision(model: T, precision: Precision) -> T:
    """The same model, whose networks multiply in this precision, forward and backward.

    - "float32": what JAX does with float32 on the device: on GPUs often TensorFloat-32, on CPUs all
      of float32;
    - "bfloat16": the operands of each product or convolution are rounded to bfloat16, the activations,
      weights and cotangents alike, and the products of entries are summed in float32;
    - "highest": all of float32 on every device; slower on GPUs and TPUs.

    Parameters, gradients, activations and all that is computed from them, log-probabilities and the
    KL above all, are float32 in each. The precision is no array but static, so that checkpoints stay what
    they are and `jax.jit` compiles anew.

    It reaches every `nnx.Linear`, those of modules of your own included, and the layers of
    `jaxvae.networks`. Not reached: products that are written out, such as `x @ w` in a module of your own,
    in linear models and mixtures, or in planar flows; they stay what JAX makes of them.

    Args:
        model: a module, or a pytree of modules.
        precision: one of the three.

    Returns:
        A copy that shares its arrays with the model.

    Raises:
        InputError: the precision is not known, nothing in the model takes it, or a layer cannot
            compute in bfloat16, such as `nnx.Conv`.

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
