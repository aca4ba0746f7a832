"""Whether it is Python code that asks for an object's class.

``isinstance(x, torch.Tensor)`` in Python should hold for a proxy that stands for a tensor. But torch's own C code asks the
same question and then reads the object's memory as a tensor's: ``torch.tensor(proxy)`` would end the process. Both come
by ``__class__``; what tells them apart is the instruction that the calling frame stands on.
"""

from __future__ import annotations

import dis
from types import CodeType, FrameType

_known: dict[tuple[CodeType, int], bool] = {}
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_FAST", "LOAD_BUILTIN")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "MATCH_CLASS")
_SILENT = ("CACHE", "PRECALL", "KW_NAMES", "PUSH_NULL", "EXTENDED_ARG")


def asks_for_class(frame: FrameType) -> bool:
    """Whether ``frame`` stands on a call of ``isinstance``, or on an access to ``__class__``."""
    key = (frame.f_code, frame.f_lasti)
    known = _known.get(key)
    if known is None:
        known = _known[key] = _stands_on_question(*key)
    return known


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


def _callee(before: list[dis.Instruction], depth: int) -> str | None:
    """The name that was loaded below the ``depth`` arguments of a call."""
    for instruction in reversed(before):
        if instruction.opname in _SILENT:
            continue
        if depth == 0:
            return str(instruction.argval) if instruction.opname in _LOADS else None
        depth -= dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        if depth < 0:
            return None
    return None
