"""The shape of the library: which way imports point, what importing costs, what is documented."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import jaxvae

PACKAGE = Path(jaxvae.__file__).parent

ORDER = [
    "types",
    "checks",
    "keys",
    "compiling",
    "placement",
    "hosts",
    "distributions",
    "binding",
    "bounds",
    "log_weights",
    "relaxations",
    "gradients",
    "objectives",
    "batching",
    "autonomous",
    "semi_supervised",
    "rows",
    "networks",
    "coupled",
    "models",
    "inference",
    "training",
    "parallel",
    "evaluation",
    "testing",
    "data",
    "runs",
    "bench",
    "reports",
    "cli",
]
"""Every module may import those above it."""

ALLOWED = {"data": {"types", "checks"}}
"""Modules that may import less than the order grants."""

FORBIDDEN = {("evaluation", "training"), ("evaluation", "parallel")}

LAZY = ("matplotlib", "tensorflow_datasets", "orbax", "sklearn", "tyro", "tensorboardX", "grain")


def sources():
    return sorted(PACKAGE.rglob("*.py"))


@cache
def trees():
    """Every module, parsed."""
    return {path: ast.parse(path.read_text()) for path in sources()}


def part_of(path):
    """The first name below the package: its module or folder."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(tree):
    """The parts of jaxvae that a module imports, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "a neighbour by a relative name"
                continue
            whole = node.module == "jaxvae"
            names = [f"jaxvae.{a.name}" for a in node.names] if whole else [node.module]
        else:
            continue
        for name in names:
            if name == "jaxvae":
                yield node.lineno, ""
            elif name.startswith("jaxvae."):
                yield node.lineno, name.split(".")[1]


def wrong_imports(part, tree):
    return [
        f"line {line}: imports {imported or 'the whole package'}"
        for line, imported in imported_parts(tree)
        if imported != part and not may_import(part, imported)
    ]


def may_import(part, imported):
    """It lies below, nothing forbids it, and what may import little may import this."""
    below = imported in ORDER[: ORDER.index(part)]
    return below and imported in ALLOWED.get(part, ORDER) and (part, imported) not in FORBIDDEN


def offences(path):
    """What a module imports that it may not."""
    part = part_of(path)
    if path.parent == PACKAGE and path.stem.startswith("__"):
        return []
    if part not in ORDER:
        return [f"{part} has no place in ORDER"]
    return wrong_imports(part, trees()[path])


def test_imports_point_down():
    found = {str(path.relative_to(PACKAGE)): offences(path) for path in sources()}
    assert not {path: wrong for path, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("bounds", "import jaxvae"),
        ("bounds", "from jaxvae import objectives"),
        ("objectives", "def f():\n    from jaxvae.models.vae import VAE"),
        ("evaluation", "import jaxvae.training.step"),
        ("data", "from jaxvae.keys import fold_each"),
        ("models", "from .vae import VAE"),
    ],
)
def test_check_of_imports_rejects(part, line):
    assert wrong_imports(part, ast.parse(line))


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys; {{}}; print([name for name in {LAZY} if name in sys.modules])"
    assert run_python(code.format("import jaxvae")).stdout.strip() == "[]"
    assert run_python(code.format("import sklearn")).stdout.strip() == "['sklearn']"


def public(tree, prefix=""):
    """Public functions, classes and methods; a method inherits the text of what it overrides."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


def silent(tree):
    """What has no docstring, the module itself among it."""
    named = [("the module", tree), *public(tree)]
    return [name for name, node in named if not ast.get_docstring(node)]


def test_everything_public_says_what_it_does():
    found = {str(path.relative_to(PACKAGE)): silent(tree) for path, tree in trees().items()}
    assert not {path: names for path, names in found.items() if names}


def test_check_of_docstrings_rejects():
    assert silent(ast.parse("class A:\n    def f(self):\n        pass")) == [
        "the module",
        "A",
        "A.f",
    ]


def test_no_file_leaves_something_to_be_done():
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    marked = [str(path) for path in sources() if marks.search(path.read_text())]
    assert not marked


def module_names():
    names = [module.name for module in pkgutil.walk_packages(jaxvae.__path__, "jaxvae.")]
    return ["jaxvae", *(name for name in names if not name.endswith("__main__"))]


def test_examples_of_the_bounds_run():
    result = doctest.testmod(importlib.import_module("jaxvae.bounds"))
    assert not result.failed
    assert result.attempted >= 2


@pytest.mark.slow
def test_examples_in_docstrings_run():
    results = {name: doctest.testmod(importlib.import_module(name)) for name in module_names()}
    assert not {name: result for name, result in results.items() if result.failed}


def test_what_is_exported_exists():
    for name in module_names():
        module = importlib.import_module(name)
        for exported in getattr(module, "__all__", ()):
            assert hasattr(module, exported), f"{name}.{exported}"
