#!/usr/bin/env python3
"""Prints the sizes of a package and fails where they are over the budget: files, functions, import cycles, names that say nothing."""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FILE_MAX, FILE_MEDIAN, FUNCTION_MAX, FUNCTION_MEDIAN, INNER_MAX = 400, 150, 60, 8, 21300
LEAVES = ("huggingface", "remote", "view")
EMPTY_NAMES = frozenset({"utils", "util", "helpers", "helper", "manager", "base", "mixin", "core", "misc", "hacks", "common"})
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported name: `from a.b import c` is target `a.b.c` from source `a.b`; `import a.b` is `a.b` from `a.b`."""

    target: str
    source: str
    line: int
    in_function: bool
    for_types_only: bool


@dataclass(frozen=True)
class Function:
    """A function of a module with its length in lines, docstring left out."""

    name: str
    line: int
    length: int


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    relative: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def code(self) -> int:
        """Lines of code: docstrings and blank lines left out, as in the length of a function."""
        owners = [n for n in ast.walk(self.tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        documented = [n.body[0] for n in owners if ast.get_docstring(n, clean=False) is not None]
        return sum(1 for line in self.text.splitlines() if line.strip()) - sum(
            1 for d in documented for line in self.text.splitlines()[d.lineno - 1 : d.end_lineno] if line.strip()
        )

    @property
    def is_leaf(self) -> bool:
        return self.relative.parts[0] in LEAVES

    @property
    def package(self) -> str:
        return self.name if self.relative.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def functions(self) -> list[Function]:
        return [Function(n.name, n.lineno, length(n)) for n in ast.walk(self.tree) if isinstance(n, FunctionNode)]

    @cached_property
    def imports(self) -> list[Import]:
        return list(imports_below(self.tree, self.package, in_function=False, for_types_only=False))


def read_package(root: Path) -> dict[str, Module]:
    """All modules of the package in the folder `root`, by dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path.relative_to(root), path.read_text(encoding="utf-8"))
    return found


def length(function: FunctionNode) -> int:
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return total
    doc = function.body[0]
    return total - ((doc.end_lineno or doc.lineno) - doc.lineno + 1)


def imports_below(node: ast.AST, package: str, in_function: bool, for_types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for target, source in imported_names(child, package):
                yield Import(target, source, child.lineno, in_function, for_types_only)
        elif isinstance(child, ast.If) and is_type_checking(child.test):
            yield from imports_below(ast.Module(child.body, []), package, in_function, True)
            yield from imports_below(ast.Module(child.orelse, []), package, in_function, for_types_only)
        else:
            yield from imports_below(child, package, in_function or isinstance(child, FunctionNode), for_types_only)


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def imported_names(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, alias.name) for alias in node.names)
        return
    source = node.module or ""
    if node.level:
        above = package.split(".")[: package.count(".") + 2 - node.level]
        source = ".".join([*above, source] if source else above)
    yield from ((f"{source}.{alias.name}", source) for alias in node.names)


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Which module imports which as it is loaded; imports in functions or for types alone do not count."""
    graph: dict[str, set[str]] = {}
    for name, module in modules.items():
        now = [i for i in module.imports if not (i.in_function or i.for_types_only)]
        graph[name] = {i.target if i.target in modules else i.source for i in now} & modules.keys() - {name}
    return graph


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972, doi:10.1137/0201010)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in index:
            visit(name)
    return [component for component in found if len(component) > 1]


def figures(modules: Mapping[str, Module]) -> str:
    """The two lines of figures that `make size` begins with."""
    sizes = [m.lines for m in modules.values()]
    lengths = sorted(f.length for m in modules.values() for f in m.functions) or [0]
    inner = sum(m.code for m in modules.values() if not m.is_leaf)
    hidden = len({(m.name, i.line) for m in modules.values() for i in m.imports if i.in_function and not i.for_types_only})
    return (
        f"{len(sizes)} files, {sum(sizes)} lines ({inner} of code outside {', '.join(LEAVES)}); "
        f"file median {statistics.median(sizes):.0f}, max {max(sizes)}\n"
        f"{len(lengths)} functions: median {statistics.median(lengths):.0f}, p90 {lengths[int(len(lengths) * 0.9) - 1]}, "
        f"max {lengths[-1]}; imports hidden in functions: {hidden}"
    )


def faults(modules: Mapping[str, Module]) -> list[str]:
    """What is over the budget, a line each."""
    return [*faults_of_files(modules), *faults_of_functions(modules), *faults_of_the_whole(modules)]


def faults_of_files(modules: Mapping[str, Module]) -> Iterator[str]:
    for m in modules.values():
        if m.lines > FILE_MAX:
            yield f"file over {FILE_MAX} lines: {m.relative} ({m.lines})"
        if EMPTY_NAMES & {m.relative.stem, *m.relative.parts[:-1]}:
            yield f"name says nothing: {m.relative}"


def faults_of_functions(modules: Mapping[str, Module]) -> Iterator[str]:
    long = [(f.length, m.relative, f) for m in modules.values() for f in m.functions if f.length > FUNCTION_MAX]
    for size, path, f in sorted(long, key=lambda row: -row[0]):
        yield f"function over {FUNCTION_MAX} lines: {path}:{f.line} {f.name} ({size})"


def faults_of_the_whole(modules: Mapping[str, Module]) -> Iterator[str]:
    lengths = [f.length for m in modules.values() for f in m.functions] or [0]
    inner = sum(m.code for m in modules.values() if not m.is_leaf)
    for cycle in cycles(import_graph(modules)):
        yield f"import cycle: {' -> '.join(cycle)}"
    if statistics.median(m.lines for m in modules.values()) > FILE_MEDIAN:
        yield f"median file over {FILE_MEDIAN} lines"
    if statistics.median(lengths) > FUNCTION_MEDIAN:
        yield f"median function over {FUNCTION_MEDIAN} lines"
    if inner > INNER_MAX:
        yield f"over {INNER_MAX} lines of code outside {', '.join(LEAVES)}: {inner}"


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 within the budget, 1 over it, 2 where there is no package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", nargs="?", default="nnsight_graph", type=Path, help="folder of the package")
    parser.add_argument("--all", action="store_true", help="list every fault, not the first twelve")
    options = parser.parse_args(arguments)
    modules = read_package(options.package.resolve())
    if not modules:
        print(f"no Python files under {options.package}")
        return 2
    print(figures(modules))
    broken = faults(modules)
    for row in broken if options.all else broken[:12]:
        print("  " + row)
    if len(broken) > 12 and not options.all:
        print(f"  and {len(broken) - 12} more (--all)")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
