"""Packages: imports run downward, torch begins at the compiler, no module hides a public function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import nas_agg
import nas_agg.errors

PACKAGE = Path(nas_agg.__file__).parent

#: The packages from the bottom up; each imports only from itself and from those before it.
PACKAGES = (
    "common",
    "graph",
    "language",
    "expansion",
    "search_space",
    "training.recipes",
    "training.metrics",
    "compiler.remat",
    "compiler",
    "compiler.codegen.ir",
    "compiler.codegen.classes",
    "compiler.codegen",
    "training",
    "study.definition",
    "study.tables",
    "study.samplers",
    "study.records",
    "study.scheduling",
    "study.workers",
    "study.function_workers",
    "study.remote",
    "study.clusters",
    "study",
    "report",
    "report.runs",
    "report.html",
    "loggers",
    "integrations",
    "",  # nas_agg itself, nas_agg.errors and nas_agg.testing: the public API
    "cli",
)
WITHOUT_TORCH = PACKAGES[: PACKAGES.index("compiler.remat")]


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name without ``nas_agg.``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."), path


NAMES = {name for name, _ in modules()}


def package_of(module: str) -> str:
    """The package of a module."""
    if module == "__main__":
        return "cli"
    parts = module.split(".")
    packages = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((package for package in packages if package in PACKAGES), "")


def imported(text: str) -> Iterator[tuple[str, int]]:
    """What a module imports, those for annotations alone included, with the line: dotted names."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full.removeprefix("nas_agg.") in NAMES else node.module), node.lineno


def upward(module: str, text: str) -> list[str]:
    """The imports of a module that run up."""
    own = PACKAGES.index(package_of(module))
    return [
        f"{module}:{line} imports {name}"
        for name, line in imported(text)
        if name.split(".")[0] == "nas_agg"
        and PACKAGES.index(package_of(name.removeprefix("nas_agg").lstrip("."))) > own
    ]


def test_imports_run_downward():
    assert [line for name, path in modules() for line in upward(name, path.read_text())] == []


def test_an_upward_import_is_seen():
    planted = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nas_agg.study.engine.run import run_search\n"
    )
    assert upward("language.genotype", planted) == ["language.genotype:3 imports nas_agg.study.engine.run"]
    assert upward("study.coordinator", planted) == []


def test_torch_begins_at_the_compiler():
    for name, path in modules():
        if package_of(name) in WITHOUT_TORCH:
            roots = {imported_name.split(".")[0] for imported_name, _ in imported(path.read_text())}
            assert not roots & {"torch", "torchvision"}, name


def test_no_cycles():
    edges = {
        name: {
            other.removeprefix("nas_agg.")
            for other, _ in imported(path.read_text())
            if other.startswith("nas_agg.") and other.removeprefix("nas_agg.") != name
        }
        for name, path in modules()
        if name
    }
    graph = networkx.DiGraph((name, other) for name, others in edges.items() for other in others)
    cycles = [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1]
    assert cycles == []


@pytest.mark.parametrize("package", [package for package in PACKAGES if package] + ["."])
def test_packages_are_small_and_documented(package):
    folder = PACKAGE.joinpath(*package.split(".")) if package != "." else PACKAGE
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= 16
    document = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert document and len(document) > 40


def test_the_public_names():
    assert [name for name in dir(nas_agg) if not name.startswith("_")] == sorted(nas_agg.__all__)
    assert all(getattr(nas_agg.errors, name) is getattr(nas_agg, name) for name in nas_agg.errors.__all__)
    assert set(nas_agg.errors.__all__) < set(nas_agg.__all__)


def test_no_module_hides_a_public_function():
    for name, path in modules():
        if path.name != "__init__.py":
            continue
        body = ast.parse(path.read_text()).body
        public = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                public |= set(ast.literal_eval(node.value))
        beside = {other.removeprefix(f"{name}.") for other in NAMES if other.startswith(f"{name}." if name else "")}
        assert not public & beside, name
