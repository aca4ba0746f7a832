"""Which names a piece of a block stores, which containers it changes, which jumps leave it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

MUTATORS = frozenset(
    "append extend insert pop remove clear sort reverse add discard update setdefault popitem appendleft popleft extendleft"
    " intersection_update difference_update symmetric_difference_update".split()
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def walk(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of the block's own scope, in order: not what functions, classes and lambdas in it hold."""
    for node in nodes:
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield from walk(ast.iter_child_nodes(node))


def _in_comprehensions(nodes: Iterable[ast.AST]) -> set[int]:
    """The targets of comprehensions, by identity: names of a scope of their own."""
    found: set[int] = set()
    for node in walk(nodes):
        if isinstance(node, ast.comprehension) or hasattr(node, "inner"):  # a loop that was one
            found.update(id(inner) for inner in ast.walk(node.target))  # type: ignore[attr-defined]
    return found


def stored(nodes: Iterable[ast.AST]) -> list[str]:
    """The names that ``nodes`` bind or delete, each once."""
    nodes = list(nodes)
    hidden = _in_comprehensions(nodes)
    names: dict[str, None] = {}
    for node in walk(nodes):
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load) and id(node) not in hidden:
                names[node.id] = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names[node.name] = None
        elif isinstance(node, ast.alias):
            names[(node.asname or node.name).partition(".")[0]] = None
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            names.update({node.name: None} if node.name else {})
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names[node.rest] = None
    return list(names)


def rebound_by_functions(nodes: Iterable[ast.AST]) -> list[str]:
    """Names that functions defined in ``nodes`` declare nonlocal or global: any line may call them."""
    inner = (node for top in nodes for node in ast.walk(top) if isinstance(node, (ast.Nonlocal, ast.Global)))
    return list(dict.fromkeys(name for node in inner for name in node.names))


def mutated(nodes: Iterable[ast.AST]) -> list[str]:
    """Names whose value ``nodes`` may change in place, functions defined there included."""
    names: dict[str, None] = {}
    for node in (inner for top in nodes for inner in ast.walk(top)):
        changed: ast.AST | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            changed = node.func.value
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            changed = node.value
        elif isinstance(node, ast.AugAssign):
            changed = node.target
        if isinstance(changed, ast.Name):
            names[changed.id] = None
    return list(names)


def walruses(node: ast.AST) -> list[str]:
    """The names that assignment expressions in ``node`` bind."""
    return list(dict.fromkeys(n.target.id for n in walk([node]) if isinstance(n, ast.NamedExpr)))


def jumps(nodes: Iterable[ast.AST]) -> set[type[ast.AST]]:
    """The kinds of jumps, ``ast.Break`` and ``ast.Continue``, that leave ``nodes`` for a loop around them."""
    found: set[type[ast.AST]] = set()
    for node in nodes:
        if isinstance(node, (ast.Break, ast.Continue)):
            found.add(type(node))
        elif isinstance(node, _LOOPS):
            found |= jumps(node.orelse)
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.expr)):
            found |= jumps(ast.iter_child_nodes(node))
    return found
