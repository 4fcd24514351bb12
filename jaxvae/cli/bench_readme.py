"""Tables for a README, made only from a record of `jaxvae bench`."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxvae.cli.bench_tables import around, microseconds, more_lines


def table(record: Mapping[str, Any]) -> str:
    """Return Markdown: the machine, a row per workload and precision, and a line for each other measurement.

    Args:
        record: from `jaxvae.bench.read_record`.
    """
    where, half = record["machine"], record.get("bfloat16", {}).get("workloads", {})
    found = [(name, where["precision"], one) for name, one in record["workloads"].items()]
    found += [(name, "bfloat16", one) for name, one in half.items()]
    peers = list(dict.fromkeys(peer for _, _, one in found for peer in one.get("peers", {})))
    head = ["", "us/step", "us/step in the loop", "loop", "efficiency", *peers]
    lines = [f"{said_of(record, found)}:", "", _line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(*each, peers)) for each in found]
    more = [f"- {line}" for line in (*more_lines(record), *record["left_out"])]
    return "\n".join([*lines, *([""] if more else []), *more])


def said_of(record: Mapping[str, Any], found: list[tuple[str, str, Any]]) -> str:
    """Describe the machine, the versions, and the number of rounds."""
    where, peers = record["machine"], [one.get("peers", {}) for _, _, one in found]
    versions = {library_of(name): peer["version"] for each in peers for name, peer in each.items()}
    with_them = [f"JAX {where['jax']}", *(f"{name} {its}" for name, its in versions.items())]
    cores = f"{where['cpu_count']} processors of {where['cpu']}"
    device = cores if where["platform"] == "cpu" else where["device"]
    counts = sorted({one["rounds"] for _, _, one in found})
    many = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
    return (
        f"{device} ({', '.join(with_them)}), medians with the least and the most of {many} "
        f"{'round' if many == '1' else 'rounds'}; `loop` is the time of the bare step over that in the "
        "loop, and a peer's column how many times as fast the bare step is, with the peer's own time"
    )


def library_of(peer: str) -> str:
    """Return the library of a peer.

    >>> library_of("torch-compile-graph"), library_of("numpyro")
    ('PyTorch', 'NumPyro')
    """
    return "PyTorch" if peer.startswith("torch") else "NumPyro"


def _cells(name: str, precision: str, one: Mapping[str, Any], peers: list[str]) -> Iterator[str]:
    loop, beside = one.get("loop"), one.get("peers", {})
    yield f"`{name}`, batch {one['batch_size']}, {precision}"
    yield microseconds(1 / one["steps_per_s"]["median"])
    yield microseconds(1 / loop["steps_per_s"]["median"]) if loop else ""
    yield around(loop["ratio"]) if loop else ""
    yield around(one["efficiency"])
    for peer in peers:
        yield f"{ratio(beside[peer])}" if peer in beside else ""


def ratio(peer: Mapping[str, Any]) -> str:
    """Format the ratio of speeds, jaxvae / peer, and the peer's own time."""
    low, middle, high = (f"{peer['ratio'][key]:.2f}" for key in ("min", "median", "max"))
    return f"{middle}x ({low} to {high}), {microseconds(1 / peer['steps_per_s']['median'])} us"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
