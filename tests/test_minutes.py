"""The clock of `--minutes` and its table."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.support import minutes
from tests.support.minutes import REST, Clock, table

BURN = "import time\nwhile time.process_time() < 0.5: pass"


def timed(clock, name, work):
    wrapper = clock.pytest_runtest_protocol(SimpleNamespace(nodeid=name))
    next(wrapper)
    work()
    try:
        wrapper.send(None)
    except StopIteration:
        return


def test_the_clock_counts_what_a_test_starts(tmp_path):
    path = tmp_path / "minutes.jsonl"
    clock = Clock(str(path))
    timed(clock, "a.py::busy", lambda: subprocess.run([sys.executable, "-c", BURN], check=True))
    timed(clock, "a.py::idle", lambda: None)
    clock.pytest_sessionfinish()
    (busy, taken), (idle, nothing), (rest, _) = map(json.loads, path.read_text().splitlines())
    assert (busy, idle, rest) == ("a.py::busy", "a.py::idle", REST)
    assert taken > 0.4  # clocks tick in hundredths
    assert nothing < 0.1


def test_the_table_adds_up():
    lines = [json.dumps([f"f{i}.py::test", 60.0 * i]) for i in range(1, 18)]
    lines += [json.dumps(["f17.py::other[a::b]", 30.0]), json.dumps([REST, 60.0])]
    rows = table(lines).splitlines()
    assert rows[2] == "| `f17.py` | 2 | 17.5 |"
    assert len(rows) == 2 + 15 + 2
    assert rows[-2] == "| 3 others | 2 | 4.0 |"  # 1 and 2 minutes, and what belongs to no test
    assert rows[-1] == "| **all** | 18 | 154.5 |"


def test_the_table_is_written_into_its_place(tmp_path, monkeypatch, capsys):
    page, lines = tmp_path / "page.md", tmp_path / "minutes.jsonl"
    monkeypatch.setattr(minutes, "CONTRIBUTING", page)
    lines.write_text(json.dumps(["a.py::test", 90.0]) + "\n")
    page.write_text("before\n<!-- minutes -->\nold\n<!-- end -->\nafter\n")
    minutes.main(str(lines))
    shown = capsys.readouterr().out.strip()
    assert shown.endswith("| **all** | 1 | 1.5 |")
    minutes.main(str(lines), "--write")
    expected = f"before\n<!-- minutes -->\n{shown}\n<!-- end -->\nafter\n"
    assert page.read_text() == expected
    minutes.main(str(lines), "--write")
    assert page.read_text() == expected
    page.write_text("no place")
    with pytest.raises(AssertionError, match="no place"):
        minutes.main(str(lines), "--write")
