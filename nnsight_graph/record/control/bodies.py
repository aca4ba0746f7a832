"""Which instructions are the body of a ``with`` statement: whether a frame that entered one is still in it."""

from __future__ import annotations

import dis
import sys
from bisect import bisect_right
from types import CodeType, FrameType

_BLOCKS = sys.version_info < (3, 11)  # blocks are pushed and popped by instructions; later there is a table of handlers
_SPECIAL = sys.version_info >= (3, 14)  # __enter__ is loaded, then called as any function is


def enters_with(code: CodeType, offset: int) -> bool:
    """Whether the instruction at ``offset`` enters a ``with``: otherwise ``__enter__`` was called by somebody's own hand.

    Args:
        code: The code of a frame.
        offset: Its ``f_lasti`` while ``__enter__`` runs.
    """
    name = dis.opname[code.co_code[_whole(code, offset)]]
    if _SPECIAL:
        return name == "CALL" and offset >= 2 and dis.opname[code.co_code[offset - 2]] == "LOAD_SPECIAL"
    return name == ("SETUP_WITH" if _BLOCKS else "BEFORE_WITH")


def first_of(code: CodeType, offset: int) -> range:
    """Where the body begins of the ``with`` that is entered at ``offset``: its first instruction, from what extends its argument on."""
    offset = _whole(code, offset)
    first = next(instruction.offset for instruction in dis.get_instructions(code) if instruction.offset > offset)
    return range(first, _whole(code, first) + 1)


def stands_inside(frame: FrameType, offset: int) -> bool:
    """Whether ``frame``, which may run or wait, is in the body of the ``with`` that it entered at ``offset``."""
    return frame.f_lasti in body_of(frame.f_code, offset)


def body_of(code: CodeType, offset: int) -> frozenset[int]:
    """The instructions of the body of the ``with`` that is entered at ``offset``, but for what extends their arguments."""
    key = id(code), offset
    known = _bodies.get(key)
    if known is None:
        if len(_bodies) >= _MOST:
            _bodies.clear()
        known = _bodies[key] = code, _body(code, offset)
    return known[1]


_MOST = 1000
_bodies: dict[tuple[int, int], tuple[CodeType, frozenset[int]]] = {}
"""What was found out, with the code, so that its identity stays its own: to compare codes takes longer."""


def _whole(code: CodeType, offset: int) -> int:
    """The instruction itself, where Python 3.10 names what extends its argument."""
    while code.co_code[offset] == dis.EXTENDED_ARG:
        offset += 2
    return offset


def _body(code: CodeType, offset: int) -> frozenset[int]:
    first = first_of(code, offset).start
    return _by_blocks(code, first) if _BLOCKS else _by_table(code, first)


def _by_table(code: CodeType, first: int) -> frozenset[int]:
    """All that an error leads from, handler by handler, to the handler of the ``with``."""
    entries = sorted((entry.start, entry.end, entry.target) for entry in dis.Bytecode(code).exception_entries)  # type: ignore[attr-defined,unused-ignore]
    starts = [start for start, _, _ in entries]

    def handler(at: int) -> int:
        place = bisect_right(starts, at) - 1
        return entries[place][2] if place >= 0 and at < entries[place][1] else -1

    own, found = handler(first), set()
    for at in range(0, len(code.co_code), 2):
        passed, handles = {at}, handler(at)
        while handles not in (-1, own) and handles not in passed:
            passed.add(handles)
            handles = handler(handles)
        if handles == own != -1:
            found.add(at)
    return frozenset(found)


def _by_blocks(code: CodeType, first: int) -> frozenset[int]:
    """All that can be reached before the block that the ``with`` has pushed is popped."""
    instructions = {instruction.offset: instruction for instruction in dis.get_instructions(code)}
    waiting, found = [(first, 1)], set()
    while waiting:
        at, depth = waiting.pop()
        if depth < 1 or at in found or at not in instructions:
            continue
        found.add(at)
        name, target = instructions[at].opname, instructions[at].argval
        pushes = name in ("SETUP_FINALLY", "SETUP_WITH", "SETUP_ASYNC_WITH")
        if pushes or instructions[at].opcode in dis.hasjabs or instructions[at].opcode in dis.hasjrel:
            waiting.append((target, depth + pushes))  # a handler has a block of its own until POP_EXCEPT
        if name not in ("RETURN_VALUE", "RAISE_VARARGS", "RERAISE", "JUMP_ABSOLUTE", "JUMP_FORWARD"):
            waiting.append((at + 2, depth + pushes - (name in ("POP_BLOCK", "POP_EXCEPT"))))
    return frozenset(found)
