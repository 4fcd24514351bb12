"""`jaxvae bench`: a tiny run and what it writes, comparison with itself, refusals in words."""

import json
import math

import jax.numpy as jnp
import pytest

from jaxvae.bench import (
    WORKLOADS,
    compare_records,
    fit_line,
    flop_of,
    lines,
    machine,
    measure,
    products_of,
    scaling,
    turns,
)
from jaxvae.bench.turns import calibrate, in_turn
from jaxvae.bench.workloads import Job, draw_rows
from jaxvae.cli.bench_tables import microseconds, print_changes, print_scaling
from jaxvae.cli.commands import COMMANDS
from jaxvae.cli.main import main
from jaxvae.reports.figures import efficiency_bars
from tests.support.refusals import refused

TINY = "--workloads vae --batch-size 4 --rounds 1 --seconds-a-round 0.001".split()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The path of what a tiny run writes."""
    path = tmp_path_factory.mktemp("bench") / "new.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxvae.cli.bench_checks.ROWS", 50)
        patch.setattr("jaxvae.bench.ceiling.SIZES", {})
        patch.setattr("jaxvae.bench.ceiling.OTHER_SIZE", 48)
        patch.setattr("jaxvae.cli.bench.draw_rows", lambda: draw_rows(50))
        main(["bench", *TINY, "--out", str(path), "--figure", str(path.with_suffix(".png"))])
    return path


@pytest.mark.slow
def test_what_is_written(written):
    record = json.loads(written.read_text())
    assert (record["format"], record["machine"]) == ("jaxvae bench 3", machine())
    assert (record["left_out"], record["peers_left_out"]) == ([], [])
    assert record["settings"]["suite"] == "default"
    (found,) = record["workloads"].values()
    encoder = 2 * 4 * (2 * 784 * 400 + 3 * (400 * 400 + 400 * 40))
    decoder = 2 * 4 * 3 * (20 * 400 + 400 * 400 + 400 * 784)
    assert found["flop_a_step"] == encoder + decoder
    assert found["batch_size"] == 4
    for name in ("compile_s", "memory_bytes", "steps_a_round"):
        assert found[name] > 0
    for name in ("steps_per_s", "examples_per_s", "flop_per_s", "efficiency", "of_matmul"):
        assert 0 < found[name]["min"] <= found[name]["median"] <= found[name]["max"] < math.inf
    for name in ("steps_per_s", "ratio"):  # of the library's own loop
        assert 0 < found["loop"][name]["median"] < math.inf
    in_loop = found["loop"]["steps_per_s"]["median"] / found["steps_per_s"]["median"]
    assert found["loop"]["ratio"]["median"] == pytest.approx(in_loop)  # of the only round
    assert found["loop"]["compile_s"] > 0
    assert found["rounds"] == 1
    matmul = record["matmul"]
    assert (matmul["size"], matmul["dtype"], matmul["flop"]) == (48, "float32", 2 * 48**3)
    share = found["flop_per_s"]["median"] / matmul["flop_per_s"]["median"]  # of the only round
    assert found["of_matmul"]["median"] == pytest.approx(share)
    assert "peers" not in found
    assert written.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
def test_a_record_beside_itself_is_the_same(written):
    record = json.loads(written.read_text())
    changes, left_out = compare_records(record, record)
    assert [(c.steps_per_s, c.memory, c.verdict) for c in changes] == [(1.0, 1.0, "same")]
    assert not left_out


@pytest.mark.slow
def test_changes_and_lines_are_printed(written, capsys):
    record = json.loads(written.read_text())
    print_changes(record, record, written)
    line = {
        "values": [1, 2],
        "seconds": [0.1, 0.2],
        "r_squared": 1.0,
        "intercept": 0.0,
        "slope": 1e-10,
    }
    print_scaling({"width": line})
    said = capsys.readouterr().out
    assert "vae" in said
    assert "1.000" in said
    assert "same" in said
    assert "iwae50 against width: 100 ms at 1, 200 ms at 2" in said
    assert "R^2 = 1.0000, 0 ms and 100 ms a GFLOP" in said


def test_beyond_the_spread():
    def at(low, middle, high, batch_size=8):
        speed = {"min": low, "median": middle, "max": high}
        found = {"batch_size": batch_size, "memory_bytes": 0, "steps_per_s": speed}
        return {"workloads": {"vae": found}}

    def verdict(old, new):
        return compare_records(old, new)[0][0].verdict

    assert verdict(at(9, 10, 11), at(12, 13, 14)) == "faster"
    assert verdict(at(12, 13, 14), at(9, 10, 11)) == "slower"
    assert verdict(at(9, 10, 13), at(12, 13, 14)) == "same"
    assert "batch size" in compare_records(at(1, 2, 3), at(1, 2, 3, batch_size=9))[1][0]
    assert "not in the old" in compare_records({"workloads": {}}, at(1, 2, 3))[1][0]


@pytest.fixture
def fails(capsys):
    """Run the command, with a tiny run's options; return the one line that it fails with."""

    def run(*args):
        with pytest.raises(SystemExit) as stop:
            main(["bench", *map(str, args)])
        out, err = capsys.readouterr()
        assert (stop.value.code, out) == (2, "")
        (line,) = err.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--workloads other", "other"),
        ("--workloads", "workloads"),
        ("--rounds 0", "rounds: expected an integer of at least 1, got 0"),
        ("--seconds-a-round 0", "seconds_a_round: expected a finite number above 0"),
        ("--seconds-a-round nan", "seconds_a_round"),
        ("--batch-size 0", "batch_size: expected an integer of at least 1, got 0"),
        ("--batch-size 60001", "batch_size: expected at most 60,000"),
        ("--out missing/new.json", "out: cannot write to missing/new.json: there is no folder"),
        ("--out .", "it is a folder"),
        ("--figure picture.pdf", "figure: expected a file that ends in .png"),
        ("--precision float16", "float16"),
        ("--torch-python python", "torch_python: has no effect without --peers"),
        (
            "--peers --torch-python python",
            "torch_python: expected a Python interpreter, there is none",
        ),
        (
            "--peers --workloads ssvae",
            "peers: expected vae or iwae50 or iwae50_128 among the workloads",
        ),
        ("--compare none.json", "compare: cannot read none.json: No such file"),
        ("--budget-seconds 0", "budget_seconds: expected a finite number above 0, got 0"),
        ("--budget-seconds nan", "budget_seconds: expected a finite number above 0, got nan"),
        ("--out /dev/null", "out: cannot write to /dev/null: it is not a plain file"),
        ("--suite device --scaling", "scaling: has no effect with --suite device"),
        ("--suite device --peers", "peers: has no effect with --suite device"),
        ("--suite device --workloads vae", "workloads: has no effect with --suite device"),
        ("--suite device --batch-size 4", "batch_size: has no effect with --suite device"),
        ("--suite device --precision bfloat16", "precision: has no effect with --suite device"),
        ("--table none.json", "table: cannot read none.json: No such file"),
        ("--table none.json --rounds 2", "rounds: has no effect with --table"),
        ("--table none.json --suite device", "suite: has no effect with --table"),
    ],
)
def test_refusals(fails, tmp_path, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(*options.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": "jaxvae bench 3", "machine": {}, "workloads": {}}']
)
def test_a_damaged_record_is_refused(fails, tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    assert "is damaged or another" in fails("--compare", path)


@pytest.mark.slow
def test_numbers_that_cannot_be_are_refused(fails, written, tmp_path):
    record = json.loads(written.read_text())
    record["workloads"]["vae"]["steps_per_s"]["median"] = math.nan
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    assert "not positive" in fails("--compare", path)


@pytest.mark.slow
def test_a_record_of_another_machine_is_refused(fails, written, tmp_path):
    record = json.loads(written.read_text())
    record["machine"]["device"] = "TPU v9"
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    assert "measured elsewhere: device 'TPU v9' there" in fails("--compare", path)


@pytest.mark.slow
def test_a_record_of_another_precision_is_refused(fails, written):
    line = fails("--compare", written, "--precision", "bfloat16")
    assert "precision 'float32' there, 'bfloat16' here" in line


def test_what_is_measured_is_checked():
    rows = draw_rows(4)
    with refused("workloads", "vae", "other"):
        measure(["other"], rows, rounds=1, seconds_a_round=1.0)
    with refused("batch_size", "at most 4"):
        measure(["vae"], rows, rounds=1, seconds_a_round=1.0, batch_size=5)
    with refused("workloads", "none"):
        measure([], rows, rounds=1, seconds_a_round=1.0)
    assert set(COMMANDS["bench"]().workloads) == set(WORKLOADS) - {"iwae50_128"}


def test_a_line_is_fitted():
    line = fit_line([1.0, 2.0, 3.0, 4.0], [3.1, 4.9, 7.1, 8.9])
    assert line.slope == pytest.approx(1.96)
    assert line.intercept == pytest.approx(1.1)
    assert line.r_squared == pytest.approx(1 - 0.032 / 19.24, abs=1e-6)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    return now


def test_a_line_through_times_that_are_known(clock, monkeypatch):
    """A step of 1 ms and 1 ns a flop, 10 ms a dispatch."""

    def job(layers, batch_size, rows, precision):
        width, _, num_samples = layers
        assert precision == "highest"
        x, w = jnp.zeros((batch_size * num_samples, width)), jnp.zeros((width, 3))
        products = products_of(jnp.matmul, x, w)

        def run(steps):
            clock[0] += 0.01 + steps * (1e-3 + 1e-9 * flop_of(products))
            return steps

        return Job(run, batch_size, 1.0, 1, products)

    monkeypatch.setattr(lines, "layers_job", job)
    axes = {"batch_size": (20, 40, 80), "width": (100, 200, 400)}
    timing = {"rounds": 1, "seconds_a_round": 1e4, "precision": "highest"}
    found = scaling(draw_rows(1), **timing, axes=axes)
    assert found["batch_size"]["flop"] == [2 * n * 50 * 200 * 3 for n in (20, 40, 80)]
    for line in found.values():
        assert line["r_squared"] == pytest.approx(1)
        assert line["slope"] == pytest.approx(1e-9, rel=1e-3)
        assert line["intercept"] == pytest.approx(1e-3, rel=1e-3)


def test_calibration_takes_the_cost_of_a_dispatch_out(clock):
    """1 s a dispatch and 10 ms a step: 10 s hold about 900 steps, not the 10 that the first one promises."""

    def run(steps):
        clock[0] += 1 + 0.01 * steps
        return steps

    assert 500 <= calibrate(run, 10.0) <= 1100


def test_turns_are_dealt_out_by_round(clock):
    order = []

    def run_of(name, seconds):
        def run(steps):
            order.append(name)
            clock[0] += seconds * steps
            return steps

        return run

    times = in_turn([run_of("a", 1.0), run_of("b", 3.0)], 3, 1.0)
    assert times == [[1.0] * 3, [3.0] * 3]
    assert order[-6:] == ["a", "b"] * 3


def test_steps_are_counted_as_they_are_taken(clock):
    """Blocks of 64 steps of 1 ms: 100 ms hold two blocks, and a step takes 1 ms, whatever is asked for."""

    def run(steps):
        taken = -(-steps // 64) * 64
        clock[0] += 1e-3 * taken
        return taken

    assert calibrate(run, 0.1) == 100
    assert turns.seconds_a_step(run, 100) == pytest.approx(1e-3)
    asked_for = turns.timed(run, 100)[0] / 100  # the twin that divides by what was asked for
    assert asked_for == pytest.approx(1.28e-3)


def test_microseconds():
    assert (microseconds(0.0123), microseconds(6.04e-5)) == ("12,300", "60.4")


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_figure_has_a_bar_for_each():
    found = {"median": 0.8, "min": 0.7, "max": 1.2}
    one = {"batch_size": 8, "efficiency": found, "steps_per_s": found, "flop_per_s": found}
    figure = efficiency_bars({"vae": one, "iwae50": one})
    (axes,) = figure.axes
    assert widths(axes) == [0.8, 0.8]
    peer = {"ratio": {"median": 2.5, "min": 2.0, "max": 3.0}, "steps_per_s": found}
    beside = {"iwae50": {**one, "peers": {"torch-eager": peer}}}
    _, ratios = efficiency_bars({"vae": one, **beside}).axes
    assert widths(ratios) == [2.5]
    assert [label.get_text() for label in ratios.get_yticklabels()] == ["iwae50 / torch-eager"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "vae, batch 8",
        "iwae50, batch 8",
    ]
