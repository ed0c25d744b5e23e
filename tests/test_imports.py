"""Imports run downward: bin, unfreeze -> engine.cli -> engine.commands -> the rest -> engine.core.

Imports that only a type checker reads count too. `bin/test tests/test_imports.py -s` prints the
levels.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = ("engine", "pipelines", "bin")
SLOW = {"tensorflow", "keras", "tensorflow_datasets", "tensorboard", "matplotlib"}
TOGETHER = ("engine.commands", "engine.cli")  # where engine and pipelines are put together

# What holds a table, or is read before a mistyped flag is answered: it must not import TensorFlow.
LIGHT_PACKAGES = ("engine.core", "engine.cli", "bin")
LIGHT_MODULES = (
    *("engine.models.backbones", "engine.optim.phase_options", "engine.optim.optimizers"),
    *("engine.optim.schedules", "engine.runs.directory", "engine.inference.predictions_file"),
    *("engine.inference.predictions_format", "pipelines.augment.augmentations"),
    *("pipelines.sources.sources", "pipelines.predict.list_inputs", "engine.runtime.hardware"),
    *("engine.benchmark.cloud", "engine.benchmark.compare"),
)


def find_modules() -> dict[str, Path]:
    """Every module and program by its name, such as engine.core.recipe or bin.train."""
    found = {}
    for tree in TREES:
        for path in (ROOT / tree).rglob("*"):
            if path.is_file() and path.suffix in (".py", "") and path.name != "__init__.py":
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    if (ROOT / "unfreeze.py").exists():
        found["unfreeze"] = ROOT / "unfreeze.py"
    return found


MODULES = find_modules()


def imports_of(module: str) -> set[str]:
    """The modules that a module imports anywhere, as far as they are told from other names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they go"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return {f"bin.{name}" if f"bin.{name}" in MODULES else name for name in found}


def package(module: str) -> str:
    """`engine.core` for engine.core.files, `bin` for bin.train."""
    return ".".join(module.split(".")[: 2 if "." in module else 1]).replace("bin.", "bin ")


def tree(module: str) -> str:
    return module.split(".")[0]


def is_within(module: str, *packages: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def offence(importer: str, imported: str) -> str | None:
    """Why this import runs against the order, if it does."""
    if tree(imported) == "absl" and not is_within(importer, "engine.cli"):
        return "only engine.cli reads flags"
    if is_within(importer, "bin", "unfreeze"):
        return None
    if tree(imported) in ("bin", "unfreeze"):
        return "bin and unfreeze are on top"
    if is_within(importer, "pipelines"):
        inside = is_within(imported, "engine") and not is_within(imported, "engine.core")
        return "pipelines imports nothing of the engine but engine.core" if inside else None
    if is_within(imported, "engine.cli") and not is_within(importer, "engine.cli"):
        return "engine.cli is on top of the engine"
    if not is_within(importer, *TOGETHER):
        if is_within(imported, "engine.commands"):
            return "engine.commands is on top of the other packages"
        if is_within(imported, "pipelines"):
            return "only engine.commands and engine.cli import pipelines"
    if is_within(importer, "engine.core") and not is_within(imported, "engine.core"):
        own = tree(imported) in sys.stdlib_module_names
        return None if own else "engine.core needs the standard library only"
    return None


def module_graph() -> dict[str, set[str]]:
    return {name: (imports_of(name) & MODULES.keys()) - {name} for name in MODULES}


def package_graph() -> dict[str, set[str]]:
    """Packages of the engine and of pipelines, each with those that it imports."""
    graph: dict[str, set[str]] = {}
    for name, imported in module_graph().items():
        if tree(name) in ("engine", "pipelines"):
            graph.setdefault(package(name), set()).update(map(package, imported))
    return {name: imported - {name} for name, imported in graph.items()}


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """How many imports lie below each; a CycleError names a circle."""
    found: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[below] for below in graph.get(name, ())), default=0)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_downward_only(name):
    assert not {imported: why for imported in imports_of(name) if (why := offence(name, imported))}


@pytest.mark.parametrize(
    ("importer", "imported", "forbidden"),
    [
        ("engine.training.loop", "pipelines.loading.batches", True),
        ("engine.training.loop", "absl.flags", True),
        ("engine.training.loop", "engine.commands.train", True),
        ("engine.training.loop", "engine.training.train_step", False),
        ("engine.commands.train", "pipelines.loading.batches", False),
        ("engine.commands.train", "engine.cli.flags", True),
        ("engine.commands.train", "absl.flags", True),
        ("engine.core.files", "numpy", True),
        ("engine.core.files", "engine.core.errors", False),
        ("pipelines.loading.batches", "engine.training.train_step", True),
        ("pipelines.loading.batches", "engine", True),
        ("pipelines.loading.batches", "engine.core.recipe", False),
        ("pipelines.loading.batches", "bin._bootstrap", True),
        ("bin.train", "engine.cli.train", False),
    ],
)
def test_offence_is_told_from_allowed_import(importer, imported, forbidden):
    assert bool(offence(importer, imported)) == forbidden


def test_no_modules_import_each_other_in_a_circle():
    print(f"\n{max(levels(module_graph()).values())} levels of modules, no circles")


def test_no_packages_import_each_other_in_a_circle():
    found = levels(package_graph())
    print(f"\n{len(found)} packages on {max(found.values())} levels, no circles")
    for name, level in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {level}  {name}")


def test_no_module_lies_directly_in_a_tree():
    assert [name for name in MODULES if tree(name) != "bin" and name.count(".") == 1] == []


IMPORT_EACH = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name.removeprefix("bin."))
    slow = set(sys.argv[1].split(",")) & set(sys.modules)
    assert not slow, f"{name} imports {slow}"
"""


def test_light_modules_import_nothing_slow():
    inside = (name for name in MODULES if is_within(name, *LIGHT_PACKAGES))
    modules = [name for name in inside if MODULES[name].suffix == ".py"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, ",".join(SLOW), *LIGHT_MODULES, *modules],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'bin'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
