"""The table of every public name with its exact test, and the planted bug that the same check rejects.

    python -m tests.support.oracle_table            # prints the table
    python -m tests.support.oracle_table --write    # writes the table into tests/ORACLES.md

The rows are written by hand in `tests/oracles.toml`; the names are the library's. Tests are read, not imported.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import jaxvae

TESTS = Path(__file__).parents[1]
ROWS = TESTS / "oracles.toml"
PAGE = TESTS / "ORACLES.md"
PLACE = re.compile(r"(<!-- oracles -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class Row(NamedTuple):
    """The row of a name: its oracle in a few words, and tests as `file::function` below tests/."""

    oracle: str
    test: str
    twin: str
    """The test in which the same check rejects a planted bug; it may be the same test."""


Rows: TypeAlias = dict[str, dict[str, Row | str]]
"""Namespace -> name -> its row, or the reason why it has no number to test."""


# The names of the library.


def namespaces() -> list[str]:
    """Return the public modules; the package itself comes last."""
    found = [m.name for m in pkgutil.iter_modules(jaxvae.__path__) if not m.name.startswith("_")]
    return [*sorted([*found, "models.likelihoods"]), ""]


def exported(module: ModuleType) -> list[str]:
    """Return `__all__`, or the public callables that a module without it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]


def methods(value: Any) -> list[str]:
    """Return the public methods and properties of a named tuple of results; none for other classes and models."""
    if not inspect.isclass(value) or not issubclass(value, tuple) or hasattr(value, "likelihood"):
        return []
    computed = (property, staticmethod, classmethod)
    return [
        name
        for name, member in vars(value).items()
        if not name.startswith("_")
        and name not in value._fields  # pyright: ignore[reportAttributeAccessIssue]
        and (inspect.isfunction(member) or isinstance(member, computed))
    ]


@cache
def public_names() -> dict[str, list[str]]:
    """Return namespace -> names; a name that several export is listed in the first one."""
    seen: set[int] = set()
    names: dict[str, list[str]] = {}
    for space in namespaces():
        module = importlib.import_module(f"jaxvae.{space}".rstrip("."))
        mine: list[str] = []
        for name in exported(module):
            value = getattr(module, name)
            if isinstance(value, ModuleType) or id(value) in seen:
                continue
            if callable(value):  # equal plain numbers may be the same object
                seen.add(id(value))
            mine += [name, *(f"{name}.{method}" for method in methods(value))]
        if mine:
            names[space or "jaxvae"] = mine
    return names


# The definitions in the tests.


class Definitions(NamedTuple):
    """The definitions of a test file, and the origins of its imports."""

    nodes: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str]]
    """Name in this file -> module, and name in that module."""


@cache
def definitions(file: Path) -> Definitions:
    """Parse a file; definitions inside a class belong to the class."""
    nodes: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                nodes.setdefault(name, []).append(node)
            case ast.ImportFrom(module=str(module), names=names):
                imports |= {a.asname or a.name: (module, a.name) for a in names}
            case _:
                for part in ast.walk(node):
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                        nodes.setdefault(part.id, []).append(node)
    return Definitions(nodes, imports)


def words(node: ast.AST) -> Iterator[str]:
    """Yield the names, attributes, arguments and strings of a node; strings may name a factory or an option."""
    for part in ast.walk(node):
        match part:
            case (
                ast.Name(id=word)
                | ast.Attribute(attr=word)
                | ast.arg(arg=word)
                | ast.keyword(arg=str(word))
                | ast.Constant(value=str(word))
            ):
                yield word


def rejects(node: ast.AST) -> bool:
    """Return whether the node expects a check to fail: `raises(AssertionError)`, or `assert not` of a comparison."""
    for part in ast.walk(node):
        match part:
            case ast.Call(func=ast.Attribute(attr="raises"), args=[kind, *_]):
                if "AssertionError" in words(kind):
                    return True
            case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=denied)):
                if any(word in COMPARISONS or word.startswith("check") for word in words(denied)):
                    return True
    return False


COMPARISONS = {"all", "allclose", "isclose", "passed"}


class Reach(NamedTuple):
    """The words in a definition, and whether it rejects something; for a test, including all that it uses."""

    words: frozenset[str]
    checks: frozenset[str]
    """The functions whose names start with `check`."""
    rejects: bool


@cache
def here(file: Path, name: str) -> Reach:
    """Return the reach of one definition alone, without the definitions that it uses."""
    nodes = definitions(file).nodes.get(name, [])
    checks = {f"{file}::{name}"} if nodes and name.startswith("check") else set()
    spoken = frozenset(word for node in nodes for word in words(node))
    return Reach(spoken, frozenset(checks), any(map(rejects, nodes)))


@cache
def reach(file: Path, function: str) -> Reach:
    """Follow a test through the definitions that it names, here and in other test files."""
    seen, ahead, imported = set[tuple[Path, str]](), [(file, function)], set[str]()
    while ahead:
        at = ahead.pop()
        if at in seen or not at[0].is_file():
            continue
        seen.add(at)
        nodes, imports = definitions(at[0])
        spoken = here(*at).words
        ahead += [(at[0], word) for word in spoken & nodes.keys()]
        for module, name in (imports[word] for word in spoken & imports.keys()):
            imported.add(name)
            if module.startswith("tests"):
                ahead.append((_file(module), name))
                inner = _file(f"{module}.{name}")  # if the import is a module
                ahead += [(inner, word) for word in spoken if inner.is_file()]
    every = [here(*at) for at in seen]
    return Reach(
        frozenset(imported).union(*(part.words for part in every)),
        frozenset[str]().union(*(part.checks for part in every)),
        any(part.rejects for part in every),
    )


@cache
def _file(module: str) -> Path:
    return TESTS.joinpath(*module.split(".")[1:]).with_suffix(".py")


# The table.


def read_rows(text: str) -> Rows:
    """Parse the rows of the TOML text, in which the twin, or the twin's file, may be left out.

    `name = ["oracle", "file::test", "twin"]` has the twin in the same file, `["oracle", "file::test"]` in the same
    test; `name = "reason"` is a name without a number to test.
    """

    def row(oracle: str, test: str, twin: str = "") -> Row:
        file = test.partition("::")[0]
        return Row(oracle, test, twin if "::" in twin else f"{file}::{twin}" if twin else test)

    return {
        space: {name: cell if isinstance(cell, str) else row(*cell) for name, cell in rows.items()}
        for space, rows in tomllib.loads(text).items()
    }


def offences(names: dict[str, list[str]], rows: Rows) -> list[str]:
    """Return one line for each error in the rows, which begins with the name."""
    found = []
    for space in sorted(names.keys() | rows.keys()):
        mine, theirs = names.get(space, []), rows.get(space, {})
        lines = {name: ["no row in tests/oracles.toml"] for name in mine if name not in theirs}
        lines |= {name: ["no such name"] for name in theirs if name not in mine}
        lines |= {name: list(_amiss(name, theirs[name])) for name in mine if name in theirs}
        found += [f"{space}.{name}: {line}" for name, said in lines.items() for line in said]
    return found


def _amiss(name: str, cell: Row | str) -> Iterator[str]:
    """Yield the errors in the row of an existing name."""
    if isinstance(cell, str):
        if not cell.strip():
            yield "no reason"
        return
    if not cell.oracle.strip():
        yield "no oracle"
    reached = []
    for node in (cell.test, cell.twin):
        file, _, function = node.partition("::")
        path = TESTS / file
        if (
            not path.is_file()
            or not function.startswith("test_")
            or function not in definitions(path).nodes
        ):
            yield f"no test {node}"
        else:
            reached.append(reach(path, function))
    if len(reached) < 2:
        return
    test, twin = reached
    if name.rpartition(".")[2] not in test.words:
        yield f"{cell.test} does not use it"
    if not twin.rejects:
        yield f"{cell.twin} rejects nothing"
    if cell.test != cell.twin and not test.checks & twin.checks:
        yield f"{cell.twin} has no check in common with {cell.test}"


def table(rows: Rows) -> str:
    """Return Markdown: for each namespace the table of its names, and a list of those without a number."""
    parts = []
    for space, cells in rows.items():
        lines = [f"### {space}", ""]
        proved = {name: cell for name, cell in cells.items() if isinstance(cell, Row)}
        if proved:
            lines += ["| name | oracle | test | twin |", "|---|---|---|---|"]
            lines += [f"| `{name}` | {' | '.join(_cells(row))} |" for name, row in proved.items()]
            lines.append("")
        reasons: dict[str, list[str]] = {}
        for name, cell in cells.items():
            if isinstance(cell, str):
                reasons.setdefault(cell, []).append(f"`{name}`")
        for why, these in reasons.items():
            lines += [f"No number of its own, {why}: {', '.join(these)}.", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _cells(row: Row) -> tuple[str, str, str]:
    file, _, function = row.twin.partition("::")
    same_file = row.test.startswith(f"{file}::")
    twin = "the same" if row.twin == row.test else f"`{function if same_file else row.twin}`"
    return row.oracle, f"`{row.test}`", twin


def main(*options: str) -> None:
    """Print the table, or write it into tests/ORACLES.md."""
    made = table(read_rows(ROWS.read_text()))
    if "--write" not in options:
        print(made)
        return
    text, places = PLACE.subn(lambda found: f"{found[1]}{made}{found[3]}", PAGE.read_text())
    assert places == 1, f"{PAGE.name} has no place for the table"
    PAGE.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
