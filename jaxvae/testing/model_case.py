"""The model and examples that `check_model` checks, with draws from its distributions."""

from functools import cached_property
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution

from jaxvae.batching import Examples
from jaxvae.binding import bind
from jaxvae.distributions import log_prob, sample, sample_with_log_prob
from jaxvae.testing.normaliser import Drawn, Sum, drawn, integrate
from jaxvae.types import PRNGKey

Part: TypeAlias = Literal["p(z)", "q(z|x)", "p(x|z)"]

PARTS: tuple[Part, ...] = ("p(z)", "q(z|x)", "p(x|z)")
TESTS = 2 * 3 * len(PARTS)
"""The largest number of statistical tests of one model: two for each of its three densities, at three rows."""
_ROWS = 4
"""The number of rows of the given examples that are used."""


class BrokenError(Exception):
    """A law is broken; the message says how."""


class Case:
    """A model with examples; its arrays are separated from its other leaves, so that they can be replaced."""

    def __init__(
        self, model: Any, examples: Examples, key: PRNGKey, num_draws: int, false_alarm: float
    ):
        self.model, self.key, self.num_draws, self.false_alarm = model, key, num_draws, false_alarm
        self.xs, self.labels = examples.x[:_ROWS], examples.label
        self.labels = None if self.labels is None else self.labels[:_ROWS]
        self.leaves, self._tree = jax.tree.flatten(model)
        self._sums: dict[Part, list[Sum] | Exception] = {}
        self._where = [i for i, leaf in enumerate(self.leaves) if is_array(leaf)]

    @property
    def arrays(self) -> list[Array]:
        """The arrays of the model."""
        return [self.leaves[i] for i in self._where]

    def of(self, arrays: list[Array]) -> Any:
        """Return the model with other arrays."""
        leaves = list(self.leaves)
        for i, array in zip(self._where, arrays, strict=True):
            leaves[i] = array
        return jax.tree.unflatten(self._tree, leaves)

    @property
    def rows(self) -> tuple[Array, Array | None]:
        """The examples with their labels."""
        return self.xs, self.labels

    def row(self, i: int) -> tuple[Array, Any]:
        """Return one example with its label, or None as the label."""
        return self.xs[i], None if self.labels is None else self.labels[i]

    @cached_property
    def looked_at(self) -> list[int]:
        """The numbers of the rows that are checked: the first two, or one of each label, at most three."""
        if self.labels is None:
            return [0, 1]
        return sorted(np.unique(np.asarray(self.labels), return_index=True)[1].tolist())[:3]

    def parts(self, i: int) -> dict[Part, Distribution]:
        """Return p(z), q(z|x), and p(x|z) at a draw z from p(z), for example i."""
        x, label = self.row(i)
        bound = bind(self.model, label)
        prior = bound.prior()
        z = sample(prior, jax.random.fold_in(jax.random.fold_in(self.key, 1), i))
        return {"p(z)": prior, "q(z|x)": bound.posterior(x), "p(x|z)": bound.likelihood(z)}

    @cached_property
    def drawn(self) -> dict[Part, list[Drawn]]:
        """Draws from the three distributions for each row of `looked_at`; from p(z) only once without labels."""
        key = jax.random.fold_in(self.key, 2)
        found: dict[Part, list[Drawn]] = {part: [] for part in PARTS}
        for i in self.looked_at:
            parts = self.parts(i)
            for number, part in enumerate(PARTS):
                if part == "p(z)" and found[part] and self.labels is None:
                    continue
                draw_key = jax.random.fold_in(jax.random.fold_in(key, number), i)
                found[part].append(drawn(parts[part], draw_key, self.num_draws))
        return found

    def sums(self, part: Part) -> list[Sum]:
        """Return the integrals of one of the three densities; an error of computing them is raised in every call."""
        if part not in self._sums:
            try:
                self._sums[part] = [integrate(d, self.false_alarm) for d in self.drawn[part]]
            except Exception as error:
                self._sums[part] = error
        found = self._sums[part]
        if isinstance(found, Exception):
            raise found
        return found

    def numbers(self, model: Any, row: Any, key: PRNGKey) -> dict[str, Array]:
        """Draw a latent of one example from q(z|x), and return it with its three log-densities."""
        x, label = row
        bound = bind(model, label)
        q, p = bound.posterior(x), bound.prior()
        z, log_q = sample_with_log_prob(q, key)
        likelihood = bound.likelihood(z)
        return {
            "z": z,
            "log p(x|z)": log_prob(likelihood, x),
            "log p(z)": log_prob(p, z),
            "log q(z|x)": log_q,
        }


def is_array(leaf: Any) -> bool:
    """Return whether a leaf of a model is an array of numbers, not a plain number or a key."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
