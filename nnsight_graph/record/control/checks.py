"""Finds the ``if value: raise ...``, or the ``assert value``, that asks whether a value is true."""

from __future__ import annotations

import ast
import dis
import linecache
import re
from itertools import islice
from types import CodeType
from typing import Any, NamedTuple

from ...cells import body_of
from .source import POSITIONS, agrees, parse_statement

_CHECK = re.compile(r"\s*(if|elif|assert)\b")
_ASKS = ("POP_JUMP", "TO_BOOL", "UNARY_NOT")


class Check(NamedTuple):
    """What a statement raises, and which truth of the value that it asks for is wrong."""

    error: ast.expr
    wrong: bool


def check_at(code: CodeType, offset: int, module: dict[str, Any]) -> Check | None:
    """The check whose instruction at ``offset`` asks for the truth of a value; ``None`` for any other statement."""
    if not dis.opname[code.co_code[offset]].startswith(_ASKS):
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
            return _checked(node) if known and (not place or (place[0], place[2]) in starts) else None
    return None


def _starts(test: ast.expr) -> list[tuple[int, int]]:
    """Where a test, and what it negates, begin."""
    return [(test.lineno, test.col_offset), *(_starts(test.operand) if isinstance(test, ast.UnaryOp) else ())]


def _checked(node: Any) -> Check | None:
    value, wrong = node.test, isinstance(node, ast.If)
    while isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not):
        value, wrong = value.operand, not wrong
    if isinstance(value, (ast.BoolOp, ast.IfExp)) or (isinstance(value, ast.Compare) and len(value.ops) > 1):
        return None  # it asks for several values
    if isinstance(node, ast.Assert):
        return Check(ast.Call(ast.Name("AssertionError", ast.Load()), [node.msg] if node.msg else [], []), wrong)
    raised = node.body[0]
    return Check(raised.exc, wrong) if isinstance(raised, ast.Raise) and raised.exc is not None and raised.cause is None else None
