"""The laws that a model must keep for its bounds to be bounds, checked on a model of your own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution

from jaxvae.batching import Examples, unpack
from jaxvae.binding import Conditional, bind
from jaxvae.compiling import jit_quickly
from jaxvae.distributions import (
    can_score,
    describe,
    log_prob,
    require_event,
    require_one_event,
    sample,
    sample_with_log_prob,
)
from jaxvae.distributions.calls import numpyro_promotion
from jaxvae.sampling import require_latents
from jaxvae.testing.normaliser import Drawn, Sum, UnknownError, drawn, draws_follow, integrate
from jaxvae.testing.statistics import FALSE_ALARM, require_rate
from jaxvae.types import Batch, InputError, Model, PRNGKey, require_positive

Outcome: TypeAlias = Literal["passed", "FAILED", "not checked"]
Part: TypeAlias = Literal["p(z)", "q(z|x)", "p(x|z)"]

PARTS: tuple[Part, ...] = ("p(z)", "q(z|x)", "p(x|z)")
_TESTS = 2 * len(PARTS)
"""Statistical tests of one model: does each of three densities integrate to 1, and do its draws follow it."""
_ROWS = 4
"""Rows that are looked at, of those given."""
_SAME = 1e-4
"""What two computations of one number in float32 may differ by, relative, and absolute near zero."""
_WIDE = 1e-3
"""What float32 may differ from float64 by, as `_SAME`."""


class Finding(NamedTuple):
    """One law, whether the model keeps it, and what was seen."""

    law: str
    outcome: Outcome
    said: str


class ModelVerdict(NamedTuple):
    """What `check_model` found; `str` gives the table."""

    passed: bool
    """Whether no law is broken. What could not be checked is among `unchecked`."""
    findings: tuple[Finding, ...]
    model: str
    seed: int
    false_alarm: float

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The laws that are broken."""
        return tuple(f for f in self.findings if f.outcome == "FAILED")

    @property
    def unchecked(self) -> tuple[Finding, ...]:
        """The laws of which nothing is shown."""
        return tuple(f for f in self.findings if f.outcome == "not checked")

    def __str__(self) -> str:
        width = max(len(finding.law) for finding in self.findings)
        rows = [f"{f.outcome:11}  {f.law:{width}}  {f.said}" for f in self.findings]
        return "\n".join([f"{self.model}, seed {self.seed}", *rows, self._result_line()])

    def _result_line(self) -> str:
        kept = sum(finding.outcome == "passed" for finding in self.findings)
        counts = f"{kept} laws kept, {len(self.failed)} broken, {len(self.unchecked)} not checked"
        word = "passed" if self.passed else "FAILED"
        return (
            f"{word}: {counts}; a correct model fails with a chance of at most {self.false_alarm:g}"
        )


def check_model(
    model: Model | Conditional,
    xs: Batch,
    *,
    seed: int = 0,
    num_draws: int = 8192,
    false_alarm: float = FALSE_ALARM,
    print_report: bool = True,
) -> ModelVerdict:
    """Check that a model keeps the laws that every bound, estimator and evaluation builds on.

    - one example: p(z), q(z|x) and p(x|z) are distributions over one event, whose log-density is one number
    - one measure: q(z|x) and p(z) are both densities, or both masses
    - support: x can occur under p(x|z); what q(z|x) draws can occur under p(z)
    - nothing hidden: the same arguments give the same numbers, whatever was called before
    - compiled = line by line, together = one by one: `jax.jit` and `jax.vmap` over examples change no number
    - precision: log-densities are float32, and those of float64 are within 1e-3
    - keys: a draw depends on its key, on nothing else, and uses no key twice
    - finite: so are the log-weights, and their gradients in every parameter
    - integrates to 1, and draws follow the density: each of p(z), q(z|x) and p(x|z)

    The last two are shown by sums and quadrature where the support is small or the density is a product over
    values, and else by draws, up to 64 dimensions; what none of these reaches is "not checked".

    Args:
        model: any object with `prior`, `posterior` and `likelihood`, or with `given`, a pytree or not.
        xs: at least two examples as the model sees them [N, *event], or a batch with `x` and `label`.
        seed: of the draws.
        num_draws: of each distribution.
        false_alarm: the chance that a correct model fails, all statistical tests together.
        print_report: whether to print the verdict.

    Returns:
        The verdict: `.passed`, `.findings`, `.failed`, `.unchecked`.

    Raises:
        InputError: `xs` are too few or have a mask or weights, or an option is not usable.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    >>> verdict = check_model(model, jnp.eye(4)[:2], num_draws=2048, print_report=False)
    >>> verdict.passed, verdict.unchecked
    (True, ())

    Source: Bonferroni's inequality over the tests; see `jaxvae.testing.normaliser` for each of them.
    """
    require_rate("false_alarm", false_alarm)
    require_positive(num_draws=num_draws)
    case = _Case(model, _examples(xs), jax.random.key(seed), num_draws, false_alarm / _TESTS)
    findings = []
    with jax.debug_key_reuse(False):  # laws compare draws of one key
        for law, check in _LAWS.items():
            findings.append(_found(law, check, case))
            if law in _FIRST and findings[-1].outcome == "FAILED":
                break  # what follows would say the same in other words
    failed = any(finding.outcome == "FAILED" for finding in findings)
    verdict = ModelVerdict(not failed, tuple(findings), type(model).__name__, seed, false_alarm)
    if print_report:
        print(verdict)
    return verdict


class BrokenError(Exception):
    """A law is broken; the message says how."""


def _found(law: str, check: Callable[["_Case"], str], case: "_Case") -> Finding:
    try:
        return Finding(law, "passed", check(case))
    except UnknownError as error:
        return Finding(law, "not checked", str(error))
    except (BrokenError, InputError) as error:
        return Finding(law, "FAILED", str(error))
    except Exception as error:  # whatever the model raises is what is to be reported
        said = " ".join(str(error).split())
        return Finding(law, "FAILED", f"raised {type(error).__name__}: {said[:300]}")


def _examples(xs: Batch) -> Examples:
    examples = unpack(xs)
    if examples.mask is not None or examples.weight is not None:
        raise InputError("xs: expected whole examples, got a mask or weights; leave them out")
    if len(examples.x) < 2:
        raise InputError("xs: expected at least two examples, to tell one from a batch, got one")
    return examples


class _Case:
    """A model with examples, its arrays apart from all else that it holds."""

    def __init__(
        self, model: Any, examples: Examples, key: PRNGKey, num_draws: int, false_alarm: float
    ):
        self.model, self.key, self.num_draws, self.false_alarm = model, key, num_draws, false_alarm
        self.xs, self.labels = examples.x[:_ROWS], examples.label
        self.labels = None if self.labels is None else self.labels[:_ROWS]
        self.leaves, self._tree = jax.tree.flatten(model)
        self._sums: dict[Part, Sum | Exception] = {}
        self._where = [i for i, leaf in enumerate(self.leaves) if _is_array(leaf)]

    @property
    def arrays(self) -> list[Array]:
        """The arrays of the model."""
        return [self.leaves[i] for i in self._where]

    def of(self, arrays: list[Array]) -> Any:
        """The model with other arrays."""
        leaves = list(self.leaves)
        for i, array in zip(self._where, arrays, strict=True):
            leaves[i] = array
        return jax.tree.unflatten(self._tree, leaves)

    @property
    def rows(self) -> tuple[Array, Array | None]:
        """The examples with their labels."""
        return self.xs, self.labels

    def row(self, i: int) -> tuple[Array, Any]:
        """One example with its label."""
        return self.xs[i], None if self.labels is None else self.labels[i]

    def parts(self, model: Any, row: Any) -> dict[Part, Distribution]:
        """p(z), q(z|x), and p(x|z) at a draw from p(z)."""
        x, label = row
        bound = bind(model, label)
        prior = bound.prior()
        z = sample(prior, jax.random.fold_in(self.key, 1))
        return {"p(z)": prior, "q(z|x)": bound.posterior(x), "p(x|z)": bound.likelihood(z)}

    @cached_property
    def drawn(self) -> dict[Part, Drawn]:
        """Draws of the three, of the first example."""
        parts = self.parts(self.model, self.row(0))
        key = jax.random.fold_in(self.key, 2)
        return {
            part: drawn(parts[part], jax.random.fold_in(key, i), self.num_draws)
            for i, part in enumerate(PARTS)
        }

    def sum(self, part: Part) -> Sum:
        """The integral of one of the three; whatever keeps it from being known is raised at every call."""
        if part not in self._sums:
            try:
                self._sums[part] = integrate(self.drawn[part], self.false_alarm)
            except Exception as error:
                self._sums[part] = error
        found = self._sums[part]
        if isinstance(found, Exception):
            raise found
        return found

    def numbers(self, model: Any, row: Any, key: PRNGKey) -> dict[str, Array]:
        """A latent of one example with its three log-densities."""
        x, label = row
        bound = bind(model, label)
        q, p = bound.posterior(x), bound.prior()
        z, log_q = _draw_and_score(q, key)
        likelihood = bound.likelihood(z)
        return {
            "z": z,
            "log p(x|z)": log_prob(likelihood, x),
            "log p(z)": log_prob(p, z),
            "log q(z|x)": log_q,
        }


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _draw_and_score(q: Distribution, key: PRNGKey) -> tuple[Array, Array]:
    if q.has_rsample or not can_score(q):
        return sample_with_log_prob(q, key)
    z = sample(q, key)
    return z, log_prob(q, z)


# The laws, in the order in which they are looked at.


def _one_example(case: _Case) -> str:
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


def _one_measure(case: _Case) -> str:
    x, label = case.row(0)
    model = bind(case.model, label)
    q, p = model.posterior(x), model.prior()
    require_latents(q, p)
    return f"q(z|x) and p(z) are {'masses' if q.is_discrete else 'densities'}"


def _support(case: _Case) -> str:
    draws = case.drawn
    seen: dict[Part, Any] = {"p(x|z)": case.xs, "p(z)": draws["q(z|x)"].values}
    for part, values in seen.items():
        support = draws[part].distribution.support
        values = jnp.asarray(values)
        if support is None:
            raise UnknownError(f"{part} says no support")
        with numpyro_promotion():
            inside = np.asarray(jax.vmap(support)(values)).reshape(len(values), -1).all(axis=1)
        if not inside.all():
            what = "the examples" if part == "p(x|z)" else "the draws of q(z|x)"
            raise BrokenError(
                f"{np.sum(~inside)} of {len(inside)} of {what} lie outside of {support}, the support of "
                f"{part}: their log-density is -inf"
            )
    for part in PARTS:
        if np.any(np.isneginf(draws[part].log_prob)):
            raise BrokenError(f"draws of {part} have density 0 under itself")
    return "x lies in that of p(x|z), draws of q(z|x) in that of p(z)"


def _nothing_hidden(case: _Case) -> str:
    before = [np.array(array) for array in case.arrays]
    first = case.numbers(case.model, case.row(0), case.key)
    case.numbers(case.model, case.row(1), case.key)
    _require_same(first, case.numbers(case.model, case.row(0), case.key), 1e-6, "called again")
    after = [leaf for leaf in jax.tree.leaves(case.model) if _is_array(leaf)]
    if len(before) != len(after) or not all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(before, after, strict=True)
    ):
        raise BrokenError("calling the model changed arrays that it holds")
    return "called again, after another example: the same numbers, and the same arrays held"


def _compiled(case: _Case) -> str:
    eager = case.numbers(case.model, case.row(0), case.key)
    found = jit_quickly(lambda arrays, row: case.numbers(case.of(arrays), row, case.key))(
        case.arrays, case.row(0)
    )
    _require_same(found, eager, _SAME, "compiled")
    return f"jax.jit changes no number by more than {_SAME:g}"


def _together(case: _Case) -> str:
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


def _precision(case: _Case) -> str:
    numbers = case.numbers(case.model, case.row(0), case.key)
    expected = "float64" if jax.config.jax_enable_x64 else "float32"
    for name, value in numbers.items():
        if name != "z" and value.dtype != expected:
            raise BrokenError(f"{name} is {value.dtype}: expected {expected}")
        if name == "z" and not jnp.issubdtype(value.dtype, jnp.floating):
            raise BrokenError(
                f"z is {value.dtype}: draw real numbers, as gradients and decoders take"
            )
    if not can_score(bind(case.model, case.row(0)[1]).posterior(case.xs[0])):
        return f"{expected}; q(z|x) has no inverse, so it is not compared with float64"
    wide = _in_float64(case, numbers["z"])
    narrow = {name: numbers[name] for name in wide}
    _require_same(narrow, wide, _WIDE, f"in {expected}, float64 in its place,")
    return f"{expected}, within {_WIDE:g} of float64"


def _in_float64(case: _Case, z: Array) -> dict[str, Array]:
    """The log-densities at a given latent."""

    def widen(array: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(array), jnp.floating)
        return jnp.asarray(np.asarray(array, np.float64)) if floating else array

    def densities(arrays: Any, row: Any, z: Array) -> dict[str, Array]:
        model = bind(case.of(arrays), row[1])
        return {
            "log p(x|z)": log_prob(model.likelihood(z), row[0]),
            "log p(z)": log_prob(model.prior(), z),
            "log q(z|x)": log_prob(model.posterior(row[0]), z),
        }

    with jax.enable_x64(True):
        arguments = jax.tree.map(widen, (case.arrays, case.row(0), z))
        return jax.device_get(jit_quickly(densities)(*arguments))


def _keys(case: _Case) -> str:
    parts = case.parts(case.model, case.row(0))
    for i, part in enumerate(PARTS):
        one, other = (jax.random.fold_in(case.key, 10 + 2 * i + j) for j in range(2))
        draws = [np.asarray(sample(parts[part], key)) for key in (one, one, other)]
        if not np.array_equal(draws[0], draws[1]):
            raise BrokenError(f"{part}: one key gives two draws; something else draws as well")
        values = case.drawn[part].values
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


def _finite(case: _Case) -> str:
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


def _names(case: _Case, floats: list[bool]) -> list[str]:
    paths = [path for path, leaf in jax.tree.leaves_with_path(case.model) if _is_array(leaf)]
    return [jax.tree_util.keystr(p) for p, floating in zip(paths, floats, strict=True) if floating]


def _integrates(part: Part) -> Callable[[_Case], str]:
    def check(case: _Case) -> str:
        total = case.sum(part)
        if not abs(total.log_value) <= total.limit:  # NaN does not pass
            raise BrokenError(
                f"{part} integrates to exp({total.log_value:.3g}), not to 1, by {total.how}: is a "
                "log-determinant or a constant missing, or a mean where a sum is meant?"
            )
        return f"to {total.limit:.2g} nats, by {total.how}"

    return check


def _follows(part: Part) -> Callable[[_Case], str]:
    def check(case: _Case) -> str:
        try:
            total = case.sum(part)
        except UnknownError:
            total = None
        try:
            follow, how = draws_follow(case.drawn[part], total, case.false_alarm)
        except UnknownError:
            # r / p has mean 1 under p alone: with other draws it would not.
            if total is None or "draws" not in total.how:
                raise
            return f"by {total.how}"
        if not follow:
            raise BrokenError(f"what {part} draws is not distributed as its log_prob says: {how}")
        return how

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


_FIRST = "one example", "one measure", "nothing hidden"
_LAWS: dict[str, Callable[[_Case], str]] = {
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
