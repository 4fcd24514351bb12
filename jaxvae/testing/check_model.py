"""Checks of a user's model: the laws that a model must obey for its bounds to be valid."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
from jaxtyping import PyTree

from jaxvae.batching import Examples, unpack
from jaxvae.checks import known_number, require_positive
from jaxvae.testing.model_case import TESTS, BrokenError, Case
from jaxvae.testing.model_laws import FIRST, LAWS
from jaxvae.testing.normaliser import UnknownError
from jaxvae.testing.statistics import FALSE_ALARM
from jaxvae.types import Batch, InputError

Outcome: TypeAlias = Literal["passed", "FAILED", "not checked"]


class Finding(NamedTuple):
    """One law, the outcome of its check, and a description of what was observed."""

    law: str
    outcome: Outcome
    said: str


class ModelVerdict(NamedTuple):
    """The result of `check_model`; `str` gives it as a table."""

    passed: bool
    """True if no law is broken. Laws that could not be checked are in `unchecked`."""
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
        """The laws that could not be checked."""
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
    model: PyTree,
    xs: Batch,
    *,
    seed: int = 0,
    num_draws: int = 8192,
    false_alarm: float = FALSE_ALARM,
    print_report: bool = True,
) -> ModelVerdict:
    """Check that a model obeys the laws on which every bound, estimator and evaluation relies.

    - one example: p(z), q(z|x) and p(x|z) are distributions over one event, whose log-density is one number
    - one measure: q(z|x) and p(z) are both densities, or both probability masses
    - support: x can occur under p(x|z), and draws of q(z|x) can occur under p(z)
    - nothing hidden: the same arguments give the same numbers, whatever was called before (no hidden state)
    - compiled = line by line, together = one by one: `jax.jit` and `jax.vmap` over examples change no number
    - precision: log-densities are float32, and those of float64 are within 1e-3
    - keys: a draw is a function of its key alone, and uses no key twice
    - finite: the log-weights are finite, and so are their gradients in every parameter
    - integrates to 1, and draws follow the density: each of p(z), q(z|x) and p(x|z)

    The last two are checked for the first two examples, or for one example of each of up to three labels: by sums
    and quadrature if the support is small or the density is a product over values, otherwise by draws, up to 64
    dimensions; a law that none of these methods can check is "not checked".

    Args:
        model: any object with `prior`, `posterior` and `likelihood`, or with `given`, a pytree or not.
        xs: at least two examples as the model sees them [N, *event], or a batch with `x` and `label`.
        seed: the seed of the draws.
        num_draws: the number of draws from each distribution.
        false_alarm: the probability that a correct model fails any of the statistical tests.
        print_report: whether to print the verdict.

    Returns:
        The verdict: `.passed`, `.findings`, `.failed`, `.unchecked`.

    Raises:
        InputError: `xs` has fewer than two examples, a mask or weights, or an option is not usable.

    >>> import jax
    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(3,))
    >>> verdict = check_model(model, jax.numpy.eye(4)[:2], num_draws=2048, print_report=False)
    >>> verdict.passed, verdict.unchecked
    (True, ())

    Source: Bonferroni's inequality over the tests; see `jaxvae.testing.normaliser` for the tests themselves.
    """
    false_alarm = known_number("false_alarm", false_alarm, above=0, below=1)
    require_positive(num_draws=num_draws)
    case = Case(model, _examples(xs), jax.random.key(seed), num_draws, false_alarm / TESTS)
    findings = []
    with jax.debug_key_reuse(False):  # laws compare draws of one key
        for law, check in LAWS.items():
            findings.append(_found(law, check, case))
            if law in FIRST and findings[-1].outcome == "FAILED":
                break  # the later laws would report the same fault again
    failed = any(finding.outcome == "FAILED" for finding in findings)
    verdict = ModelVerdict(not failed, tuple(findings), type(model).__name__, seed, false_alarm)
    if print_report:
        print(verdict)
    return verdict


def _found(law: str, check: Callable[[Case], str], case: Case) -> Finding:
    try:
        return Finding(law, "passed", check(case))
    except UnknownError as error:
        return Finding(law, "not checked", str(error))
    except (BrokenError, InputError) as error:
        return Finding(law, "FAILED", str(error))
    except Exception as error:  # any error raised by the model is the finding to report
        said = " ".join(str(error).split())
        return Finding(law, "FAILED", f"raised {type(error).__name__}: {said[:300]}")


def _examples(xs: Batch) -> Examples:
    examples = unpack(xs)
    if examples.mask is not None or examples.weight is not None:
        raise InputError("xs: expected whole examples, got a mask or weights; leave them out")
    if len(examples.x) < 2:
        raise InputError("xs: expected at least two examples, to tell one from a batch, got one")
    return examples
