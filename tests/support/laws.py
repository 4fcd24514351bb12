"""Laws that hold for every model, objective and estimator, as checks of one compiled program per model.

The program is the real training step, `jv.training.make_step`, with an optimizer that keeps the gradient: it
gives the means and gradients of a batch of four rows. Everything that the laws vary (rows, their order, keys,
weights, masks, the content of absent rows) is an argument, so that all laws share one compilation.

A law is a function that raises `AssertionError` with the law's name if it is broken.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.random import define_prng_impl, threefry_prng_impl

import jaxvae as jv
from jaxvae.batching import unpack
from jaxvae.binding import bind
from jaxvae.keys import example_keys
from jaxvae.testing import in_float64
from jaxvae.training.step import Step, split
from tests.support.combinations import Case

ROUNDING = 5e-5
"""Tolerance for float32 sums in different orders, relative to the largest of the compared numbers."""

Result = dict[str, Any]
"""Name of an objective -> the means of its terms, and the gradient of its loss."""


def _bits_of_floats(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    key = threefry_prng_impl.fold_in(key, jnp.uint32(7))  # other draws than those of threefry
    if width != 64:
        return threefry_prng_impl.random_bits(key, width, shape)
    bits = threefry_prng_impl.random_bits(key, 32, shape) >> 9 << 9  # the bits that float32 keeps
    return bits.astype(jnp.uint64) << 32


SAME_NOISE = define_prng_impl(
    key_shape=(2,),
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    random_bits=_bits_of_floats,
    fold_in=threefry_prng_impl.fold_in,
    name="threefry_of_floats",
    tag="tof",
)
"""A second implementation of keys: other draws than threefry, and the same uniforms in float64 as in float32."""


def keep_gradient() -> optax.GradientTransformation:
    """Return an optimizer that changes nothing and holds the last gradient as its state."""

    def nothing(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del state, params
        return jax.tree.map(jnp.zeros_like, gradient), gradient

    return optax.GradientTransformation(nothing, update)


KEEP = keep_gradient()
MakeStep = Callable[..., Step]


class Program:
    """The means and gradients of several objectives of one model for a batch of four rows.

    Args:
        case: the model and its examples.
        objectives: the objectives, by name.
        make_step: makes the step of an objective; by default that of training.
        impl: the implementation of the keys.
    """

    def __init__(
        self,
        case: Case,
        objectives: Mapping[str, Any],
        *,
        make_step: MakeStep = jv.training.make_step,
        impl: Any = SAME_NOISE,
    ):
        self.objectives, self.model = dict(objectives), case.make()
        self.key = jax.random.key(5, impl=impl)
        self.rows = {name: np.asarray(a) for name, a in case.batch.items()}
        self.index = np.array([11, 4, 7, 0], np.int32)
        self._run = jax.jit(self._all)
        self._make_step = make_step
        self._of_one: dict[int, Result] = {}

    def _all(self, model: Any, key: jax.Array, batch: dict[str, jax.Array]) -> Result:
        def of(objective: Any) -> Any:
            state = jv.training.init(key, model, KEEP)
            state, metrics = self._make_step(objective, KEEP)(state, batch)
            return dict(metrics), state.opt_state

        return {name: of(objective) for name, objective in self.objectives.items()}

    def batch(self, order: Any, weight: Any = (1, 1, 1, 1), mask: Any = (1, 1, 1, 1)) -> Any:
        """Return a batch of four rows chosen from 0 to 2, each with its index; None gives a row of NaN."""
        at = [0 if i is None else i for i in order]
        columns = {name: a[at].copy() for name, a in self.rows.items()}
        for place, i in enumerate(order):
            if i is None:
                columns["x"][place] = np.nan
        index = np.array([99 if i is None else self.index[i] for i in order], np.int32)
        weights = {"weight": np.float32(weight), "mask": np.float32(mask)}
        return columns | weights | {"index": index}

    def __call__(self, *args: Any, **options: Any) -> Result:
        found = self._run(self.model, self.key, self.batch(*args, **options))
        return jax.device_get(found)

    def of_row(self, i: int) -> Result:
        """Return the result for one row, with weight 1 in a batch in which the others have weight 0."""
        if i not in self._of_one:
            weight = np.zeros(4)
            weight[i] = 1
            self._of_one[i] = self((0, 1, 2, 0), weight)
        return self._of_one[i]

    def mean(self, weights: tuple[float, ...]) -> Result:
        """Return the weighted mean of the results for single rows."""
        shares = np.asarray(weights, np.float64) / np.sum(weights)
        rows = [self.of_row(i) for i in range(3)]
        return jax.tree.map(
            lambda *a: sum(s * np.float64(v) for s, v in zip(shares, a, strict=True)), *rows
        )


def worst(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest |number| in `expected`, or 1; NaN if there is a NaN."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    size = np.max([1.0, *(np.max(np.abs(b), initial=0) for _, b in pairs)])
    off = [np.max(np.abs(np.float64(a) - np.float64(b)), initial=0) for a, b in pairs]
    return float(np.max(off) / size)  # NumPy's maximum, since Python's ignores NaN


def require_same(law: str, found: Result, expected: Result, tolerance: float = ROUNDING) -> None:
    """Assert that numbers differ by at most `tolerance`; the error names the law and the objectives."""
    off = {name: worst(found[name], expected[name]) for name in expected}
    broken = {name: error for name, error in off.items() if not error <= tolerance}
    assert not broken, f"{law}: differs by {broken}, more than {tolerance:g}"


# Each law takes only a `Program`. Rows of weight 0 hold NaN wherever possible.


def mean_of_rows(program: Program) -> None:
    require_same(
        "a batch is its rows", program((0, 1, 2, None), (1, 1, 1, 0)), program.mean((1, 1, 1))
    )


def neighbours(program: Program) -> None:
    found = program((None, None, None, 1), (0, 0, 0, 1))
    require_same("a row does not see its place or its neighbours", found, program.of_row(1))


def permutation(program: Program) -> None:
    found = program((2, None, 0, 1), (3, 0, 1, 2))
    expected = program((0, 1, 2, None), (1, 2, 3, 0))
    require_same("the order of rows does not matter", found, expected)


def duplicates(program: Program) -> None:
    found = program((0, 1, 2, 0))
    require_same("a row twice is a row of weight 2", found, program((0, 1, 2, None), (2, 1, 1, 0)))
    require_same("weights are shares", found, program.mean((2, 1, 1)))


def absence_by_weight(program: Program) -> None:
    found = program((0, None, 2, None), (1, 0, 1, 0))
    require_same("a row of weight 0 is not there", found, program.mean((1, 0, 1)))


def absence_by_mask(program: Program) -> None:
    found = program((0, None, 2, None), mask=(1, 0, 1, 0))
    require_same("a row of mask 0 is not there", found, program.mean((1, 0, 1)))


OWN_DRAWS = {
    "enumerate": "every state",
    "disarm": "antithetic pairs",
    "gumbel_softmax": "Gumbel noise",
    "straight_through": "Gumbel noise",
}
"""The draws of estimators that do not draw plainly from q; all other estimators use the same draws."""


def values_of_estimators(program: Program) -> None:
    """Check that a form has one value for each kind of draws, whatever the estimator."""
    first: dict[Any, Any] = {}
    of_row = program.of_row(0)
    for name in program.objectives:
        form, _, gradient = name.partition("; ")
        if gradient:
            terms = of_row[name][0]
            expected = first.setdefault((form, OWN_DRAWS.get(gradient)), terms)
            law = "an estimator does not change the value"
            require_same(law, {name: terms}, {name: expected})


LAWS = (
    mean_of_rows,
    neighbours,
    permutation,
    duplicates,
    absence_by_weight,
    absence_by_mask,
    values_of_estimators,
)


def alone(program: Program, objectives: Mapping[str, Any], *, chunk_size: int = 2) -> Result:
    """Compute row 1 alone: no batch, no `vmap` over rows, samples in chunks, in float64 with the same noise."""
    examples = unpack({**program.rows, "index": program.index[:3]})
    row = jax.tree.map(lambda column: column[1], examples)
    key = example_keys(program.key, 0, examples.index)[1]

    def run(model: Any, key: jax.Array, row: Any) -> Result:
        params, merge = split(model)

        def of(objective: Any) -> Any:
            def loss(params: Any) -> Any:
                model = bind(merge(params), row.label, row.mask)
                terms = objective(key, model, row.x, chunk_size=chunk_size)._asdict()
                loss = -terms.pop("objective")
                return loss, {"loss": loss, **terms}

            gradient, terms = jax.grad(loss, has_aux=True)(params)
            return terms, gradient

        return {name: of(objective) for name, objective in objectives.items()}

    return in_float64(run, program.model, key, row)
