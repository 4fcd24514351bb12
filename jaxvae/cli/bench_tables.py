"""The output of `jaxvae bench`: tables of workloads and peers, and a line for each comparison."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvae.bench import compare_records
from jaxvae.cli.tables import print_table

HEAD = (
    "",
    "batch",
    "compile s",
    "us/step",
    "steps/s",
    "least",
    "most",
    "examples/s",
    "GFLOP/s",
    "of matmul",
    "MB",
    "efficiency",
    "loop",
)


RESTLESS = 1.5
"""The largest ratio of maximum to minimum over rounds that is usual on an idle machine."""


def print_found(record: Mapping[str, Any]) -> None:
    """Print the machine, the workloads in each precision, other measurements, and the parts left out."""
    where = record["machine"]
    print(
        f"{where['device']}, {where['cpu_count']} of {where['cpu']}, JAX {where['jax']}, "
        f"{where['precision']}, random bits"
    )
    print_workloads(record)
    if "bfloat16" in record:
        print("bfloat16:")
        print_workloads(record["bfloat16"])
    print_more(record)
    for line in record["left_out"]:
        print(line)


def print_workloads(found: Mapping[str, Any]) -> None:
    """Print a row per workload, the large product, and a row per peer."""
    if found["workloads"]:
        print_table([HEAD, *(_row(name, one) for name, one in found["workloads"].items())])
    if "matmul" in found:
        matmul, speed = found["matmul"], found["matmul"]["flop_per_s"]
        size = f"{matmul['size']:,}"
        print(
            f"matmul: {size} x {size} of {matmul['dtype']}, {speed['median'] / 1e9:,.1f} GFLOP/s "
            f"({speed['min'] / 1e9:,.1f} to {speed['max'] / 1e9:,.1f})"
        )
    beside = dict(peers_of(found["workloads"]))
    if beside:
        print("steps/s of jaxvae / of a peer, in the same rounds:")
        print_table(
            [
                ("", "ratio", "least to most", "its us/step", "warm-up s", "version"),
                *(_peer_row(name, one) for name, one in beside.items()),
            ]
        )
    if any(one["ratio"]["max"] > RESTLESS * one["ratio"]["min"] for one in beside.values()):
        print("  the ratios differ much from round to round: is something else running?")
    for line in found["peers_left_out"]:
        print(f"  {line}")


def peers_of(workloads: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield `workload / peer` and its results."""
    for name, found in workloads.items():
        for peer, one in found.get("peers", {}).items():
            yield f"{name} / {peer}", one


def around(spread: Mapping[str, float]) -> str:
    """Format the median, with minimum and maximum in parentheses."""
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def microseconds(seconds: float) -> str:
    """Format a time in microseconds: whole numbers, or with one decimal up to a thousand."""
    return f"{1e6 * seconds:,.0f}" if seconds > 1e-3 else f"{1e6 * seconds:.1f}"


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    speed = found["steps_per_s"]
    return (
        name,
        str(found["batch_size"]),
        f"{found['compile_s']:.1f}",
        microseconds(1 / speed["median"]),
        *(f"{speed[key]:.4g}" for key in ("median", "min", "max")),
        f"{found['examples_per_s']['median']:,.0f}",
        f"{found['flop_per_s']['median'] / 1e9:.1f}",
        f"{found['of_matmul']['median']:.2f}",
        f"{found['memory_bytes'] / 1e6:.1f}",
        around(found["efficiency"]),
        around(found["loop"]["ratio"]) if "loop" in found else "",
    )


def _peer_row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{one['ratio']['median']:.2f}x",
        f"({one['ratio']['min']:.2f} to {one['ratio']['max']:.2f})",
        microseconds(1 / one["steps_per_s"]["median"]),
        f"{one['warm_up_s']:.1f}",
        one["version"],
    )


def print_more(record: Mapping[str, Any]) -> None:
    """Print the further measurements of --scaling or of the suite `device`."""
    print_scaling(record.get("scaling", {}))
    print_devices(record.get("devices", {}))
    for line in more_lines(record):
        print(line)


def more_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each way to run a step, each number of models, and start-up."""
    for name, way in record.get("ways", {}).items():
        how = f"iwae50 by {name} on one device, a dispatch a step"
        difference = way["difference"]
        numbers = f"differing by {difference:.1e} at most" if difference else "equal"
        time = f"{1e6 * way['seconds']:,.0f} us a step, {around(way['ratio'])} of jit"
        yield f"{how}: {time}, parameters {numbers} after three steps"
    for name, found in record.get("seeds", {}).items():
        points = (found[key] for key in ("models", "seconds", "ratio"))
        for models, seconds, ratio in zip(*points, strict=True):
            if models > 1:
                each = f"{1e6 * seconds / models:,.1f} us each"
                yield (
                    f"{models} models of {name} together: {1e6 * seconds:,.0f} us a step of all, {each}, "
                    f"{around(ratio)} of {models} times one alone"
                )
    if start := record.get("start_up"):
        yield (
            f"`{start['command']}` with nothing compiled before: {start['seconds']:.1f} s, "
            f"{start['first_record_s']:.1f} s to its first record"
        )


def print_scaling(found: dict[str, dict[str, Any]]) -> None:
    """Print the times along each axis, and the line fitted to them."""
    for axis, line in found.items():
        points = zip(line["values"], line["seconds"], strict=True)
        said = ", ".join(f"{1e3 * seconds:.3g} ms at {value}" for value, seconds in points)
        print(f"iwae50 against {axis}: {said}")
        print(
            f"  a line in the flop: R^2 = {line['r_squared']:.4f}, {1e3 * line['intercept']:.3g} ms "
            f"and {1e12 * line['slope']:.3g} ms a GFLOP"
        )


def print_devices(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the speed-up for each number of devices."""
    for name, line in found.items():
        what = "with a batch that grows" if name == "growing" else "with the same batch"
        print(f"iwae50 over devices {what}, examples/s over those of one:")
        points = (line[key] for key in ("devices", "batch_size", "seconds", "speed_up"))
        for count, size, seconds, ratio in zip(*points, strict=True):
            time = f"{1e3 * seconds:.3g} ms a step"
            print(f"  {count} (batch {size}): {around(ratio)}, {time}")
        for sentence in line["left_out"]:
            print(f"  {sentence}")


def print_changes(old: dict[str, Any], record: dict[str, Any], path: Path | None) -> None:
    """Print a row for each workload that can be compared, new / old."""
    changes, left_out = compare_records(old, record)
    print(f"against {path} (JAX {old['machine'].get('jax')}), new / old:")
    rows = [(c.name, f"{c.steps_per_s:.3f}", f"{c.memory:.3f}", c.verdict) for c in changes]
    print_table([("", "steps/s", "memory", "beyond the spread"), *rows])
    for sentence in left_out:
        print(f"  {sentence}")
