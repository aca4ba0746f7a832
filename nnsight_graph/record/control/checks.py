"""Finds the ``if value: raise ...``, or the ``assert value``, that asks whether a value is true."""

from __future__ import annotations

import ast
import dis
import linecache
import re
from collections import deque
from collections.abc import Mapping
from itertools import islice
from types import CodeType
from typing import Any, NamedTuple

from ...cells import body_of
from .source import POSITIONS, agrees, parse_statement

_CHECK = re.compile(r"\s*(if|elif|assert)\b")
_ASKS = ("POP_JUMP", "TO_BOOL", "COMPARE_OP")
_CONTAINERS = (list, tuple, set, frozenset, dict, deque)


class Check(NamedTuple):
    """What a statement raises, and which truth of the value that it asks for is wrong."""

    error: ast.expr
    wrong: bool


def check_at(code: CodeType, offset: int, module: dict[str, Any], names: Mapping[str, Any]) -> Check | None:
    """The check whose instruction at ``offset`` asks for the truth of a value; ``None`` for any other statement."""
    asks = dis.opname[code.co_code[offset]]
    if not asks.startswith(_ASKS):
        return None
    body = body_of(code, anew=True) if code.co_filename[:1] == "<" else None
    lines = linecache.getlines(code.co_filename, module) if body is None else body.lines
    place: Any = next(islice(code.co_positions(), offset // 2, None)) if POSITIONS else None  # type: ignore[attr-defined,unused-ignore]
    line = place[0] if place else next((number for start, end, number in code.co_lines() if start <= offset < end), None)
    for start in range(min(line or 0, len(lines)), max((line or 0) - 30, 1) - 1, -1):
        if _CHECK.match(lines[start - 1]):
            as_if = lines[start - 1].replace("elif", "  if", 1) if lines[start - 1].lstrip().startswith("elif") else lines[start - 1]
            node = parse_statement([*lines[: start - 1], as_if, *lines[start:]], start, (ast.If, ast.Assert))
            known = node is not None and (body is not None or agrees(code, node, lines))
            starts = {(start, len(lines[start - 1]) - len(lines[start - 1].lstrip())), *([] if node is None else _starts(node.test))}
            found = _checked(node) if known and (not place or (place[0], place[2]) in starts) else None
            return found if asks != "COMPARE_OP" or (found is not None and _is_asked_itself(node.test, {**module, **names})) else None
    return None


def _is_asked_itself(test: ast.expr, names: Mapping[str, Any]) -> bool:
    """Whether a comparison, which Python 3.13 asks at once, is no comparison of containers, which asks those of their items."""
    while isinstance(test, ast.UnaryOp):
        test = test.operand
    sides = (test.left, *test.comparators) if isinstance(test, ast.Compare) else ()
    known = [names[side.id] for side in sides if isinstance(side, ast.Name) and side.id in names]
    known += [side.value for side in sides if isinstance(side, ast.Constant)]
    return any(not isinstance(value, _CONTAINERS) for value in known)


def _starts(test: ast.expr) -> list[tuple[int, int]]:
    """Where a test, and what it negates, begin."""
    return [(test.lineno, test.col_offset), *(_starts(test.operand) if isinstance(test, ast.UnaryOp) else ())]


def _asks_more(node: ast.AST) -> bool:
    """Whether a part of a test asks for the truth of other values."""
    chain = isinstance(node, ast.Compare) and len(node.ops) > 1
    return chain or isinstance(node, (ast.BoolOp, ast.IfExp, ast.Lambda)) or (isinstance(node, ast.comprehension) and bool(node.ifs))


def _checked(node: Any) -> Check | None:
    value, wrong = node.test, isinstance(node, ast.If)
    while isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not):
        value, wrong = value.operand, not wrong
    if any(map(_asks_more, ast.walk(value))):
        return None
    if isinstance(node, ast.Assert):
        return Check(ast.Call(ast.Name("AssertionError", ast.Load()), [node.msg] if node.msg else [], []), wrong)
    raised = node.body[0]
    return Check(raised.exc, wrong) if isinstance(raised, ast.Raise) and raised.exc is not None and raised.cause is None else None
