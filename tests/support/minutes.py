"""The processor seconds of every test, and a table of the test files that take most.

    python -m pytest --minutes minutes.jsonl
    python -m tests.support.minutes minutes.jsonl            # prints the table
    python -m tests.support.minutes minutes.jsonl --write    # writes the table into CONTRIBUTING.md

It is processor time, including that of processes that a test starts and waits for, because it does not
depend on the load of the machine.
"""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

REST = "(starting, importing, collecting)"
SHOWN = 15
PLACE = re.compile(r"(<!-- minutes -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def spent() -> float:
    """Return the processor seconds of this process and of the children that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Clock:
    """A pytest plugin that writes a line `[test, seconds]` after each test, and the remaining seconds at the end."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).resolve()  # a test may change the folder
        self.counted = 0.0

    def write(self, name: str, seconds: float) -> None:
        """Append one line; several processes may write to the file at once."""
        self.counted += seconds
        with self.path.open("a") as file:
            file.write(json.dumps([name, round(seconds, 3)]) + "\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """Count one test, with the set-up and tear-down of the fixtures that run for it."""
        begin = spent()
        try:
            return (yield)
        finally:
            self.write(item.nodeid, spent() - begin)

    def pytest_sessionfinish(self):
        """Count the seconds that belong to no test."""
        self.write(REST, spent() - self.counted)


def pytest_addoption(parser):
    """Add `--minutes FILE`."""
    parser.addoption("--minutes", metavar="FILE", help="append processor seconds of every test")


def pytest_configure(config):
    """Start the clock in the processes that run tests: with xdist, the workers."""
    path = config.getoption("--minutes")
    deals_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if path and not deals_out:
        config.pluginmanager.register(Clock(path), "minutes")


def table(lines: list[str]) -> str:
    """Return a Markdown table: the minutes of the files that take most, of the others, and of all."""
    seconds, tests = Counter(), Counter()
    for name, taken in map(json.loads, lines):
        file = name.partition("::")[0]
        seconds[file] += taken
        tests[file] += file != REST
    shown = [(f"`{file}`", tests[file], taken) for file, taken in seconds.most_common(SHOWN)]
    others = [file for file, _ in seconds.most_common()[SHOWN:]]
    rows = [
        *shown,
        (f"{len(others)} others", sum(map(tests.get, others)), sum(map(seconds.get, others))),
        ("**all**", tests.total(), seconds.total()),
    ]
    head = "| file | tests | processor minutes |\n|---|---:|---:|\n"
    return head + "\n".join(f"| {name} | {n} | {taken / 60:.1f} |" for name, n, taken in rows)


def main(path: str, *options: str) -> None:
    """Print the table, or write it into CONTRIBUTING.md."""
    made = table(Path(path).read_text().splitlines())
    if "--write" not in options:
        print(made)
        return
    text, places = PLACE.subn(
        lambda found: f"{found[1]}{made}\n{found[3]}", CONTRIBUTING.read_text()
    )
    assert places == 1, "CONTRIBUTING.md has no place for the table"
    CONTRIBUTING.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
