"""Whether it is Python code that asks for an object's class.

``isinstance(x, torch.Tensor)`` in Python should hold for a proxy that stands for a tensor. But torch's own C code asks the
same question and then reads the object's memory as a tensor's: ``torch.tensor(proxy)`` would end the process. Both come
by ``__class__``; what tells them apart is the instruction that the calling frame stands on.
"""

from __future__ import annotations

import dis
from types import CodeType, FrameType

_known: dict[tuple[CodeType, int], bool] = {}
_sizes: dict[tuple[CodeType, int], bool] = {}
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_FAST", "LOAD_BUILTIN")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "MATCH_CLASS")
_NAMES = (*_LOADS, "LOAD_ATTR", "LOAD_METHOD")
_CALLS = ("CALL", "CALL_FUNCTION", "CALL_METHOD", "CALL_KW", "CALL_FUNCTION_KW", "PRECALL")
_SILENT = ("CACHE", "PRECALL", "KW_NAMES", "PUSH_NULL", "EXTENDED_ARG")


def asks_for_class(frame: FrameType) -> bool:
    """Whether ``frame`` stands on a call of ``isinstance``, or on an access to ``__class__``."""
    key = (frame.f_code, frame.f_lasti)
    known = _known.get(key)
    if known is None:
        known = _known[key] = _stands_on_question(*key)
    return known


_TAKES_SIZES = frozenset("zeros ones empty rand randn new_zeros new_ones new_empty expand view repeat resize_".split())
"""What takes sizes one by one, ``torch.zeros(rows, tokens)``, and never a traced tensor first.

Torch's parser asks the first of them what it is, and takes whatever has torch functions of its own for all of them.
"""


def asks_for_size(frame: FrameType) -> bool:
    """Whether ``frame`` stands on a call of a torch function that takes sizes one by one."""
    key = (frame.f_code, frame.f_lasti)
    known = _sizes.get(key)
    if known is None:
        before = [instruction for instruction in dis.get_instructions(frame.f_code) if instruction.offset <= frame.f_lasti]
        here = before.pop()
        unpacked = here.opname == "CALL_FUNCTION_EX"
        depth = 1 + ((here.arg or 0) & 1) if unpacked else (here.arg or 0) + (here.opname in ("CALL_KW", "CALL_FUNCTION_KW"))
        known = _sizes[key] = (unpacked or here.opname in _CALLS) and _callee(before, depth, _NAMES) in _TAKES_SIZES
    return known


def unpacks(frame: FrameType, count: int) -> bool:
    """Whether the ``with`` that ``frame`` is entering has as many names behind its ``as``."""
    after = (each for each in dis.get_instructions(frame.f_code) if each.offset > frame.f_lasti and each.opname not in _SILENT)
    here = next(after, None)
    while here is not None and here.opname in ("CALL", "NOT_TAKEN", "SETUP_WITH"):
        here = next(after, None)
    return here is not None and here.opname == "UNPACK_SEQUENCE" and here.arg == count


def dispatches(frame: FrameType) -> bool:
    """Whether ``frame`` is of a library that treats whatever says that it is a tensor by torch functions alone: einops."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "einops"


def _stands_on_question(code: CodeType, offset: int) -> bool:
    return asked_by(code, offset) in ("isinstance", "__class__")


def asked_by(code: CodeType, offset: int) -> str | None:
    """What asks an object for an attribute at an instruction: the attribute in the text, or the function that is called there."""
    before = [instruction for instruction in dis.get_instructions(code) if instruction.offset <= offset]
    here = before.pop()
    if here.opname not in ("CALL", "CALL_FUNCTION", "PRECALL"):  # 3.11 stays on PRECALL once the call is specialised
        return str(here.argval) if here.opname.startswith(_ATTRIBUTES) else None
    return _callee(before, here.arg or 0)


def _callee(before: list[dis.Instruction], depth: int, loads: tuple[str, ...] = _LOADS) -> str | None:
    """The name that was loaded below the ``depth`` arguments of a call."""
    for instruction in reversed(before):
        if instruction.opname in _SILENT:
            continue
        if depth == 0:
            return str(instruction.argval) if instruction.opname in loads else None
        depth -= dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        if depth < 0:
            return None
    return None
