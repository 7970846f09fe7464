"""Who may import whom, read from the source: nothing that runs only sometimes escapes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("store", "monofs_fuse", "vmm")


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module(path): path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imports(name: str, source: str, *, at_start_only: bool = False) -> Iterator[str]:
    """Yield all that a module imports, inside functions too, as full names: `from a import b` gives a and a.b."""
    tree = ast.parse(source)
    for statement in _at_start(tree) if at_start_only else ast.walk(tree):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            package = name.split(".")[: -statement.level] if statement.level else []
            base = ".".join([*package, *filter(None, [statement.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in statement.names)


def _at_start(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_start(child)


def importers(package: str, *, at_start_only: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (module, what it imports) for the modules of a package."""
    for name, source in SOURCES.items():
        if name.split(".")[0] == package:
            yield from ((name, found) for found in imports(name, source, at_start_only=at_start_only))


def forbidden(package: str, *others: str, at_start_only: bool = False) -> list[str]:
    return [
        f"{name} imports {found}"
        for name, found in importers(package, at_start_only=at_start_only)
        if found.split(".")[0] in others
    ]


def cycle(package: str) -> list[str] | None:
    """Return modules of a package that import each other in a circle."""
    graph: dict[str, set[str]] = {}
    for name, found in importers(package):
        graph.setdefault(name, set())
        if found in SOURCES and found != name and found.split(".")[0] == package and found != package:
            graph[name].add(found)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found_cycle: list[str] = error.args[1]
        return found_cycle
    return None


def test_the_source_was_found() -> None:
    assert {"store.tree", "store.lmdb_store", "monofs_fuse.ops", "vmm"} <= SOURCES.keys()
    assert ("store.ledger", "store.tables.Tables") in set(importers("store"))


def test_the_store_knows_nobody_above_it() -> None:
    assert forbidden("store", "trio", "pyfuse3", "monofs_fuse", "vmm", "asyncio") == []


def test_the_store_starts_fast() -> None:
    """These take longer to import than most commands take to run."""
    assert forbidden("store", "multiformats", "dag_cbor", "rich", "importlib", "unittest", at_start_only=True) == []


def test_the_store_says_neither_async_nor_await() -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor)
    found = [
        f"{name}:{node.lineno}"
        for name, source in SOURCES.items()
        if name.startswith("store.")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, waiting)
    ]
    assert found == []


def test_a_virtual_machine_knows_only_a_directory() -> None:
    assert forbidden("vmm", "monofs_fuse", "store", "pyfuse3") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_imports_in_a_circle(package: str) -> None:
    assert cycle(package) is None


# The checks themselves


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b\nfrom c import d as e\ndef f():\n    from . import g\nclass H:\n    from ..i import j\n"
    assert set(imports("p.q.r", source)) == {"a.b", "c", "c.d", "p.q", "p.q.g", "p.i", "p.i.j"}
    assert set(imports("p.q.r", source, at_start_only=True)) == {"a.b", "c", "c.d", "p.i", "p.i.j"}


def test_a_circle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"p.a": "import p.b", "p.b": "def f():\n  from p import c", "p.c": "from p.a import x", "p.d": "import p.a"}
    for name, source in made.items():
        monkeypatch.setitem(SOURCES, name, source)
    assert set(cycle("p") or ()) == {"p.a", "p.b", "p.c"}
    monkeypatch.setitem(SOURCES, "p.c", "from q.a import x")
    assert cycle("p") is None
    assert forbidden("p", "q") == ["p.c imports q.a", "p.c imports q.a.x"]
