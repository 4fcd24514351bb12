"""Binding the label of an example and the mask of its observed values to a model.

Objectives take one x and a model. The label and the mask of the example are bound to the model first,
so that objectives, bounds and evaluations need not handle them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree
from numpyro.distributions import Distribution, Independent

from jaxvae.distributions import describe
from jaxvae.types import Conditional, InputError, Label, Model


class Observed(NamedTuple):
    """A model of the observed values of x, those with mask 1.

    `log p(x_observed|z) = sum_i mask_i log p(x_i|z)`: omitting the factors of the missing values
    integrates these out. The encoder's input has zeros in their place; the values stored there, NaN
    included, have no effect on results or gradients.

    Source: Nazabal et al. (2020), "Handling incomplete heterogeneous data using VAEs"; Mattei and
    Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets".
    """

    model: Model
    mask: Float[Array, "*event"]

    def prior(self) -> Distribution:
        """p(z)."""
        return self.model.prior()

    def posterior(self, x: Float[Array, "*event"]) -> Distribution:
        """q(z|x_observed)."""
        return self.model.posterior(jnp.where(self.mask > 0, x, jnp.zeros_like(x)))

    def likelihood(self, z: Float[Array, "D"]) -> Distribution:
        """p(x_observed|z).

        Raises:
            InputError: the likelihood does not factorise over the values of x, or the mask is of another shape.
        """
        likelihood, shape = self.model.likelihood(z), jnp.shape(self.mask)
        if likelihood.event_shape != shape:
            raise InputError(
                f"mask: expected the shape of one example, {likelihood.event_shape}, got {shape}"
            )
        if not isinstance(likelihood, Independent) or likelihood.base_dist.event_shape != ():
            raise InputError(
                "mask: expected a likelihood that factorises over the values of x, so that those "
                f"not observed can be left out, got {describe(likelihood)}"
            )
        each: Bool[Array, "*event"] = self.mask > 0
        return likelihood.base_dist.mask(each).to_event(len(shape))


def bind(
    model: PyTree,
    label: Label | None = None,
    mask: Float[Array, "*event"] | None = None,
) -> PyTree:
    """Return the plain model of one example, with its label bound if the model needs one, and its mask if given.

    A model that needs no label ignores it. An object that is not a model, but has its own objective, is
    returned unchanged if there is no mask.

    Raises:
        InputError: the model needs a label and none is given.
    """
    if isinstance(model, Conditional) and not isinstance(model, Model):
        if label is None:
            raise InputError(
                f"label: {type(model).__name__} is a model of x given a label, got examples without; "
                'pass a mapping with "x" and "label", or model.given(y)'
            )
        model = model.given(label)
    return model if mask is None else Observed(model, mask)


def require_class(y: Label, num_classes: int) -> Int[Array, ""]:
    """Return the class y as an int32 scalar; the value of a traced y cannot be checked, see `one_hot`.

    Raises:
        InputError: y is not an integer scalar, or not from 0 to num_classes - 1.
    """
    expected = f"y: expected one class, an integer from 0 to {num_classes - 1}"
    known = not isinstance(y, Tracer)
    dtype = np.asarray(y).dtype if known else jnp.result_type(y)
    if not jnp.issubdtype(dtype, jnp.integer) or jnp.shape(y) != ():
        got = repr(y) if known and np.ndim(y) == 0 else f"{dtype} of shape {jnp.shape(y)}"
        raise InputError(f"{expected}, got {got}")
    if known and not 0 <= int(y) < num_classes:
        raise InputError(f"{expected}, got {int(y)}")
    return jnp.asarray(y, jnp.int32)


def nan_where_not(holds: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return 0 where `holds` is 1 and NaN where it is 0, since compiled code cannot raise an error.

    `sqrt(holds - 1)`, since a literal NaN stops every program under `jax_debug_nans`.
    """
    return jnp.sqrt(holds - 1)


def one_hot(y: Int[Array, ""], num_classes: int, dtype: Any = jnp.float32) -> Float[Array, "C"]:
    """Return the one-hot vector of class y; all NaN if y is not a class.

    Compiled code cannot refuse a label. `jax.nn.one_hot` gives zeros for a label that is not a class, and hence
    bounds that look plausible.

    >>> one_hot(jnp.array(1), 3).tolist(), bool(jnp.isnan(one_hot(jnp.array(3), 3)).all())
    ([0.0, 1.0, 0.0], True)
    """
    is_class = ((y >= 0) & (y < num_classes)).astype(dtype)
    return jax.nn.one_hot(y, num_classes, dtype=dtype) + nan_where_not(is_class)


def require_labels(labels: Any, num_classes: int, name: str = "labels") -> Int[np.ndarray, "N"]:
    """Return labels [N] as an int32 array, after checking that every label is a class.

    Compiled code cannot check values, and gives NaN for a label that is not a class: call this function on the
    whole array beforehand.

    Raises:
        InputError: the labels are not integers, have another shape, or one is not a class.

    >>> require_labels([0, 2, 1], 3)
    array([0, 2, 1], dtype=int32)
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{name}: expected integers of shape [N], got {array.dtype} of shape {array.shape}; "
            "number the classes 0, 1, .."
        )
    wrong = np.flatnonzero((array < 0) | (array >= num_classes))
    if wrong.size:
        raise InputError(
            f"{name}: expected classes from 0 to {num_classes - 1}, got {array[wrong[0]]} at "
            f"{wrong[0]}; {wrong.size} of {array.size} are out of range"
        )
    return array.astype(np.int32)
