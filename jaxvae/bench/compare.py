"""Comparison of two records of one machine: changes of speed beyond the spread between rounds."""

from typing import Any, NamedTuple


class Change(NamedTuple):
    """The change of one workload from an old record to a new one."""

    name: str
    steps_per_s: float
    """Ratio of the medians, new / old: above 1 is faster."""
    memory: float
    """Ratio of the memory in bytes, new / old."""
    verdict: str
    """`faster` or `slower` if all rounds of the new record are faster or slower than all of the old, else `same`."""


def compare_records(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[Change], list[str]]:
    """Compare the workloads that two records share.

    Args:
        old: a record, see `read_record`.
        new: a record of the same machine.

    Returns:
        A `Change` for each workload that is in both records with the same batch size, and a sentence for
        each other workload of `new`.

    >>> at = lambda low, mid, high: {"min": low, "median": mid, "max": high}
    >>> one = {"batch_size": 8, "memory_bytes": 10, "steps_per_s": at(9.0, 10.0, 11.0)}
    >>> two = one | {"steps_per_s": at(18.0, 20.0, 21.0)}
    >>> compare_records({"workloads": {"vae": one}}, {"workloads": {"vae": two}})[0]
    [Change(name='vae', steps_per_s=2.0, memory=1.0, verdict='faster')]
    """
    changes, left_out = [], []
    for name, now in new["workloads"].items():
        before = old["workloads"].get(name)
        if before is None:
            left_out.append(f"{name}: not in the old record")
        elif before["batch_size"] != now["batch_size"]:
            sizes = f"{before['batch_size']} before, {now['batch_size']} now"
            left_out.append(f"{name}: not comparable, batch size {sizes}")
        else:
            changes.append(_change(name, before, now))
    return changes, left_out


def _change(name: str, before: dict[str, Any], now: dict[str, Any]) -> Change:
    was, speed = before["steps_per_s"], now["steps_per_s"]
    verdict = "same"
    if speed["min"] > was["max"]:
        verdict = "faster"
    elif speed["max"] < was["min"]:
        verdict = "slower"
    # A program that needs no memory counts as 1 byte, to avoid division by 0.
    memory = max(now["memory_bytes"], 1) / max(before["memory_bytes"], 1)
    return Change(name, speed["median"] / was["median"], memory, verdict)
