"""Checks of the options of a benchmark."""

from collections.abc import Sequence

from jaxvae.bench.workloads import WORKLOADS
from jaxvae.checks import require_number, require_positive
from jaxvae.types import InputError


def require_usable(rounds: int, seconds_a_round: float) -> None:
    """Refuse numbers of rounds or times of a turn that are not positive.

    Raises:
        InputError: rounds below 1, or a time that is not positive and finite.
    """
    require_positive(rounds=rounds)
    require_number("seconds_a_round", seconds_a_round, above=0)


def require_batch_size(batch_size: int, num_rows: int) -> None:
    """Refuse a batch size that the number of rows does not allow.

    Raises:
        InputError: it is below 1, or above the number of rows.
    """
    require_positive(batch_size=batch_size)
    if batch_size > num_rows:
        raise InputError(
            f"batch_size: expected at most {num_rows:,}, the number of rows, got {batch_size:,}"
        )


def require_known(names: Sequence[str]) -> None:
    """Refuse unknown workloads, and an empty list.

    Raises:
        InputError: a name is unknown, or there are none.
    """
    known = ", ".join(WORKLOADS)
    if not names:
        raise InputError(f"workloads: expected at least one of {known}, got none")
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"workloads: expected some of {known}, got {name!r}")
