"""Whether a block has to be rewritten, and what would forbid it: decided by syntax alone."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from .scopes import jumps, walk

BUILTINS = frozenset("len int float bool str abs min max sum round range enumerate zip sorted reversed any all".split())
CONTAINERS = frozenset("list dict set tuple".split())
_ALWAYS = (ast.Match, ast.If, ast.While, ast.IfExp, ast.BoolOp, ast.Assert, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LITERALS = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Constant)
_SAVED = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp)


def triggers(body: Sequence[ast.AST], scan: bool) -> bool:
    """Whether ``body`` holds syntax that a traced value cannot serve natively."""
    return any(_is_trigger(node, scan) for node in _calls_of_literal_loops_left_out(body))


def _calls_of_literal_loops_left_out(body: Sequence[ast.AST]) -> list[ast.AST]:
    nodes = list(walk(body))
    known = {id(node.iter) for node in nodes if isinstance(node, ast.For) and _is_plain_range(node.iter)}
    return [node for node in nodes if id(node) not in known]


def _is_trigger(node: ast.AST, scan: bool) -> bool:
    if isinstance(node, _ALWAYS):
        return True
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    if isinstance(node, ast.Compare):
        return len(node.ops) > 1 or isinstance(node.ops[0], (ast.In, ast.NotIn))
    if isinstance(node, ast.For):
        return not (isinstance(node.iter, _LITERALS) or _is_plain_range(node.iter) or _is_bounded(node.iter))
    if isinstance(node, ast.With):
        return any(_may_be_steps(item.context_expr) for item in node.items)
    return isinstance(node, ast.Call) and (is_save(node, scan) or (is_call_of(node, BUILTINS) and not _all_constant(node)))


def is_save(node: ast.Call, scan: bool) -> bool:
    """Whether a call is ``X.save()`` that the value itself may not know: of a display, a comprehension, a builtin's result."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "save") or node.args or node.keywords:
        return False
    value = node.func.value
    return scan or isinstance(value, _SAVED) or is_call_of(value, BUILTINS | CONTAINERS)


def is_call_of(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether ``node`` calls one of ``names``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _all_constant(node: ast.Call) -> bool:
    parts = [*node.args, *[keyword.value for keyword in node.keywords]]
    return all(isinstance(part.operand if isinstance(part, ast.UnaryOp) else part, ast.Constant) for part in parts)


def _is_plain_range(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and is_call_of(node, frozenset({"range"})) and _all_constant(node)


def _is_bounded(node: ast.expr) -> bool:
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "iter"):
        return False
    return not isinstance(node.slice, ast.Slice) or node.slice.upper is not None


def _may_be_steps(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Attribute) and node.value.attr == "iter" and not isinstance(node.slice, ast.Constant)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr in ("iter", "all")
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and node.attr == "generated")


def obstacle(body: Sequence[ast.stmt], in_function: bool) -> str:
    """Why ``body`` cannot be rewritten; empty where it can."""
    for node in walk(body):
        if isinstance(node, ast.Return):
            return "the block contains `return`"
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return "the block contains `yield`"
        if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)) or (isinstance(node, ast.comprehension) and node.is_async):
            return "the block contains `await`"
        if isinstance(node, ast.Try) and jumps(node.finalbody):
            return "the block has `break` or `continue` in a `finally`"
        if isinstance(node, ast.While) and any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node.test)):
            return "the condition of a `while` assigns a name"
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return "the block imports `*`"
        if isinstance(node, ast.Global) and not in_function:
            return "the block declares a global"
    return "the block leaves a loop that stands around it" if jumps(body) else ""
