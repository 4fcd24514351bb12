"""Normalising flows as NumPyro transforms: planar, inverse autoregressive, spline coupling.

A flow of a posterior is `TransformedDistribution(base, [flow, ...])`: the base carries what the
encoder says of x, and the flows' parameters are shared by all x. A flow may also look at a context
vector, which is how x bends it.
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
"""A network; to pass through `jax.jit` within a distribution it must be a pytree, as an NNX module is."""

MIN_STRETCH = 1e-3
"""How far a planar flow's slope along w, and an autoregressive gate, stay above zero."""


class Flow(Transform):
    """A map of one event [D] to another that knows its log-determinant.

    A subclass says what it does with one event; leading axes are mapped over.
    """

    domain = codomain = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    leaves: ClassVar[tuple[str, ...]]
    """Names of the attributes that hold arrays or modules; all others are static."""

    def forward(self, x: Float[Array, "D"]) -> tuple[Float[Array, "D"], Float[Array, ""]]:
        """The image `y` of one event and `log|det dy/dx|`, nats."""
        raise NotImplementedError

    def backward(self, y: Float[Array, "D"]) -> Float[Array, "D"]:
        """The event whose image is `y`.

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
        """`log|det dy/dx|` at x, nats; `intermediates` of the forward pass save a second one."""
        return self.call_with_intermediates(x)[1] if intermediates is None else intermediates

    def tree_flatten(self) -> tuple[Any, Any]:
        """Arrays and modules apart from the rest."""
        static = {k: v for k, v in vars(self).items() if k not in (*self.leaves, "_inv")}
        return tuple(getattr(self, name) for name in self.leaves), (self.leaves, static)


class Planar(Flow):
    """`y = x + u' tanh(w.x + b)`, which stretches space across one family of planes.

    `log|det| = log(1 + w.u' (1 - tanh^2))`. For the flow to be one-to-one w.u' must exceed -1:
    `u' = u + (m(w.u) - w.u) w / |w|^2` with `m(a) > -1`. Its inverse has no closed form, so it
    scores its own samples only.

    Args:
        w: normal of the planes [D].
        u: where points are pushed [D], before the constraint.
        b: offset, a scalar.

    >>> flow = Planar(jnp.array([1.0, 0.0]), jnp.array([-9.0, 0.0]), jnp.array(0.0))
    >>> y, log_det = flow.forward(jnp.zeros(2))
    >>> bool(jnp.isfinite(log_det))
    True

    Source: Rezende and Mohamed (2015), "Variational inference with normalizing flows",
    appendix A.1.
    Departs from the source: `m(a) = softplus(a + log(e - 1)) - 1 + 0.001`, up to the last term zero
    at zero; the source's `softplus(a) - 1` makes u' grow without bound as w goes to zero, and
    rounds to -1.
    """

    leaves = ("w", "u", "b")

    def __init__(self, w: Float[Array, "D"], u: Float[Array, "D"], b: Float[Array, ""]):
        self.w, self.u, self.b = w, u, b

    def forward(self, x: Float[Array, "D"]) -> tuple[Array, Array]:
        """The image of one event and its log-determinant."""
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
    """`y = gate * x + (1 - gate) * shift`, where entry d of gate and shift sees entries before d only.

    `log|det| = sum log gate`, with `gate = sigmoid(raw + 2)` and `shift, raw = conditioner(x,
    context)`. Sampling with the density is one pass of the conditioner; the inverse is D of them.

    Args:
        conditioner: `(x [D], context) -> (shift [D], raw [D])`, autoregressive in x.
        context: what it sees besides x, whole.

    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive flow".
    Departs from the source: gates stay above 0.001, so that the inverse exists in float32.
    """

    leaves = ("conditioner", "context")

    def __init__(self, conditioner: Conditioner, context: Array):
        self.conditioner, self.context = conditioner, context

    def forward(self, x: Float[Array, "D"]) -> tuple[Array, Array]:
        """The image of one event and its log-determinant."""
        shift, gate = self._shift_and_gate(x)
        return gate * x + (1 - gate) * shift, jnp.sum(jnp.log(gate))

    def backward(self, y: Float[Array, "D"]) -> Array:
        """The event whose image is y: pass d makes entry d right, whatever it began from."""

        def sharpen(_: Array, x: Array) -> Array:
            shift, gate = self._shift_and_gate(x)
            return (y - (1 - gate) * shift) / gate

        return jax.lax.fori_loop(0, y.size, sharpen, jnp.zeros_like(y))

    def _shift_and_gate(self, x: Array) -> tuple[Array, Array]:
        shift, raw = self.conditioner(x, self.context)
        return shift, MIN_STRETCH + (1 - MIN_STRETCH) * jax.nn.sigmoid(raw + 2)


class SplineCoupling(Flow):
    """Every other entry passes through a monotone spline that the remaining entries choose.

    `y[d] = spline[d](x[d])` with the splines of `conditioner(x[kept], context)`, `y[kept] =
    x[kept]`; `log|det| = sum log spline[d]'(x[d])`. Outside [-bound, bound] a spline is the identity.

    Args:
        conditioner: `(x [D], zero where not kept; context) -> raw [D * (3 K - 1)]`, K bins.
        context: what it sees besides x.
        parity: 0 to transform entries 0, 2, ..., 1 for entries 1, 3, ...; the others are kept.
        bound: B.

    Source: Durkan et al. (2019), "Neural spline flows", section 3.
    Departs from the source: entries are split in turn, not by a random permutation.
    """

    leaves = ("conditioner", "context")

    def __init__(
        self, conditioner: Conditioner, context: Array, *, parity: int = 0, bound: float = 4.0
    ):
        self.conditioner, self.context = conditioner, context
        self.parity, self.bound = parity, bound

    def forward(self, x: Float[Array, "D"]) -> tuple[Array, Array]:
        """The image of one event and its log-determinant."""
        kept, spline = self._kept_and_spline(x)
        y, log_slope = splines.forward(spline, x)
        return jnp.where(kept, x, y), jnp.sum(jnp.where(kept, 0, log_slope))

    def backward(self, y: Float[Array, "D"]) -> Array:
        """The event whose image is y."""
        kept, spline = self._kept_and_spline(y)
        return jnp.where(kept, y, splines.inverse(spline, y))

    def _kept_and_spline(self, x: Array) -> tuple[np.ndarray, splines.Spline]:
        kept = np.arange(x.size) % 2 != self.parity
        raw = self.conditioner(jnp.where(kept, x, 0), self.context)
        return kept, splines.make_spline(raw.reshape(x.size, -1), self.bound)


def made_masks(
    size: int, context_size: int, hidden: tuple[int, ...], *, reverse: bool = False
) -> list[np.ndarray]:
    """Which weights an autoregressive network may use: booleans [fan_in, fan_out], one a layer.

    Entry d of x has degree d + 1 (from the other end if `reverse`), context has 0, hidden units
    share out 0 to D - 1 evenly. A unit sees units of its own degree or less, an output only those of
    less, so output d depends on the entries before it and on all of the context.

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
