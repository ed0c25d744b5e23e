"""Imports run one way: bin -> pipelines, engine; pipelines -> engine.specs; and in no circles."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "pipelines", "bin")
SLOW = {"tensorflow", "keras", "tensorflow_datasets", "tensorboard", "matplotlib"}

# Those that hold a table, or that are read before a mistyped flag is answered.
LIGHT = (
    *("engine.specs", "engine.calls", "engine.errors", "engine.conversion", "engine.recipes"),
    *("engine.backbones", "engine.optimizers", "engine.schedules", "engine.rundir"),
    *("engine.answer_file", "engine.answer_formats"),
    *("pipelines.augment", "pipelines.sources", "pipelines.pictures"),
    *("bin._flags", "bin._command_line", "bin._setup", "bin.train", "bin.evaluate", "bin.predict"),
    *("bin._bulk", "bin.serve", "bin.export"),
)


def modules() -> dict[str, Path]:
    """Every module and program by its name, such as engine.specs or bin.train."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix in (".py", ""):
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


MODULES = modules()


def nodes(body: list[ast.stmt], within_functions: bool) -> Iterator[ast.stmt]:
    """The import statements, less those for type checkers only."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from nodes(statement.orelse, within_functions)
            continue
        if isinstance(statement, ast.FunctionDef) and not within_functions:
            continue
        for inner in ("body", "orelse", "handlers", "finalbody"):
            yield from nodes(getattr(statement, inner, []), within_functions)


def imports(source: str, within_functions: bool = True) -> set[str]:
    """Names of the modules that a source imports, as far as they are told from other names."""
    found = set()
    for node in nodes(ast.parse(source).body, within_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, "relative imports hide where they go"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            found.add(inner if inner in MODULES else node.module)
    return {f"bin.{name}" if f"bin.{name}" in MODULES else name for name in found}


def of_module(name: str, within_functions: bool = True) -> set[str]:
    return imports(MODULES[name].read_text(), within_functions)


def top(name: str) -> str:
    return name.split(".")[0]


def offence(importer: str, imported: str) -> bool:
    """Whether this import runs against the order."""
    if importer.startswith("engine."):
        return top(imported) in ("pipelines", "bin", "absl")
    if importer.startswith("pipelines."):
        inside = top(imported) == "engine" and imported != "engine.specs"
        return inside or top(imported) in ("bin", "absl")
    return False


def reached(start: str) -> dict[str, set[str]]:
    """What is read when a module is imported: our modules, each with all that it imports."""
    found: dict[str, set[str]] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in found:
            found[name] = of_module(name, within_functions=False)
            waiting += found[name]
    return found


def test_the_reader_of_imports_sees_them_all():
    """Else the tests below would pass on anything."""
    source = """
import a.b, c as d
from engine import specs, nothing
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from engine import loop
else:
    import e
try:
    import f
except ImportError:
    import g
class K:
    import h
    def method(self):
        with x:
            import _flags
def function():
    import keras
"""
    outside = {"a.b", "c", "engine.specs", "engine", "typing", "e", "f", "g", "h"}
    assert imports(source, within_functions=False) == outside
    assert imports(source) == outside | {"bin._flags", "keras"}
    assert {"engine.loop", "pipelines.batches", "bin._flags", "bin.train"} <= MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    assert not [imported for imported in of_module(name) if offence(name, imported)]


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("engine.loop", "pipelines.batches", True),
        ("engine.loop", "absl.flags", True),
        ("engine.loop", "bin._flags", True),
        ("engine.loop", "engine.steps", False),
        ("pipelines.batches", "engine.steps", True),
        ("pipelines.batches", "engine", True),
        ("pipelines.batches", "engine.specs", False),
        ("pipelines.batches", "bin._flags", True),
        ("bin.train", "engine.loop", False),
    ],
)
def test_what_is_an_offence(importer, imported, expected):
    assert offence(importer, imported) == expected


@pytest.mark.parametrize("package", ["engine", "pipelines"])
def test_nothing_goes_in_circles(package):
    mine = [name for name in MODULES if top(name) == package]
    graph = {name: of_module(name) & set(mine) for name in mine}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names a circle
    assert set(order) == set(mine)


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_module_brings_nothing_slow(name):
    slow = {
        f"{module} imports {imported}"
        for module, imported_there in reached(name).items()
        for imported in imported_there
        if top(imported) in SLOW
    }
    assert not slow


def test_the_ground_needs_the_standard_library_only():
    outside = {top(name) for found in reached("engine.specs").values() for name in found}
    assert outside - {"engine"} <= sys.stdlib_module_names


def test_flags_are_read_without_tensorflow():
    code = f"import sys, _flags, _setup; print(sorted({SLOW!r} & set(sys.modules)))"
    folders = {"PYTHONPATH": f"{ROOT}:{ROOT / 'bin'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=folders, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
