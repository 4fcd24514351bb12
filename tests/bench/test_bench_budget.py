"""A budget of seconds is kept, what it does not allow is said, and what there is is written: at the deadline, after a signal."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxvae.bench import Deadline, measure, rounds
from jaxvae.bench.ceiling import Ceiling, square_product
from jaxvae.bench.findings import Findings
from jaxvae.bench.start_up import DidNotEnd, start_up
from jaxvae.bench.suites import Part, Suite, run_parts
from jaxvae.bench.workloads import WORKLOADS, Job, draw_rows
from jaxvae.cli.bench import deadlines, in_time
from jaxvae.cli.limit import process_begun
from jaxvae.types import InputError
from tests.support.refusals import refusal, refused


class Clock:
    """Seconds that only the test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_deadline():
    clock = Clock()
    deadline = Deadline(10.0, begun=-4.0, clock=clock)
    assert deadline.left() == 6
    assert (deadline.allows(5.9), deadline.allows(6.0)) == (True, False)
    clock.now = 7.0
    assert deadline.left() == -1
    assert not deadline.allows(-0.5)
    assert Deadline().allows(1e9)


def parts_of(clock, *seconds):
    """Parts that take as long as they say, and note that they ran."""
    ran = []

    def run(number, takes):
        ran.append(number)
        clock.now += takes

    return [
        Part(f"part {i}", takes, lambda i=i, takes=takes: run(i, takes))
        for i, takes in enumerate(seconds)
    ], ran


def test_parts_that_do_not_fit_are_left_out_and_said():
    clock = Clock()
    parts, ran = parts_of(clock, 5, 20, 4)
    findings = Findings({})
    run_parts(parts, findings, Deadline(12.0, clock=clock))
    assert ran == [0, 2]  # by importance; a short one may still fit
    assert findings.record()["left_out"] == [
        "part 1: left out: it needs 20 s or more, 7 s are left"
    ]
    parts, ran = parts_of(clock, 5, 20, 4)
    run_parts(parts, everything := Findings({}), Deadline(clock=clock))
    assert (ran, everything.record()["left_out"]) == ([0, 1, 2], [])


def test_a_part_that_fails_costs_only_itself(tmp_path):
    def fails():
        raise RuntimeError("out of\nmemory")

    def refuses():
        raise InputError("rounds: expected more")

    good = Part("good", 0, lambda: None)
    findings = Findings({}, tmp_path / "found.json")
    run_parts([Part("bad", 0, fails), good], findings, Deadline())
    written = json.loads(findings.path.read_text())
    assert written["left_out"] == ["bad: left out: RuntimeError: out of memory"]
    assert written["seconds"].keys() == {"bad", "good"}
    with pytest.raises(RuntimeError, match="out of"):  # nothing was measured at all
        run_parts([Part("bad", 0, fails)], Findings({}), Deadline())
    with refusal():
        run_parts([good, Part("bad", 0, refuses)], Findings({}), Deadline())


def test_parts_are_merged():
    findings = Findings({"workloads": {}, "kept": 1})
    findings.put(workloads={"vae": 1}, matmul=2)
    findings.put(workloads={"evaluation": 3})
    assert findings.record() == {
        "workloads": {"vae": 1, "evaluation": 3},
        "matmul": 2,
        "kept": 1,
        "left_out": [],
    }


def test_the_file_is_whole_at_any_time(tmp_path):
    """Read a hundred times while it is written; nothing else is left in its folder."""
    findings = Findings({"numbers": list(range(2000))}, tmp_path / "found.json")
    findings.write()
    stop = threading.Event()

    def write():
        while not stop.is_set():
            findings.put(more=time.monotonic())
            findings.write()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            assert json.loads(findings.path.read_text())["numbers"][-1] == 1999
    finally:
        stop.set()
        writer.join()
    assert os.listdir(tmp_path) == ["found.json"]
    gone = Findings({}, tmp_path / "missing" / "found.json")
    with refused("out", "cannot write to"):
        gone.write()


@pytest.fixture
def stand_in(monkeypatch):
    """Workloads that take 10 s to compile and 1 s a step, and so do their products, by a clock."""
    clock = Clock()

    def run(steps):
        clock.now += steps
        return steps

    def prepare(size, rows, precision):
        clock.now += 10
        return Job(run, size, 10.0, 1, square_product("float32", 8))

    for name in ("vae", "ssvae", "hierarchical"):
        monkeypatch.setitem(WORKLOADS, name, WORKLOADS[name]._replace(prepare=prepare))
    monkeypatch.setattr(rounds, "prepare_ceiling", lambda _: Ceiling(run, 8, "float32", 1024))
    monkeypatch.setattr(rounds, "compile_alone", lambda *_: run)
    monkeypatch.setattr("jaxvae.bench.turns.time.perf_counter", clock)
    monkeypatch.setattr("jaxvae.bench.rounds.time.monotonic", clock)
    return clock


def test_workloads_that_do_not_fit_are_left_out(stand_in):
    said = []
    how = {"rounds": 2, "seconds_a_round": 2.0, "batch_size": 2}
    names = ["vae", "ssvae", "hierarchical"]
    # Two rounds, and as much for finding numbers of steps: 4 s for the large product, 12 s a workload.
    deadline = Deadline(45.0, clock=stand_in)
    found = measure(names, draw_rows(3), **how, deadline=deadline, leave_out=said.append)
    assert list(found["workloads"]) == ["vae"]
    assert found["workloads"]["vae"]["rounds"] == 2
    assert said == [
        f"{name} in float32: left out: no time to compile and to time it" for name in names[1:]
    ]
    assert deadline.left() >= 0
    everything = measure(names, draw_rows(3), **how)
    assert list(everything["workloads"]) == names


def test_rounds_that_do_not_fit_are_left_out(stand_in, monkeypatch):
    """The estimate is far too low here, so that rounds have to be given up."""
    monkeypatch.setattr("jaxvae.bench.rounds.Rounds.needs", lambda self, more=0: 0.0)
    said, published = [], []
    how = {"rounds": 9, "seconds_a_round": 4.0, "batch_size": 2}
    deadline = Deadline(45.0, clock=stand_in)
    found = measure(
        ["vae"],
        draw_rows(3),
        **how,
        deadline=deadline,
        leave_out=said.append,
        publish=published.append,
    )
    done = found["workloads"]["vae"]["rounds"]
    assert 1 <= done < 9
    assert len(published) == done
    assert said == [f"rounds {done + 1} to 9 in float32: left out: no time"]
    assert deadline.left() >= 0


def test_what_cannot_be_interrupted_is_not_waited_for():
    forever = threading.Event()
    deadline = Deadline()
    begin = time.monotonic()
    assert not in_time(forever.wait, deadline, Deadline(0.3), [])
    assert time.monotonic() - begin < 10
    forever.set()
    assert in_time(lambda: None, deadline, Deadline(), [])
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 / 0, deadline, Deadline(), [])


def test_a_signal_stops_the_deadline():
    deadline, caught = Deadline(), []

    def work():
        caught.append(signal.SIGTERM)
        while deadline.allows(0):
            time.sleep(0.01)

    assert in_time(work, deadline, Deadline(), caught)
    assert not deadline.allows(0)
    findings = Findings({})
    parts, ran = parts_of(Clock(), 0, 0)
    run_parts(parts, findings, deadline)
    assert (ran, findings.waiting) == ([], ["part 0", "part 1"])


def test_something_is_kept_for_the_end():
    now = time.monotonic()
    deadline, last = deadlines(400.0, now)
    assert deadline.left() == pytest.approx(392, abs=1)
    assert last.left() == pytest.approx(395, abs=1)
    deadline, last = deadlines(400.0, now - 20)  # it took twenty seconds to start
    assert deadline.left() == pytest.approx(357, abs=1)
    assert last.left() == pytest.approx(360, abs=1)
    deadline, last = deadlines(8.0, now)
    assert 0 < deadline.left() < last.left() < 7
    assert deadlines(None, now)[0].allows(1e9)


def test_since_when_a_process_runs():
    code = "import time\ntime.sleep(0.5)\nfrom jaxvae.cli.limit import process_begun\n"
    code += "print(time.monotonic() - process_begun())"
    begin = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 < float(said.stdout) < time.monotonic() - begin + 0.1
    assert process_begun() < time.monotonic()


SMALL = """
import sys
from jaxvae.bench import ceiling
from jaxvae.bench.workloads import LAYERS, Layers, draw_rows
from jaxvae.cli import bench, main
ceiling.SIZES = {"cpu": 16}
LAYERS["vae"] = LAYERS["iwae50"] = LAYERS["iwae50_128"] = Layers(6, 2, 3)
bench.draw_rows = lambda: draw_rows(300)
bench.GRACE_S = 60.0
main()
"""


def bench_process(path, options):
    command = [sys.executable, "-c", SMALL, "bench", *options.split(), "--out", str(path)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


@pytest.mark.slow
def test_a_signal_leaves_the_rounds_so_far(tmp_path):
    path = tmp_path / "found.json"
    options = "--workloads vae --batch-size 4 --rounds 10000 --seconds-a-round 0.01"
    process = bench_process(path, options)
    for line in process.stderr:
        if line.startswith("round 2/10000"):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    record = json.loads(path.read_text())
    assert 2 <= record["workloads"]["vae"]["rounds"] < 10000
    assert record["left_out"][-1] == "the rest: left out: stopped by SIGTERM"
    assert "the rest: left out: stopped by SIGTERM" in out
    assert f"numbers: {path}" in out


def test_a_budget_that_allows_nothing(tmp_path):
    """Nothing fits into half a second: it ends by itself with status 0, and says what is missing."""
    path = tmp_path / "found.json"
    options = (
        "--workloads vae --batch-size 4 --rounds 1 --seconds-a-round 0.01 --budget-seconds 0.5"
    )
    process = bench_process(path, options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    record = json.loads(path.read_text())
    assert record["workloads"] == {}
    assert record["left_out"]
    assert record["left_out"][-1] in out
    assert record["settings"]["budget_seconds"] == 0.5


def test_the_suite_for_a_device(monkeypatch):
    """Both precisions first, the steps that matter most at the front of each, then all the rest."""
    suite = Suite(Findings({}), Deadline(), draw_rows(3), 1, 0.01, sys.executable, print)
    names = [part.name for part in suite.device()]
    assert names[:2] == ["float32", "bfloat16"]
    assert set(names[2:]) == {"start_up", "ways", "evaluation", "seeds of iwae50", "seeds of vae"}
    asked = []

    def measured(names, rows, **options):
        asked.append((list(names), options.get("precision", "float32"), options.get("peers")))
        return {"workloads": {name: {} for name in names}, "peers_left_out": []}

    monkeypatch.setattr("jaxvae.bench.suites.measure", measured)
    monkeypatch.setattr("jaxvae.bench.suites.start_up", lambda **_: {"seconds": 1.0})
    monkeypatch.setattr("jaxvae.bench.suites.ways_on_one_device", lambda *_, **__: {"jit": {}})
    monkeypatch.setattr(
        "jaxvae.bench.suites.seeds", lambda names, *, models, **_: {names[0]: models}
    )
    run_parts(suite.device(), suite.findings, suite.deadline)
    main = ["vae", "iwae50", "iwae50_128"]
    assert [each[:2] for each in asked] == [
        (main, "float32"),
        (main, "bfloat16"),
        (["evaluation"], "float32"),
    ]
    assert asked[0][2] is True
    record = suite.findings.record()
    assert list(record["workloads"]) == [*main, "evaluation"]
    assert list(record["bfloat16"]["workloads"]) == main
    assert record["seeds"] == {"iwae50": (8, 32), "vae": (8, 32)}
    assert record["start_up"] == {"seconds": 1.0}
    assert record["left_out"] == []


@pytest.mark.slow
def test_start_up_is_timed_and_ended_in_time(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    found = start_up(["--total-steps", "20"])
    assert found["command"] == "jaxvae train --total-steps 20"
    assert 0 < found["first_record_s"] < found["seconds"]
    with pytest.raises(DidNotEnd, match="the time was up"):
        start_up(deadline=Deadline(0.0))
    with pytest.raises(DidNotEnd, match="total_steps"):
        start_up(["--total-steps", "0"])
