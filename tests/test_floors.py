"""The floors of ARCHITECTURE.md: imports and includes never go up, and never in a circle."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.search(r"## The floors.*?```\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.S)
assert BLOCK
FLOORS = {
    pattern: line.split()[0] for line in BLOCK[1].splitlines() for pattern in line.split()[1:]
}


def floor(path: str) -> str:
    found = {f for pattern, f in FLOORS.items() if fnmatch(path, pattern)}
    assert len(found) == 1, f"{path} stands on {found or 'no floor'} in ARCHITECTURE.md"
    return found.pop()


def sources(folder: str, *endings: str) -> list[Path]:
    return sorted(p for e in endings for p in (ROOT / folder).rglob(f"*{e}"))


def includes() -> dict[str, set[str]]:
    """C files, and the files of ours that each includes."""
    ours = {p.name: str(p.relative_to(ROOT / "src")) for p in sources("src", ".h")}
    graph = {}
    for path in sources("src", ".c", ".h", ".pyx"):
        names = re.findall(r'^#include "([^"]+)"', path.read_text(), re.M)
        names += re.findall(r'^cdef extern from "([^"]+)"', path.read_text(), re.M)
        graph[str(path.relative_to(ROOT / "src"))] = {ours[n] for n in names if n in ours}
    return graph


def module_file(parts: list[str]) -> str | None:
    base = ROOT.joinpath("cnncore", *parts)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if parts and path.exists():
            return str(path.relative_to(ROOT / "cnncore"))
    return None


def imports() -> dict[str, set[str]]:
    """Python modules, and those of ours that each imports at any place."""
    graph = {}
    for path in sources("cnncore", ".py"):
        name = str(path.relative_to(ROOT / "cnncore"))
        package = list(path.relative_to(ROOT / "cnncore").parts[:-1])
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                base += node.module.split(".") if node.module else []
                targets = [module_file([*base, alias.name]) for alias in node.names]
                found |= {t or module_file(base) for t in targets}
        graph[name] = {t for t in found if t and t != name}
    return graph


@pytest.mark.parametrize("graph", [includes(), imports()], ids=["includes", "imports"])
def test_nothing_reaches_up(graph):
    assert len(graph) > 10
    for path, targets in graph.items():
        for target in targets:
            assert floor(target) <= floor(path), f"{path} on {floor(path)} reaches up to {target}"


def test_imports_make_no_circle():
    order = TopologicalSorter(
        {p: {t for t in ts if not t.endswith("__init__.py")} for p, ts in imports().items()}
    )
    assert list(order.static_order())


def test_reference_imports_numpy_and_its_own_floor_only():
    for path in sources("cnncore/reference", ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert "_core" not in ast.dump(node) or not isinstance(
                node, (ast.Import, ast.ImportFrom)
            )
            assert all(n.partition(".")[0] in ("numpy", "importlib", "pkgutil") for n in names)


def test_openmp_lives_in_team_and_tape_alone():
    for path in sources("src", ".c", ".h", ".pyx"):
        if path.name not in ("team.c", "tape.c", "team.h"):
            text = path.read_text()
            assert "#pragma omp" not in text, path
            assert "prange" not in text, path
