"""The shape of the library: which way imports point, what importing costs, what is documented."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxvae

PACKAGE = Path(jaxvae.__file__).parent

ORDER = [
    "types",
    "placement",
    "hosts",
    "distributions",
    "binding",
    "bounds",
    "sampling",
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

ALLOWED = {"data": {"types"}}
"""Modules that may import less than the order grants."""

FORBIDDEN = {("evaluation", "training"), ("evaluation", "parallel")}

LAZY = ("matplotlib", "tensorflow_datasets", "orbax", "sklearn", "tyro", "tensorboardX", "grain")


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    """The first name below the package: its module or folder."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(tree):
    """The parts of jaxvae that a module imports, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            whole = node.module == "jaxvae"
            names = [f"jaxvae.{a.name}" for a in node.names] if whole else [node.module]
        else:
            continue
        for name in names:
            if name == "jaxvae":
                yield node.lineno, ""
            elif name.startswith("jaxvae."):
                yield node.lineno, name.split(".")[1]


def check_imports(part, tree):
    for line, imported in imported_parts(tree):
        if imported == part:
            continue
        where = f"line {line}: imports {imported or 'the whole package'}"
        assert imported in ORDER, where
        assert ORDER.index(imported) < ORDER.index(part), f"{where}, which lies above {part}"
        assert imported in ALLOWED.get(part, ORDER), f"{where}, may only {ALLOWED.get(part)}"
        assert (part, imported) not in FORBIDDEN, where


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    if path.parent == PACKAGE and path.stem.startswith("__"):
        return
    part = part_of(path)
    assert part in ORDER, f"{part} has no place in ORDER"
    check_imports(part, ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("bounds", "import jaxvae"),
        ("bounds", "from jaxvae import objectives"),
        ("objectives", "def f():\n    from jaxvae.models.vae import VAE"),
        ("evaluation", "import jaxvae.training.step"),
        ("data", "from jaxvae.batching import fold_each"),
        ("models", "from .vae import VAE"),
    ],
)
def test_check_of_imports_rejects(part, line):
    with pytest.raises(AssertionError):
        check_imports(part, ast.parse(line))


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


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    silent = [name for name, node in public(tree) if not ast.get_docstring(node)]
    assert not silent, f"no docstring: {silent}"


def test_no_file_leaves_something_to_be_done():
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    marked = [str(path) for path in sources() if marks.search(path.read_text())]
    assert not marked


def module_names():
    names = [module.name for module in pkgutil.walk_packages(jaxvae.__path__, "jaxvae.")]
    return ["jaxvae", *(name for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", module_names())
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples failed"


def test_some_examples_are_run():
    assert doctest.testmod(importlib.import_module("jaxvae.bounds")).attempted >= 2


def test_what_is_exported_exists():
    for name in module_names():
        module = importlib.import_module(name)
        for exported in getattr(module, "__all__", ()):
            assert hasattr(module, exported), f"{name}.{exported}"
