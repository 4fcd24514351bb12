"""Checks of estimators: any `(key, model, x) -> Terms` against models with exact answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxvae.checks import known_number, require_choice, require_positive
from jaxvae.testing.discrete import discrete
from jaxvae.testing.exact import ExactModel, draw_examples, exact_bound, in_float64
from jaxvae.testing.gaussian_mixture import gaussian_mixture
from jaxvae.testing.linear_gaussian import linear_gaussian
from jaxvae.testing.statistics import (
    FALSE_ALARM,
    Side,
    normal_quantile,
    standard_error,
    z_test,
)
from jaxvae.types import InputError, Model, Objective, Terms

Claim: TypeAlias = Literal["elbo", "iwae", "lower"]

BUILT_IN = {
    "linear_gaussian": linear_gaussian,
    "full_covariance": partial(linear_gaussian, 1, full=True),
    "gaussian_mixture": gaussian_mixture,
    "categorical": discrete,
    "bernoulli": partial(discrete, latent="bernoulli"),
}
_POWER = 0.99
_ROUNDING = 1e-5
"""Relative error of float32 arithmetic in a bound or a gradient, and absolute near zero."""
_SAME = 1e-4
"""Tolerance between two float32 computations of one value: relative, and absolute near zero."""
_TERMS = ("distortion", "rate")
_TESTS_A_MODEL = 3 + len(_TERMS)


class Check(NamedTuple):
    """The result of one check of one model: a line of a verdict.

    `worst` is the largest |z| or, for values compared draw by draw, the largest relative difference; above
    `limit` the check fails. `detects` is the smallest relative bias that the test detects with 99 % power,
    NaN for a comparison draw by draw.
    """

    model: str
    name: str
    passed: bool
    worst: float
    limit: float
    false_alarm: float
    detects: float


class Verdict(NamedTuple):
    """The result of `check_estimator`; `str` gives it as a table."""

    passed: bool
    checks: tuple[Check, ...]
    skipped: dict[str, str]
    """The models that the objective refused, with its error messages."""
    claim: str
    num_draws: int
    seed: int
    false_alarm: float
    """The probability that a correct estimator fails any of the checks."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __str__(self) -> str:
        width = max(map(len, [*(check.model for check in self.checks), *self.skipped, "model"]))
        head = f"{'model':{width}}  {'check':18}  {'worst':>9}  {'limit':>8}  {'alarm':>7}  detects"
        rows = [_row(check, width) for check in self.checks]
        skips = [f"{name:{width}}  skipped: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([self._claim_line(), head, *rows, *skips, self._result_line()])

    def _claim_line(self) -> str:
        return f"claim: {self.claim}; {self.num_draws:,} draws a model, seed {self.seed}"

    def _result_line(self) -> str:
        if not self.checks:
            return "FAILED: every model was refused, so nothing is shown"
        rate = f"a correct estimator fails with a chance of at most {self.false_alarm:g}"
        if self.passed:
            return f"passed {len(self.checks)} checks; {rate}"
        names = ", ".join(f"{check.name} ({check.model})" for check in self.failed)
        return f"FAILED {len(self.failed)} of {len(self.checks)} checks: {names}; {rate}"


def _row(check: Check, width: int) -> str:
    exact = np.isnan(check.detects)
    kind, alarm = ("d", "exact") if exact else ("z", f"{check.false_alarm:.0e}")
    worst = f"{kind}={check.worst:.2g}" if exact else f"{kind}={check.worst:.2f}"
    detects = "" if exact else f"{100 * check.detects:.2g} %"
    mark = "" if check.passed else "  FAILED"
    return (
        f"{check.model:{width}}  {check.name:18}  {worst:>9}  {check.limit:8.3g}  {alarm:>7}  "
        f"{detects}{mark}"
    ).rstrip()


def check_estimator(
    objective: Objective,
    *,
    bound: Claim = "elbo",
    num_samples: int = 1,
    reference: Objective | None = None,
    models: Mapping[str, ExactModel] | Sequence[str] = tuple(BUILT_IN),
    seed: int = 0,
    num_draws: int = 16_384,
    false_alarm: float = FALSE_ALARM,
    print_report: bool = True,
) -> Verdict:
    """Check an objective, and its gradient, against models that are solved exactly.

    On each model, over many draws of one example:

        bound               E bound = the exact expectation of the claimed bound, or <= log p(x)
        objective = bound   in value, draw by draw: an estimator may change only the gradient
        same as reference   bound = the bound of `reference`, draw by draw
        distortion, rate    E distortion = -E_q log p(x|z), E rate = KL(q(z|x) || p(z))
        encoder gradient    E d objective / d encoder = d (exact bound) / d encoder, every entry
        decoder gradient    the same for the parameters of p(z) and p(x|z)

    A model that the objective refuses (`InputError`, `NotImplementedError`) is skipped, and the message is
    kept: for example discrete latents for pathwise gradients, mixture priors for the analytic rate.

    Args:
        objective: `(key, model, x) -> Terms`, or a scalar, for one example; such as
            `functools.partial(jv.iwae, num_samples=5)`.
        bound: the claim to check: "elbo"; "iwae", with K = `num_samples`; or "lower", any lower bound, whose
            exact value and gradient are not known.
        num_samples: K of the claim, for "iwae"; it is not passed on.
        reference: an objective whose `bound` must be the same number for the same key.
        models: names of built-in models, or a mapping from names to solvable models. Built in are
            "linear_gaussian", "full_covariance" (of q), "gaussian_mixture" (a prior), "categorical" and
            "bernoulli".
        seed: the seed of the draws.
        num_draws: the number of draws for each model.
        false_alarm: the probability that a correct estimator fails any check of any model.
        print_report: whether to print the verdict.

    Returns:
        The verdict; its `passed` is also false if every model was refused.

    Raises:
        InputError: an option is not usable.

    >>> import jaxvae as jv
    >>> models = ["linear_gaussian"]
    >>> verdict = check_estimator(jv.elbo, models=models, num_draws=4096, print_report=False)
    >>> verdict.passed
    True

    Source: Bonferroni's inequality over checks and entries; see `jaxvae.testing.statistics`.
    """
    _require_claim(bound, num_samples)
    require_positive(num_draws=num_draws)
    false_alarm = known_number("false_alarm", false_alarm, above=0, below=1)
    if isinstance(models, Mapping):
        cases = tuple(_make_case(*item) for item in models.items())
    else:
        cases = tuple(_built_in(name) for name in models)
    share = false_alarm / (_TESTS_A_MODEL * len(cases))
    checks, skipped = [], {}
    for case in cases:
        try:
            draws = _draw(objective, case.model, _keys(seed, num_draws), case.x)
        except (InputError, NotImplementedError) as refusal:
            skipped[case.name] = str(refusal)
            continue
        checks += _judge(case, draws, _exact(case, bound, num_samples), share)
        if reference is not None:
            other = _draw(reference, case.model, _keys(seed, num_draws), case.x)
            checks.append(_same(case, "same as reference", draws.terms.bound, other.terms.bound))
    claim = {"elbo": "the ELBO", "iwae": f"IWAE of K = {num_samples}", "lower": "a lower bound"}
    verdict = Verdict(
        bool(checks) and all(check.passed for check in checks),
        tuple(checks),
        skipped,
        claim[bound],
        num_draws,
        seed,
        false_alarm,
    )
    if print_report:
        print(verdict)
    return verdict


@dataclass(frozen=True, eq=False)
class _Case:
    """A solvable model and the example at which the objective is checked."""

    name: str
    model: ExactModel
    x: Array


class _Exact(NamedTuple):
    """The exact expectations of the draws; None for those that the claim does not fix."""

    log_evidence: Any
    bound: Any
    gradient: Any
    terms: Terms | None


class _Draws(NamedTuple):
    """Terms [n] and gradients [n, ...] of n keys; a scalar objective is repeated in every term."""

    terms: Terms
    gradient: Any
    has_terms: Any


def _make_case(name: str, model: ExactModel) -> _Case:
    return _Case(name, model, draw_examples(jax.random.key(1), model, 1)[0])


@cache
def _built_in(name: str) -> _Case:
    if name not in BUILT_IN:
        raise InputError(f"models: expected names among {', '.join(BUILT_IN)}, got {name!r}")
    return _make_case(name, BUILT_IN[name]())


@cache
def _exact(case: _Case, bound: Claim, num_samples: int) -> _Exact:
    def solve(model: ExactModel, x: Array) -> _Exact:
        log_evidence = model.log_evidence(x)
        if bound == "lower":
            return _Exact(log_evidence, None, None, None)
        value = partial(exact_bound, bound=bound, num_samples=num_samples)
        return _Exact(log_evidence, *jax.value_and_grad(value)(model, x), model.exact_elbo(x))

    return in_float64(solve, case.model, case.x)


def _keys(seed: int, num_draws: int) -> Key[Array, "n"]:
    return jax.random.split(jax.random.key(seed), num_draws)


@partial(jax.jit, static_argnums=0)
def _draw(objective: Objective, model: Model, keys: Key[Array, "n"], x: Array) -> _Draws:
    def one(key: Key[Array, ""]) -> _Draws:
        def ascend(model: Model) -> tuple[Array, tuple[Terms, bool]]:
            result = objective(key, model, x)
            has_terms = isinstance(result, Terms)
            terms = result if has_terms else Terms(result, result, result, result)
            return terms.objective, (terms, has_terms)

        gradient, (terms, has_terms) = jax.grad(ascend, has_aux=True)(model)
        return _Draws(terms, gradient, jnp.asarray(has_terms))

    draws = jax.vmap(one)(keys)
    return draws._replace(has_terms=draws.has_terms[0])


def _judge(case: _Case, draws: _Draws, exact: _Exact, false_alarm: float) -> list[Check]:
    """Return all checks of one model except the one against a reference."""
    test = partial(_test, case, false_alarm=false_alarm)
    terms = draws.terms
    limit, side = (exact.log_evidence, "above") if exact.bound is None else (exact.bound, "two")
    checks = [
        test("bound", _column(terms.bound), limit, side=side),
        _same(case, "objective = bound", terms.objective, terms.bound),
    ]
    if exact.terms is not None and draws.has_terms:
        checks += [test(f, _column(getattr(terms, f)), getattr(exact.terms, f)) for f in _TERMS]
    if exact.gradient is not None:
        for group in ("encoder", "decoder"):
            rows, means = (getattr(g, group) for g in (draws.gradient, exact.gradient))
            checks.append(test(f"{group} gradient", _rows(rows), _rows(means, batched=False)))
    return checks


def _test(
    case: _Case,
    name: str,
    samples: np.ndarray,
    exact: np.ndarray | float,
    *,
    false_alarm: float,
    side: Side = "two",
) -> Check:
    """Return a z-test of every column, with the relative bias that it detects."""
    rounding = _ROUNDING * np.maximum(1, np.abs(exact))
    result = z_test(samples, exact, side=side, false_alarm=false_alarm, rounding=rounding)
    signal = np.max(np.abs(exact) / standard_error(samples, rounding))
    detects = (result.threshold + normal_quantile(1 - _POWER)) / signal if signal else np.inf
    return Check(case.name, name, *result, false_alarm, float(detects))


def _same(case: _Case, name: str, values: Array, others: Array) -> Check:
    """Compare two values of every draw, within float32 tolerance."""
    a, b = np.asarray(values, np.float64), np.asarray(others, np.float64)
    worst = float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b))))
    return Check(case.name, name, worst <= _SAME, worst, _SAME, 0.0, np.nan)


def _column(values: Array) -> np.ndarray:
    return np.asarray(values)[:, None]


def _rows(tree: Any, *, batched: bool = True) -> np.ndarray:
    """Concatenate the leaves to [n, P], or [P] if not `batched`, in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([a.reshape(*a.shape[:batched], -1) for a in leaves], axis=-1)


def _require_claim(bound: Claim, num_samples: int) -> None:
    require_choice("bound", bound, ("elbo", "iwae", "lower"))
    require_positive(num_samples=num_samples)
    if bound != "iwae" and num_samples != 1:
        raise InputError(
            f"num_samples: expected none with bound={bound!r}, whose value has no K; got {num_samples}, "
            'which belongs to bound="iwae" or to the objective itself'
        )
