"""What can be measured: refusals in words."""

from collections.abc import Sequence

from jaxvae.bench.workloads import WORKLOADS
from jaxvae.checks import require_number, require_positive
from jaxvae.types import InputError


def require_usable(rounds: int, seconds_a_round: float) -> None:
    """Raise where there is nothing to time.

    Raises:
        InputError: rounds below 1, or a time that is not positive and finite.
    """
    require_positive(rounds=rounds)
    require_number("seconds_a_round", seconds_a_round, above=0)


def require_batch_size(batch_size: int, num_rows: int) -> None:
    """Raise where a batch cannot be drawn from the rows.

    Raises:
        InputError: below 1, or more than there are rows.
    """
    require_positive(batch_size=batch_size)
    if batch_size > num_rows:
        raise InputError(
            f"batch_size: expected at most {num_rows:,}, the number of rows, got {batch_size:,}"
        )


def require_known(names: Sequence[str]) -> None:
    """Raise where there is no such workload, or none is named.

    Raises:
        InputError: see above.
    """
    known = ", ".join(WORKLOADS)
    if not names:
        raise InputError(f"workloads: expected at least one of {known}, got none")
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"workloads: expected some of {known}, got {name!r}")
