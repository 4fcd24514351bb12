"""Normalising flows as NumPyro transforms: planar, inverse autoregressive, spline coupling.

A posterior with flows is `TransformedDistribution(base, [flow, ...])`: the encoder returns the
parameters of the base, and the parameters of the flows are shared by all x. A flow may also take a
context vector, through which it depends on x.
"""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from jaxvae.distributions import splines

Conditioner: TypeAlias = Callable[..., Any]
"""A network; it must be a pytree, such as an NNX module, to pass through `jax.jit` inside a distribution."""

MIN_STRETCH = 1e-3
"""The least slope of a planar flow along w, and the least gate of an autoregressive flow."""


class Flow(Transform):
    """A map from one event [D] to another with a known log-determinant.

    A subclass defines the map of one event; leading axes are mapped over.
    """

    domain = codomain = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    leaves: ClassVar[tuple[str, ...]]
    """Names of the attributes that hold arrays or modules; all others are static."""

    def forward(self, x: Float[Array, "D"]) -> tuple[Float[Array, "D"], Float[Array, ""]]:
        """The image `y` of one event and `log|det dy/dx|`, nats."""
        raise NotImplementedError

    def backward(self, y: Float[Array, "D"]) -> Float[Array, "D"]:
        """Return the event whose image is `y`.

        Raises:
            NotImplementedError: this flow has no inverse in closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Images [..., D] and log-determinants [...]."""
        return jnp.vectorize(self.forward, signature="(d)->(d),()")(x)

    def __call__(self, x: Array) -> Array:
        """Images [..., D]."""
        return self.call_with_intermediates(x)[0]

    def _inverse(self, y: Array) -> Array:
        return jnp.vectorize(self.backward, signature="(d)->(d)")(y)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        """`log|det dy/dx|` at x, nats; `intermediates` from the forward pass avoid a second one."""
        return self.call_with_intermediates(x)[1] if intermediates is None else intermediates

    def tree_flatten(self) -> tuple[Any, Any]:
        """Split the attributes into arrays and modules, and static ones."""
        static = {k: v for k, v in vars(self).items() if k not in (*self.leaves, "_inv")}
        return tuple(getattr(self, name) for name in self.leaves), (self.leaves, static)


class Planar(Flow):
    """`y = x + u' tanh(w.x + b)`, a stretch of space across one family of parallel planes.

    `log|det| = log(1 + w.u' (1 - tanh^2))`. For the flow to be one-to-one w.u' must exceed -1:
    `u' = u + (m(w.u) - w.u) w / |w|^2` with `m(a) > -1`. Its inverse has no closed form, so that only
    its own samples can be scored.

    Args:
        w: normal of the planes [D].
        u: direction of the displacement [D], before the constraint.
        b: offset, a scalar.

    >>> flow = Planar(jnp.array([1.0, 0.0]), jnp.array([-9.0, 0.0]), jnp.array(0.0))
    >>> y, log_det = flow.forward(jnp.zeros(2))
    >>> bool(jnp.isfinite(log_det))
    True

    Source: Rezende and Mohamed (2015), "Variational inference with normalizing flows",
    appendix A.1.
    Departs from the source: `m(a) = softplus(a + log(e^0.999 - 1)) - 1 + 0.001`, which is zero at
    zero; the source's `softplus(a) - 1` makes u' grow without bound as w goes to zero, and
    rounds to -1.
    """

    leaves = ("w", "u", "b")

    def __init__(self, w: Float[Array, "D"], u: Float[Array, "D"], b: Float[Array, ""]):
        self.w, self.u, self.b = w, u, b

    def forward(self, x: Float[Array, "D"]) -> tuple[Array, Array]:
        """The image of one event and its log-determinant, nats."""
        along, square = self.w @ self.u, self.w @ self.w
        stretch = _stretch(along)
        u = self.u + (stretch - 1 - along) * self.w / jnp.where(square > 0, square, 1)
        bend = jnp.tanh(self.w @ x + self.b)
        # 1 + w.u' (1 - tanh^2), as a sum of positive terms.
        slope = bend**2 + (1 - bend**2) * stretch
        return x + u * bend, jnp.log(slope)


def _stretch(along: Array) -> Array:
    """`1 + m(along)`, positive."""
    return jax.nn.softplus(along + float(np.log(np.expm1(1 - MIN_STRETCH)))) + MIN_STRETCH


class InverseAutoregressive(Flow):
    """`y = gate * x + (1 - gate) * shift`; entry d of gate and shift depends on the entries of x before d.

    `log|det| = sum log gate`, with `gate = sigmoid(raw + 2)` and `shift, raw = conditioner(x,
    context)`. A sample with its density takes one pass of the conditioner, the inverse D passes.

    Args:
        conditioner: `(x [D], context) -> (shift [D], raw [D])`, autoregressive in x.
        context: an input of the conditioner besides x; all its entries may influence every output.

    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive flow".
    Departs from the source: gates stay above 0.001, so that the inverse exists in float32.
    """

    leaves = ("conditioner", "context")

    def __init__(self, conditioner: Conditioner, context: Array):
        self.conditioner, self.context = conditioner, context

    def forward(self, x: Float[Array, "D"]) -> tuple[Array, Array]:
        """The image of one event and its log-determinant, nats."""
        shift, gate = self._shift_and_gate(x)
        return gate * x + (1 - gate) * shift, jnp.sum(jnp.log(gate))

    def backward(self, y: Float[Array, "D"]) -> Array:
        """Return the event whose image is y: pass d makes entry d exact, whatever its initial value."""

        def sharpen(_: Array, x: Array) -> Array:
            shift, gate = self._shift_and_gate(x)
            return (y - (1 - gate) * shift) / gate

        return jax.lax.fori_loop(0, y.size, sharpen, jnp.zeros_like(y))

    def _shift_and_gate(self, x: Array) -> tuple[Array, Array]:
        shift, raw = self.conditioner(x, self.context)
        return shift, MIN_STRETCH + (1 - MIN_STRETCH) * jax.nn.sigmoid(raw + 2)


class SplineCoupling(Flow):
    """A coupling: every other entry passes through a monotone spline given by the remaining entries.

    `y[d] = spline[d](x[d])` with the splines from `conditioner(x[kept], context)`, and `y[kept] =
    x[kept]`; `log|det| = sum log spline[d]'(x[d])`. Outside [-bound, bound] a spline is the identity.

    Args:
        conditioner: `(x [D], zero where not kept; context) -> raw [D * (3 K - 1)]`, K bins.
        context: an input of the conditioner besides x.
        parity: 0 to transform entries 0, 2, ..., 1 for entries 1, 3, ...; the others are kept.
        bound: the splines differ from the identity on [-bound, bound] only.

    Source: Durkan et al. (2019), "Neural spline flows", section 3.
    Departs from the source: entries are split alternately, not by a random permutation.
    """

    leaves = ("conditioner", "context")

    def __init__(
        self, conditioner: Conditioner, context: Array, *, parity: int = 0, bound: float = 4.0
    ):
        self.conditioner, self.context = conditioner, context
        self.parity, self.bound = parity, bound

    def forward(self, x: Float[Array, "D"]) -> tuple[Array, Array]:
        """The image of one event and its log-determinant, nats."""
        kept, spline = self._kept_and_spline(x)
        y, log_slope = splines.forward(spline, x)
        return jnp.where(kept, x, y), jnp.sum(jnp.where(kept, 0, log_slope))

    def backward(self, y: Float[Array, "D"]) -> Array:
        """Return the event whose image is y."""
        kept, spline = self._kept_and_spline(y)
        return jnp.where(kept, y, splines.inverse(spline, y))

    def _kept_and_spline(self, x: Array) -> tuple[np.ndarray, splines.Spline]:
        kept = np.arange(x.size) % 2 != self.parity
        raw = self.conditioner(jnp.where(kept, x, 0), self.context)
        return kept, splines.make_spline(raw.reshape(x.size, -1), self.bound)


def made_masks(
    size: int, context_size: int, hidden: tuple[int, ...], *, reverse: bool = False
) -> list[np.ndarray]:
    """Return the weight masks of an autoregressive network: booleans [fan_in, fan_out], one per layer.

    Entry d of x has degree d + 1 (counted from the other end if `reverse`), the context degree 0, and
    the hidden units have degrees 0 to D - 1 in equal numbers. A hidden unit is connected to units of its
    own degree or less, an output to units of a lower degree, so that output d depends on the entries
    before it and on all of the context.

    Args:
        size: D.
        context_size: C; the network's input is x followed by the context.
        hidden: widths of the hidden layers.
        reverse: whether the last entry comes first.

    Returns:
        Masks of [D + C, hidden[0]], ..., [hidden[-1], D].

    >>> made_masks(2, 0, (2,))[1].astype(int).tolist()
    [[1, 1], [0, 1]]

    Source: Germain et al. (2015), "MADE: masked autoencoder for distribution estimation".
    Departs from the source: degree 0, for context, and hidden degrees spread evenly, not at random.
    """
    order = np.arange(1, size + 1)
    order = order[::-1] if reverse else order
    degrees = [np.concatenate([order, np.zeros(context_size, int)])]
    degrees += [np.arange(width) * size // width for width in hidden]
    masks = [below[:, None] <= above for below, above in itertools.pairwise(degrees)]
    return [*masks, degrees[-1][:, None] < order]
