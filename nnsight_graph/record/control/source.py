"""Finds the source of a block: from the instruction that enters a ``with`` to its statement."""

from __future__ import annotations

import ast
import dis
import linecache
import re
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

from ...cells import body_of, restore
from ...parsing import parse
from ...reloaded import as_in_file

_WITH = re.compile(r"\s*with\b")
_LOADS = ("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF")
_POSITIONS = sys.version_info >= (3, 11)

Span = tuple[int, int, int, int]
"""Line, last line, column and last column, the columns in bytes of UTF-8."""


class Statement(NamedTuple):
    """A ``with`` statement, with the line numbers of its code.

    Attributes:
        node: The statement.
        item: Which of its items is meant.
        file: The file that its lines are shown in, if it is another than the code's: a cell of a notebook.
        above: How many more lines stand above it there.
        function: What the code is called there, if that is another name.
    """

    node: ast.With
    item: int
    file: str = ""
    above: int = 0
    function: str = ""


def find_statement(code: CodeType, offset: int, module: dict[str, Any]) -> Statement | str:
    """The ``with`` that the instruction at ``offset`` enters, or why it cannot be found."""
    body = body_of(code, anew=True) if code.co_filename[:1] == "<" else None
    if body is not None:
        found = _in_lines(code, offset, body.lines, known=True)
        if found is None:
            return "its cell's text could not be read"
        return Statement(found.node, found.item, body.file, body.above, body.name(code))
    restore(code)
    for _ in range(2):
        lines = linecache.getlines(code.co_filename, module)
        found = _in_lines(code, offset, lines)
        if found is not None:
            return found
        linecache.checkcache(code.co_filename)  # a reloaded module: the cache still has the lines it was loaded from at first
    moved = as_in_file(code) if lines else None
    found = _in_lines(moved, offset, linecache.getlines(code.co_filename)) if moved is not None else None
    if found is not None:
        return found
    return "its source changed after it was loaded" if lines else "the block has no source (exec, stdin)"


def _in_lines(code: CodeType, offset: int, lines: list[str], known: bool = False) -> Statement | None:
    entered = _entered(code, offset)
    first = entered[0][0]
    starts = range(min(first, len(lines)), max(first - 200, code.co_firstlineno, 1) - 1, -1) if _POSITIONS else [first]
    for start in starts:
        if start <= len(lines) and _WITH.match(lines[start - 1]):
            node = parse_statement(lines, start)
            item = _item_of(node, *entered) if node is not None else None
            if node is not None and item is not None:
                return Statement(node, item) if known or _agrees(code, node, lines) else None
    return None


def _entered(code: CodeType, offset: int) -> tuple[Span, int]:
    """Where the instruction stands, and how many that enter a ``with`` come before it at the same place."""
    while code.co_code[offset] == dis.EXTENDED_ARG:  # Python 3.10 says so of an instruction with a long argument
        offset += 2
    spans = [span for at, span in _entries(code) if at <= offset]
    return spans[-1], spans[:-1].count(spans[-1])


def _entries(code: CodeType) -> Iterator[tuple[int, Span]]:
    """The instructions that enter a ``with``."""
    if not _POSITIONS:
        lines = [(start, end, line) for start, end, line in code.co_lines() if line is not None]
        for instruction in dis.get_instructions(code):
            if instruction.opname == "SETUP_WITH":
                line = next(line for start, end, line in lines if start <= instruction.offset < end)
                yield instruction.offset, (line, 0, 0, 0)
        return
    positions: list[Any] = list(code.co_positions())  # type: ignore[attr-defined,unused-ignore]
    if sys.version_info >= (3, 14):  # LOAD_SPECIAL and a call: every item has a place of its own
        yield from ((2 * index, span) for index, span in enumerate(positions) if None not in span)
        return
    enter = dis.opmap["BEFORE_WITH"]
    yield from ((2 * index, span) for index, span in enumerate(positions) if code.co_code[2 * index] == enter and None not in span)


def parse_statement(lines: list[str], start: int) -> ast.With | None:
    """The ``with`` statement on line ``start``, with the line numbers of the file.

    The statement may end before any line that is indented no deeper. If such a line is part of a string or stands in
    brackets, what is before it does not parse; so the first end that parses is the end.
    """
    margin = _indent(lines[start - 1])
    prefix = "if 1:\n" if margin else ""
    for end in range(start, len(lines) + 1):
        if end < len(lines) and not _may_begin_another(lines[end], margin):
            continue
        try:
            tree = parse(prefix + "".join(lines[start - 1 : end]))
        except SyntaxError:
            continue
        statement: ast.stmt = tree.body[0].body[0] if isinstance(tree.body[0], ast.If) else tree.body[0]
        return ast.increment_lineno(statement, start - (2 if margin else 1)) if isinstance(statement, ast.With) else None
    return None


def _indent(line: str) -> int:
    expanded = line.expandtabs()
    return len(expanded) - len(expanded.lstrip())


def _may_begin_another(line: str, margin: int) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#") and _indent(line) <= margin


def _span(node: ast.stmt | ast.expr) -> Span:
    return node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0


def _item_of(node: ast.With, span: Span, rank: int) -> int | None:
    """Which item was entered: by its own place, or by its rank (a ``finally`` is compiled more than once)."""
    if not _POSITIONS or _span(node) == span:
        return rank % len(node.items)
    places = [_span(item.context_expr) for item in node.items]
    return places.index(span) if span in places else None


def _agrees(code: CodeType, node: ast.With, lines: list[str]) -> bool:
    """Whether names and numbers in the bytecode of the block stand where the source has them."""
    last, line = node.end_lineno or node.lineno, 0
    known = _Known(node)
    for instruction in dis.get_instructions(code):
        positions = getattr(instruction, "positions", None)
        line = (positions.lineno or 0) if positions else next(iter(_line_of(instruction)), line)
        if not node.lineno <= line <= last:
            continue
        value = instruction.argval
        text = _text(positions, lines) if positions and positions.col_offset is not None else None
        if instruction.opname in _LOADS and isinstance(value, str) and value.isidentifier() and not known.name(value, text):
            return False
        if instruction.opname == "LOAD_CONST" and type(value) in (int, float) and not known.number(value, text):
            return False
    return True


def _line_of(instruction: dis.Instruction) -> list[int]:
    line = instruction.starts_line
    return [line] if isinstance(line, int) and not isinstance(line, bool) else []


def _text(positions: Any, lines: list[str]) -> str:
    if positions.lineno != positions.end_lineno or positions.lineno > len(lines):
        return ""
    encoded = lines[positions.lineno - 1].encode()
    text: bytes = encoded[positions.col_offset : positions.end_col_offset]
    return text.decode(errors="replace")


class _Known:
    """What the source of a block mentions."""

    def __init__(self, node: ast.With) -> None:
        nodes = list(ast.walk(node))
        self._names = {inner.id for inner in nodes if isinstance(inner, ast.Name)}
        imports = [alias for inner in nodes if isinstance(inner, (ast.Import, ast.ImportFrom)) for alias in inner.names]
        self._imported = bool(imports)
        numbers = [inner.value for inner in nodes if isinstance(inner, ast.Constant) and type(inner.value) in (int, float)]
        self._numbers = {*numbers, *(-number for number in numbers)}  # type: ignore[operator]
        self._folded = any(
            isinstance(inner, ast.BinOp) and isinstance(inner.left, (ast.Constant, ast.UnaryOp, ast.BinOp)) for inner in nodes
        )

    def name(self, name: str, text: str | None) -> bool:
        """Whether a name that is loaded from a place is the one that stands there."""
        head, _, tail = name.rpartition("__")
        written = (name, "__" + tail) if head else (name,)  # mangled by a class, or not
        if name.startswith("__") or name == "AssertionError" or (self._imported and (text or "").lstrip().startswith(("import ", "from "))):
            return True
        if text is None:
            return not self._names.isdisjoint(written)
        return len(text) not in map(len, written) or text in written  # a longer text is what loads it, as `super()` does `self`

    def number(self, value: float, text: str | None) -> bool:
        """Whether a number that is loaded from a place is the one that stands there."""
        if text is None:
            return self._folded or value in self._numbers or (self._imported and value == 0)
        if self._imported and text.lstrip().startswith(("import ", "from ")):  # how deep a relative import goes
            return True
        try:
            tree = parse(text.strip(), mode="eval").body
        except SyntaxError:
            return len(text) == 0 or not text.isprintable()
        if isinstance(tree, ast.Constant):
            return bool(tree.value == value) or type(tree.value) not in (int, float)
        return not isinstance(tree, ast.Name)
