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
    before = [instruction for instruction in dis.get_instructions(code) if instruction.offset <= offset]
    here = before.pop()
    if here.argval == "__class__":
        return here.opname.startswith("LOAD_ATTR")
    if here.opname not in ("CALL", "CALL_FUNCTION", "PRECALL"):  # 3.11 stays on PRECALL once the call is specialised
        return False
    return _callee(before, here.arg or 0) == "isinstance"


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
