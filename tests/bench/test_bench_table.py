"""Tables for a README, from a record: every number is where it belongs; what the README shows is what was measured."""

import copy
import json
from pathlib import Path

import pytest

from jaxvae.bench import read_record
from jaxvae.cli.bench_readme import table
from jaxvae.cli.bench_tables import print_found
from jaxvae.cli.main import main

ROOT = Path(__file__).parents[2]


def spread(low, middle, high):
    return {"min": low, "median": middle, "max": high}


def row(batch_size, steps_per_s, **more):
    speed = spread(0.9 * steps_per_s, steps_per_s, 1.1 * steps_per_s)
    return {
        "about": "a network",
        "batch_size": batch_size,
        "compile_s": 1.5,
        "memory_bytes": 10**6,
        "rounds": 3,
        "steps_per_s": speed,
        "examples_per_s": speed,
        "flop_per_s": speed,
        "efficiency": spread(0.7, 0.8, 0.9),
        "of_matmul": spread(0.5, 0.6, 0.7),
        **more,
    }


def peer(steps_per_s, ratio, version):
    speed = spread(steps_per_s, steps_per_s, steps_per_s)
    return {"version": version, "warm_up_s": 2.0, "steps_per_s": speed, "ratio": ratio}


LOOP = {
    "compile_s": 2.0,
    "steps_per_s": spread(4500, 5000, 5500),
    "ratio": spread(0.93, 0.96, 0.99),
}
PEERS = {
    "torch-compile-graph": peer(4000.0, spread(1.4, 1.5, 1.6), "2.13.0"),
    "numpyro": peer(2000.0, spread(2.8, 3.0, 3.3), "0.22.0"),
}
RECORD = {
    "format": "jaxvae bench 3",
    "machine": {
        "platform": "gpu",
        "device": "A GPU",
        "device_count": 1,
        "cpu": "a processor",
        "cpu_count": 16,
        "precision": "float32",
        "default_matmul_precision": "default",
        "jax": "0.12.0",
    },
    "workloads": {
        "vae": row(128, 10_000.0, loop=LOOP, peers=PEERS),
        "evaluation": row(200, 4.0),
    },
    "bfloat16": {"workloads": {"vae": row(128, 12_500.0)}, "peers_left_out": ["none: left out"]},
    "peers_left_out": [],
    "left_out": ["scaling: left out: no time"],
    "ways": {
        "jit": {"seconds": 1e-4, "ratio": spread(1.0, 1.0, 1.0), "difference": 0.0},
        "pmap": {"seconds": 2e-4, "ratio": spread(1.9, 2.0, 2.1), "difference": 1e-7},
    },
    "seeds": {
        "iwae50": {
            "batch_size": 20,
            "models": [1, 8],
            "seconds": [1e-4, 4e-4],
            "ratio": [spread(1.0, 1.0, 1.0), spread(0.4, 0.5, 0.6)],
        }
    },
    "start_up": {"command": "jaxvae train", "seconds": 12.0, "first_record_s": 6.25},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(RECORD))
    return path


def test_the_table_of_a_record(path, capsys):
    main(["bench", "--table", str(path)])
    said = capsys.readouterr().out
    assert said == table(RECORD) + "\n"
    caption, _, head, rule, *rows = said.splitlines()
    assert caption.startswith("A GPU (JAX 0.12.0, PyTorch 2.13.0, NumPyro 0.22.0), medians")
    assert "of 3 rounds;" in caption
    assert [cell.strip() for cell in head.split("|")[2:-1]] == [
        *("us/step", "us/step in the loop", "loop", "efficiency", "torch-compile-graph", "numpyro"),
    ]
    assert rule.count("---") == 7
    assert rows[:3] == [
        "| `vae`, batch 128, float32 | 100.0 | 200.0 | 0.96 (0.93 to 0.99) | 0.80 (0.70 to 0.90) | "
        "1.50x (1.40 to 1.60), 250.0 us | 3.00x (2.80 to 3.30), 500.0 us |",
        "| `evaluation`, batch 200, float32 | 250,000 |  |  | 0.80 (0.70 to 0.90) |  |  |",
        "| `vae`, batch 128, bfloat16 | 80.0 |  |  | 0.80 (0.70 to 0.90) |  |  |",
    ]
    assert rows[4:] == [
        "- iwae50 by jit on one device, a dispatch a step: 100 us a step, 1.00 (1.00 to 1.00) of jit, "
        "parameters equal after three steps",
        "- iwae50 by pmap on one device, a dispatch a step: 200 us a step, 2.00 (1.90 to 2.10) of jit, "
        "parameters differing by 1.0e-07 at most after three steps",
        "- 8 models of iwae50 together: 400 us a step of all, 50.0 us each, "
        "0.50 (0.40 to 0.60) of 8 times one alone",
        "- `jaxvae train` with nothing compiled before: 12.0 s, 6.2 s to its first record",
        "- scaling: left out: no time",
    ]


def test_all_of_a_record_is_printed(capsys):
    print_found(RECORD)
    said = capsys.readouterr().out
    for words in (
        "A GPU, 16 of a processor, JAX 0.12.0, float32",
        "0.96 (0.93 to 0.99)",
        "vae / torch-compile-graph",
        "bfloat16:",
        "none: left out",
        "8 models of iwae50 together",
        "12.0 s, 6.2 s to its first record",
        "scaling: left out: no time",
    ):
        assert words in said


def test_a_record_of_nothing_is_printed_too(capsys):
    nothing = {"workloads": {}, "peers_left_out": [], "left_out": ["vae: left out: no time"]}
    record = {"format": RECORD["format"], "machine": RECORD["machine"], **nothing}
    print_found(record)
    assert "vae: left out: no time" in capsys.readouterr().out
    assert "of no rounds" in table(record)


def test_the_readme_shows_what_was_measured(path):
    readme = (ROOT / "README.md").read_text()
    for record in sorted((ROOT / "experiments/bench").glob("*.json")):
        assert table(read_record(record)) in readme
    assert table(read_record(path)) not in readme  # the twin that nobody has put there
    other = copy.deepcopy(RECORD)
    other["workloads"]["vae"]["loop"]["ratio"]["median"] = 0.95
    assert table(other) != table(RECORD)
