#!/usr/bin/env python3
"""Prints how the source is built, in figures: modules and lines, import cycles, names that stand twice, small files,
long functions. `tools/structure.py [--check] [DIRECTORY …]`; the packages of core/ and proxy/ without one. With --check
(`make lint`) it prints instead what breaks a bound, and exits with 1 if anything does.

A package here is what stands right below a root package (`holdfast.fill`, `holdfast.config`). Imports count as the
interpreter makes them when a module is read (run time), and with those below TYPE_CHECKING and inside functions
besides (all)."""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "core/holdfast_core", ROOT / "proxy/holdfast")
SMALL_LINES = 60
NAMED = 12
ALL_KINDS = {"run time", "type checking", "function"}

#: bounds of the check
FOLDER_MODULES, SMALL_SHARE, MEDIAN_LINES, FUNCTION_LINES = 15, 0.15, 8, 50
#: file names that several packages may have: two sides of one thing, or a role that each package fills for itself
SHARED_FILES = frozenset(
    {
        "__init__",
        "__main__",
        "context",  # what the parts of a package work with
        "errors",  # of the store, of the proxy
        "events",  # operation of the admin API, and the verb that shows it; so the next three
        "outbox",
        "settings",
        "status",
    }
)
#: who may import inside a function, and why
LATE_IMPORTS = {
    "holdfast.cli": "a verb imports what it needs when it runs: `holdfast --version` reads none of it",
    "holdfast.process": "without a parent the keeper does without aiohttp: 10 MB, and a third of its start",
    "holdfast.endpoint.dispatch": "a node without children does without the gateway",
    "holdfast.endpoint.gateway.messages": "what synchronisation remembers is read where a managed node is asked",
    "holdfast.admin.listener": "the table of operations, and what it needs, is read with the first request",
    "holdfast.storage.least_budget": "the supervisor refuses by it and reads no store",
    "holdfast.config_file": "the command line reads the keys without the rules that check them",
}

Graph = Mapping[str, set[str]]


class Import(NamedTuple):
    """A module that another one imports. `kind`: "run time", "type checking" or "function"."""

    target: str
    kind: str


class Module(NamedTuple):
    """One file, read."""

    name: str
    folder: str
    tree: ast.Module
    lines: int
    is_package: bool

    def classes(self) -> list[str]:
        """Names of the public classes."""
        found = (node.name for node in self.tree.body if isinstance(node, ast.ClassDef))
        return [name for name in found if not name.startswith("_")]

    def functions(self) -> list[tuple[int, str]]:
        """(lines, place) of each function, also of those in classes and functions."""
        return [
            ((node.end_lineno or 0) - node.lineno + 1, f"{self.name}.{node.name}")
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]


def modules(packages: Iterable[Path]) -> list[Module]:
    """All modules below these directories, by dotted name."""
    found = []
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            parts = file.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = file.read_text("utf-8")
            is_package, lines = parts[-1] in ("__init__", "__main__"), len(text.splitlines())
            found.append(Module(name, ".".join(parts[:-1]), ast.parse(text), lines, is_package))
    return found


def imports(module: Module, known: set[str]) -> Iterator[Import]:
    """What it imports of the known modules."""
    for node, kind in _statements(module.tree.body, "run time"):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names]
        )
        for name in names:
            target = name if name in known else name.rpartition(".")[0]
            if target in known:
                yield Import(target, kind)


def _statements(body: Iterable[ast.AST], kind: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, kind
            continue
        inner = kind
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inner = "type checking"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = "function"
        yield from _statements(ast.iter_child_nodes(node), inner)


def package_of(name: str) -> str:
    """The package right below the root that a module is in, or the module itself when it stands there."""
    return ".".join(name.split(".")[:2])


def cycles(graph: Graph) -> list[list[str]]:
    """Sets of nodes that reach each other (Tarjan), the largest first."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return sorted(found, key=len, reverse=True)


def graph_of(rows: Iterable[tuple[str, str]]) -> Graph:
    """Edges as a graph, without those of a node to itself."""
    graph: dict[str, set[str]] = defaultdict(set)
    for source, target in rows:
        if source != target:
            graph[source].add(target)
    return graph


def repeated(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that stand in several places, with these."""
    places: dict[str, set[str]] = defaultdict(set)
    for name, place in names:
        places[name].add(place)
    return {name: sorted(where) for name, where in places.items() if len(where) > 1}


class Figures(NamedTuple):
    """What is counted. `edges` are (importer, imported, kind)."""

    modules: list[Module]
    edges: list[tuple[str, str, str]]
    classes: dict[str, list[str]]
    files: dict[str, list[str]]
    folders: Counter[str]
    small: int
    functions: list[tuple[int, str]]

    def cycles_of(self, kinds: set[str], node: Callable[[str], str] = str) -> list[list[str]]:
        """Cycles among what `node` makes of the names of modules."""
        return cycles(graph_of((node(a), node(b)) for a, b, kind in self.edges if kind in kinds))


def figures(packages: Iterable[Path]) -> Figures:
    """Everything that is counted, of all modules below these directories."""
    read = modules(packages)
    known = {module.name for module in read}
    plain = [module for module in read if not module.is_package]
    return Figures(
        read,
        [(module.name, *row) for module in read for row in imports(module, known)],
        repeated((name, module.name) for module in read for name in module.classes()),
        repeated((module.name.rpartition(".")[2], module.name) for module in plain if "." in module.name),
        Counter(module.folder for module in plain),
        sum(module.lines < SMALL_LINES for module in plain),
        sorted((row for module in read for row in module.functions()), reverse=True),
    )


def report(found: Figures) -> Iterator[str]:
    """The figures, a line each."""
    yield f"modules: {len(found.modules)}, lines: {sum(module.lines for module in found.modules)}"
    for title, kinds in (("run time", {"run time"}), ("all imports", ALL_KINDS)):
        by_package, by_module = found.cycles_of(kinds, package_of), found.cycles_of(kinds)
        yield f"cycles of packages, {title}: {[len(one) for one in by_package]}" + _first(by_package)
        yield f"cycles of modules, {title}: {[len(one) for one in by_module]}" + _first(by_module)
    counted = Counter(kind for *_, kind in found.edges)
    yield f"imports below TYPE_CHECKING: {counted['type checking']}, in functions: {counted['function']}"
    classes = sum(len(module.classes()) for module in found.modules)
    yield f"public classes: {classes}; {_shown('names in several modules', found.classes)}"
    yield _shown("module names in several packages", found.files)
    yield f"modules below {SMALL_LINES} lines: {found.small} ({found.small / len(found.modules):.0%})"
    most = ", ".join(f"{name} {count}" for name, count in found.folders.most_common(5))
    yield f"modules in a folder, most: {most}"
    lengths = [lines for lines, _ in found.functions]
    yield f"functions: {len(lengths)}, lines at the median: {statistics.median(lengths)}, at most: {max(lengths)}"


def complaints(found: Figures) -> Iterator[str]:
    """What breaks a bound, a sentence each."""
    for cycle in found.cycles_of(ALL_KINDS, package_of) + found.cycles_of({"run time"}):
        yield f"import each other: {', '.join(cycle)}"
    for name, places in found.classes.items():
        yield f"class {name} stands in {', '.join(places)}; give each a name of its own"
    for name, places in found.files.items():
        if name not in SHARED_FILES:
            yield f"{', '.join(places)} have one file name; give each its own"
    for folder, count in found.folders.items():
        if count > FOLDER_MODULES:
            yield f"{folder} has {count} modules; at most {FOLDER_MODULES}"
    for source in sorted({source for source, _, kind in found.edges if kind == "function"}):
        if not any(source == name or source.startswith(f"{name}.") for name in LATE_IMPORTS):
            yield f"{source} imports inside a function; do it at the top, or say in LATE_IMPORTS why not"
    if found.small > SMALL_SHARE * len(found.modules):
        share = found.small / len(found.modules)
        yield f"{share:.1%} of the modules have under {SMALL_LINES} lines; at most {SMALL_SHARE:.0%}"
    if (
        found.functions
        and (median := statistics.median(lines for lines, _ in found.functions)) > MEDIAN_LINES
    ):
        yield f"functions have {median} lines at the median; at most {MEDIAN_LINES}"
    for lines, place in found.functions:
        if lines > FUNCTION_LINES:
            yield f"{place} has {lines} lines; at most {FUNCTION_LINES}"


def _first(found: list[list[str]]) -> str:
    return f"; the largest: {' '.join(found[0])}" if found else ""


def _shown(what: str, found: dict[str, list[str]]) -> str:
    most = sorted(found, key=lambda name: (-len(found[name]), name))[:NAMED]
    return f"{what}: {len(found)}" + (
        f" ({', '.join(f'{n} {len(found[n])}' for n in most)})" if found else ""
    )


def main(arguments: list[str]) -> int:
    """Exit code: 1 when a bound is broken."""
    found = figures([Path(one) for one in arguments if one != "--check"] or PACKAGES)
    lines = list(complaints(found) if "--check" in arguments else report(found))
    print(*lines, sep="\n", end="\n" if lines else "")
    return int("--check" in arguments and bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
