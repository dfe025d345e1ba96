"""The structure of the package, read from its source: imports, length of files, public names."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import ptc_stream

ROOT = Path(ptc_stream.__file__).parent
PACKAGE = ROOT.name

# Imports go from a later line to an earlier one, or stay within one unit; never sideways.
LAYERS = (
    {"errors"},
    {"physics", "records", "ranges"},
    {"codec", "core", "offload_worker"},
    {"images", "bus", "offload"},
    {"config", "telemetry"},
    {"ingest", "export", "simulator", "services", "web"},
    {"replay", "store", "bench"},
    {"notebook"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
PURE = ("physics", "core")
NOT_IN_PURE = {"time", "datetime", "random", "uuid", "os", "logging", "asyncio"}
THIRD_PARTY_IN_PHYSICS = {"numpy", "scipy", "numba", "llvmlite", "annotated_types"}
MOST_LINES = 500


class Import(NamedTuple):
    module: str
    name: str
    line: int
    for_types_only: bool


@cache
def files() -> tuple[Path, ...]:
    return tuple(sorted(ROOT.rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str:
    """First part of a module's name within the package: what the layers are made of."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, also those within functions and under TYPE_CHECKING."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for_types = {
        id(node)
        for block in ast.walk(tree(path))
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*above, *([module] if module else [])])
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, id(node) in for_types)


@cache
def modules() -> frozenset[str]:
    return frozenset(dotted(path) for path in files())


def own_imports(path: Path) -> Iterator[Import]:
    """Modules of the package that a file imports; a bare ``__version__`` makes nobody depend on the rest."""
    for it in imports(path):
        if it.module.split(".")[0] != PACKAGE or (it.module, it.name) == (PACKAGE, "__version__"):
            continue
        full = f"{it.module}.{it.name}"
        yield it._replace(module=full) if full in modules() else it


EVERY_FILE = pytest.mark.parametrize("path", files(), ids=label)


@EVERY_FILE
def test_imports_go_downwards_only(path: Path) -> None:
    here = unit(dotted(path))
    assert here in RANK, f"give {here} a place in LAYERS"
    for it in own_imports(path):
        there = unit(it.module)
        assert there == here or RANK[there] < RANK[here], f"{label(path)}:{it.line} imports {it.module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    # What is imported for its type only is not there at run time and cannot be half made.
    targets = {
        dotted(path): {it.module for it in own_imports(path) if not it.for_types_only} for path in files()
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in finished:
            for target in sorted(targets[module] & targets.keys()):
                visit(target, (*trail, module))
            finished.add(module)

    for module in sorted(targets):
        visit(module, ())


@EVERY_FILE
def test_the_pure_layers_know_no_clock_chance_environment_or_logging(path: Path) -> None:
    here = unit(dotted(path))
    if here not in PURE:
        return
    for it in imports(path):
        top = it.module.split(".")[0]
        where = f"{label(path)}:{it.line} imports {it.module}"
        assert top not in NOT_IN_PURE, where
        if here == "physics" and top != PACKAGE:
            known = top in sys.stdlib_module_names or top in THIRD_PARTY_IN_PHYSICS
            assert known, where


@EVERY_FILE
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{label(path)} has {lines} lines: split it by reason to change"


def exported(path: Path) -> list[str] | None:
    """The literal ``__all__`` of a file."""
    for node in tree(path).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if (
            isinstance(target, ast.Name)
            and target.id == "__all__"
            and isinstance(node, ast.Assign | ast.AnnAssign)
        ):
            assert node.value is not None
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


def bound(path: Path) -> tuple[set[str], set[str]]:
    """Names bound at the top level of a file, and those of them that are its own functions and classes."""
    names: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
    return names | own, own


def isort_style(name: str) -> tuple[int, list[tuple[bool, str | int]]]:
    """Order as ruff (RUF022) wants it: CONSTANTS, then Classes, then the others; numbers by value."""
    rank = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    parts = [it for it in re.split(r"(\d+)", name) if it]
    return rank, [(not it.isdigit(), int(it) if it.isdigit() else it) for it in parts]


@EVERY_FILE
def test_all_is_sorted_and_true(path: Path) -> None:
    if path.stem.startswith("_") and path.stem != "__init__":
        return
    names, own = bound(path)
    public = {it for it in own if not it.startswith("_")}
    exports = exported(path)
    if exports is None:
        is_empty = not [node for node in tree(path).body if not isinstance(node, ast.Expr)]
        only_dunders = all(it.startswith("__") for it in names - {"annotations"})
        assert path.name == "__init__.py", f"{label(path)} has no __all__"
        assert is_empty or only_dunders, f"{label(path)} has no __all__"
        return
    # A package may name its modules without importing them.
    submodules = {it.rpartition(".")[2] for it in modules() if it.rpartition(".")[0] == dotted(path)}
    lazy = submodules if path.name == "__init__.py" else set()
    assert set(exports) <= names | lazy, f"{label(path)} exports what it does not have"
    assert public <= set(exports), f"{label(path)} hides {sorted(public - set(exports))}"
    assert exports == sorted(set(exports), key=isort_style)
