"""The laws that `check_model` checks, one function each, which returns what it observed or raises `BrokenError`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution

from jaxvae.binding import bind
from jaxvae.compiling import jit_quickly
from jaxvae.distributions import (
    can_score,
    describe,
    log_prob,
    require_event,
    require_one_event,
    sample,
)
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.log_weights import require_latents
from jaxvae.testing.exact import in_float64
from jaxvae.testing.model_case import PARTS, BrokenError, Case, Part, is_array
from jaxvae.testing.normaliser import Sum, UnknownError, draws_follow
from jaxvae.types import Conditional, Model, PRNGKey

_SAME = 1e-4
"""Tolerance between two float32 computations of one number: relative, and absolute near zero."""
_WIDE = 1e-3
"""Tolerance between float32 and float64, relative and absolute as `_SAME`."""


def _held(model: Any) -> list[np.ndarray]:
    """Return copies of the arrays of a model, whether or not it is a pytree."""
    tree = model if jax.tree.leaves(model) != [model] else getattr(model, "__dict__", {})
    return [np.array(leaf) for leaf in jax.tree.leaves(tree) if is_array(leaf)]


# The laws, in the order in which they are checked.


def _one_example(case: Case) -> str:
    x, label = case.row(0)
    if not isinstance(case.model, Model | Conditional):
        raise BrokenError("the model has not all of prior(), posterior(x) and likelihood(z)")
    model = bind(case.model, label)
    p, q = model.prior(), model.posterior(x)
    for name, found in (("prior()", p), ("posterior(x)", q)):
        if not isinstance(found, Distribution):
            raise BrokenError(f"{name} is no numpyro Distribution but {type(found).__name__}")
        require_one_event(found, f"model.{name}")
    if p.event_shape != q.event_shape:
        raise BrokenError(f"p(z) is over {p.event_shape} and q(z|x) over {q.event_shape}")
    z = sample(q, case.key)
    likelihood = model.likelihood(z)
    require_event(likelihood, x, "model.likelihood(z)", "x")
    if z.shape != q.event_shape:
        raise BrokenError(
            f"a draw of q(z|x) has shape {z.shape}, its event shape is {q.event_shape}"
        )
    for name, value in case.numbers(case.model, (x, label), case.key).items():
        if name != "z" and value.shape != ():
            raise BrokenError(
                f"{name} has shape {value.shape}: sum it over the event, to one number"
            )
    return f"{describe(p)} {p.event_shape}, {describe(q)}, {describe(likelihood)} {x.shape}"


def _one_measure(case: Case) -> str:
    x, label = case.row(0)
    model = bind(case.model, label)
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)
    return f"q(z|x) and p(z) are {'masses' if q.is_discrete else 'densities'}"


def _support(case: Case) -> str:
    keys = jax.random.split(jax.random.fold_in(case.key, 4), 64)

    def scores(arrays: Any, row: Any, key: PRNGKey) -> dict[str, Array]:
        return case.numbers(case.of(arrays), row, key)

    some = jit_quickly(jax.vmap(scores, in_axes=(None, None, 0)))
    for i in range(len(case.xs)):
        found = jax.device_get(some(case.arrays, case.row(i), keys))
        outside = {name: np.isneginf(value) for name, value in found.items()}
        model = bind(case.model, case.row(i)[1])
        if outside["log p(z)"].any():
            raise BrokenError(
                f"draws of q(z|x) of example {i} lie outside of {model.prior().support}, the support of p(z): their "
                f"log-density is -inf, in {outside['log p(z)'].sum()} of {len(keys)}"
            )
        if outside["log p(x|z)"].all():
            support = model.likelihood(jnp.asarray(found["z"][0])).support
            raise BrokenError(
                f"example {i} lies outside of {support}, the support of p(x|z): its log-density is -inf at every z"
            )
        if outside["log q(z|x)"].any():
            raise BrokenError(f"draws of q(z|x) of example {i} have density 0 under itself")
    return "examples lie in that of p(x|z), draws of q(z|x) in that of p(z)"


def _nothing_hidden(case: Case) -> str:
    before = _held(case.model)
    first = case.numbers(case.model, case.row(0), case.key)
    case.numbers(case.model, case.row(1), case.key)
    _require_same(first, case.numbers(case.model, case.row(0), case.key), 1e-6, "called again")
    after = _held(case.model)
    if len(before) != len(after) or not all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(before, after, strict=True)
    ):
        raise BrokenError("calling the model changed arrays that it holds")
    return "called again, after another example: the same numbers, and the same arrays held"


def _compiled(case: Case) -> str:
    eager = case.numbers(case.model, case.row(0), case.key)
    found = jit_quickly(lambda arrays, row: case.numbers(case.of(arrays), row, case.key))(
        case.arrays, case.row(0)
    )
    _require_same(found, eager, _SAME, "compiled")
    return f"jax.jit changes no number by more than {_SAME:g}"


def _together(case: Case) -> str:
    def many(arrays: Any, rows: Any) -> Any:
        return jax.vmap(lambda row: case.numbers(case.of(arrays), row, case.key))(rows)

    alone = [case.numbers(case.model, case.row(i), case.key) for i in range(len(case.xs))]
    for order in (np.arange(len(case.xs)), np.arange(len(case.xs))[::-1], np.arange(2)):
        rows = jax.tree.map(lambda column: column[order], case.rows)  # noqa: B023 (used at once)
        together = jit_quickly(many)(case.arrays, rows)
        for place, i in enumerate(order):
            one = {name: value[place] for name, value in together.items()}
            _require_same(one, alone[i], _SAME, f"example {i} in a batch of {len(order)}")
    return (
        f"{len(case.xs)} examples under jax.vmap, in two orders, and two of them: the same numbers"
    )


def _precision(case: Case) -> str:
    numbers = case.numbers(case.model, case.row(0), case.key)
    expected = "float64" if jax.config.jax_enable_x64 else "float32"
    for name, value in numbers.items():
        if name != "z" and value.dtype != expected:
            raise BrokenError(f"{name} is {value.dtype}: expected {expected}")
    if not can_score(bind(case.model, case.row(0)[1]).posterior(case.xs[0])):
        return f"{expected}; q(z|x) has no inverse, so it is not compared with float64"
    for i in case.looked_at:
        numbers = case.numbers(case.model, case.row(i), case.key)
        try:
            wide = _in_float64(case, i, numbers["z"])
        except (TypeError, ValueError) as error:  # the model itself insists on float32
            return f"{expected}; not compared with float64, where it raises {type(error).__name__}"
        narrow = {name: numbers[name] for name in wide}
        _require_same(narrow, wide, _WIDE, f"example {i} in {expected}, float64 in its place,")
    return f"{expected}, within {_WIDE:g} of float64"


def _in_float64(case: Case, i: int, z: Array) -> dict[str, np.ndarray]:
    """Return the log-densities of example i at latent z, in float64."""

    def densities(arrays: Any, row: Any, z: Array) -> dict[str, Array]:
        model = bind(case.of(arrays), row[1])
        return {
            "log p(x|z)": log_prob(model.likelihood(z), row[0]),
            "log p(z)": log_prob(model.prior(), z),
            "log q(z|x)": log_prob(model.posterior(row[0]), z),
        }

    with numpyro_promotion():
        return in_float64(densities, case.arrays, case.row(i), z)


def _keys(case: Case) -> str:
    parts = case.parts(0)
    for i, part in enumerate(PARTS):
        one, other = (jax.random.fold_in(case.key, 10 + 2 * i + j) for j in range(2))
        draws = [np.asarray(sample(parts[part], key)) for key in (one, one, other)]
        if not np.array_equal(draws[0], draws[1]):
            raise BrokenError(f"{part}: one key gives two draws; something else draws as well")
        values = case.drawn[part][0].values
        if np.all(values == values[0]) and not parts[part].is_discrete:
            raise BrokenError(f"{part}: every key gives the same draw")
        with jax.debug_key_reuse(True), _reuse_in_words(part):
            jit_quickly(lambda key, d=parts[part]: sample(d, key))(jax.random.clone(one))
    return "each draw is of its own key alone, and no key is used twice"


@contextmanager
def _reuse_in_words(part: Part) -> Iterator[None]:
    try:
        yield
    except jax.errors.KeyReuseError:
        raise BrokenError(
            f"{part}: its sample uses one key twice, so that parts of a draw are copies of each other's noise; "
            "split the key"
        ) from None


def _finite(case: Case) -> str:
    keys = jax.random.split(jax.random.fold_in(case.key, 3), 64)

    def log_weight(arrays: Any, row: Any, key: PRNGKey) -> tuple[Array, dict[str, Array]]:
        numbers = case.numbers(case.of(arrays), row, key)
        return numbers["log p(x|z)"] + numbers["log p(z)"] - numbers["log q(z|x)"], numbers

    floats = [jnp.issubdtype(array.dtype, jnp.floating) for array in case.arrays]
    trained = [array for array, floating in zip(case.arrays, floats, strict=True) if floating]

    def of_floats(trained: Any, row: Any, key: PRNGKey) -> Any:
        rest = iter(trained)
        pairs = zip(case.arrays, floats, strict=True)
        return log_weight(
            [next(rest) if floating else array for array, floating in pairs], row, key
        )

    both = jax.grad(of_floats, has_aux=True)
    rows = jax.vmap(jax.vmap(both, in_axes=(None, None, 0)), in_axes=(None, 0, None))
    gradients, numbers = jax.device_get(jit_quickly(rows)(trained, case.rows, keys))
    for name, values in numbers.items():
        if not np.all(np.isfinite(values)):
            share = np.mean(~np.isfinite(values))
            raise BrokenError(f"{name} is not finite in {100 * share:.3g} % of the draws of q(z|x)")
    names = _names(case, floats)
    for name, gradient in zip(names, gradients, strict=True):
        if not np.all(np.isfinite(gradient)):
            raise BrokenError(f"the gradient of log p(x, z) - log q(z|x) in {name} is not finite")
    if not trained:
        return "the log-weights; the model is no pytree with arrays, so that nothing of it can be trained"
    return f"log-weights and their gradients in {len(trained)} arrays"


def _names(case: Case, floats: list[bool]) -> list[str]:
    paths = [path for path, leaf in jax.tree.leaves_with_path(case.model) if is_array(leaf)]
    return [jax.tree_util.keystr(p) for p, floating in zip(paths, floats, strict=True) if floating]


def _integrates(part: Part) -> Callable[[Case], str]:
    def check(case: Case) -> str:
        sums = case.sums(part)
        for total in sums:
            if not abs(total.log_value) <= total.limit:  # NaN does not pass
                raise BrokenError(
                    f"{part} integrates to exp({total.log_value:.3g}), not to 1, by {total.how}: is a "
                    "log-determinant or a constant missing, or a mean where a sum is meant?"
                )
        return f"to {max(total.limit for total in sums):.2g} nats, by {sums[0].how}"

    return check


def _follows(part: Part) -> Callable[[Case], str]:
    def check(case: Case) -> str:
        try:
            sums: list[Sum | None] = [*case.sums(part)]
        except UnknownError:
            sums = [None] * len(case.drawn[part])
        said = ""
        for d, total in zip(case.drawn[part], sums, strict=True):
            try:
                follow, said = draws_follow(d, total, case.false_alarm)
            except UnknownError:
                # r / p has mean 1 only under p: if the draws followed another density, it would not.
                if total is None or "draws" not in total.how:
                    raise
                follow, said = True, f"by {total.how}"
            if not follow:
                raise BrokenError(f"what {part} draws is not as its log_prob says: {said}")
        return said

    return check


def _require_same(found: dict[str, Any], expected: dict[str, Any], limit: float, how: str) -> None:
    for name, value in expected.items():
        a, b = np.asarray(found[name], np.float64), np.asarray(value, np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.abs(a - b) / np.maximum(1, np.abs(b))
        same = (difference <= limit) | (a == b) | (np.isnan(a) & np.isnan(b))
        if a.shape != b.shape or not np.all(same):
            raise BrokenError(f"{how}: {name} is {_short(a)} where it was {_short(b)}")


def _short(values: np.ndarray) -> str:
    return np.array2string(values.reshape(-1)[:4], precision=5, threshold=4, separator=", ")


FIRST = "one example", "one measure", "nothing hidden"
LAWS: dict[str, Callable[[Case], str]] = {
    "one example": _one_example,
    "one measure": _one_measure,
    "nothing hidden": _nothing_hidden,
    "support": _support,
    "compiled = line by line": _compiled,
    "together = one by one": _together,
    "precision": _precision,
    "keys": _keys,
    "finite": _finite,
    **{f"{part} integrates to 1": _integrates(part) for part in PARTS},
    **{f"draws follow {part}": _follows(part) for part in PARTS},
}
