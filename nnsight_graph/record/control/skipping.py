"""Skips the native body of a block: an exception at the first instruction after ``__enter__``.

``sys.monitoring`` where there is one and a tool id is free, else opcode tracing of that one frame. Whatever is set up is noted before,
and undone in an order in which that can be done again: an interrupt may come between any two lines.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType, FrameType
from typing import Any

_TOOL = "nnsight_graph"
_monitoring: Any = getattr(sys, "monitoring", None)
_lock = threading.RLock()  # held on one line alone: an interrupt between two would leave it held. What is lost meanwhile may be disarmed
_armed: dict[int, Skip] = {}  # by the identity of the frame
_tool: int | None = None


class SkipBody(BaseException):
    """Raised where the native body would begin; the block's ``__exit__`` swallows it."""


class Skip:
    """The skipping of the body that ``frame`` is about to begin, at one of the instructions ``first``."""

    __slots__ = ("_before", "_first", "_raised", "error", "frame", "monitored")

    def __init__(self, frame: FrameType, first: range) -> None:
        self.frame: FrameType | None = frame
        self.error = SkipBody()
        self.monitored = self._raised = False
        self._first = first
        self._before: tuple[Any, Any, bool, int] | None = None

    def arm(self) -> None:
        """From here on the next instruction of the frame raises; :meth:`disarm` is needed from before this call on."""
        self.monitored = _monitoring is not None and _monitor(self)
        if not self.monitored:
            self._trace()

    def disarm(self) -> None:
        """Undo whatever was set up, whether or not the body was skipped; it may be called again."""
        self.error.__traceback__ = None
        frame = self.frame
        if frame is None:
            return
        if _monitoring is not None:
            _release(self)
        if self._before is not None:
            self._restore(frame, *self._before)
            self._before = None
        self.frame = None

    def _restore(self, frame: FrameType, tracer: Any, traced: Any, opcodes: bool, thread: int) -> None:
        if thread == threading.get_ident() and (sys.gettrace() is _ignore or (self._raised and sys.gettrace() is None)):
            sys.settrace(tracer)  # Python takes away what has raised
        if frame.f_trace in (None, self._step):
            frame.f_trace, frame.f_trace_opcodes = traced, opcodes
        if tracer is not None and not hasattr(tracer, "__code__"):
            self._tell(sys._getframe(), tracer)

    def _trace(self) -> None:
        frame = self.frame
        assert frame is not None
        self._before = sys.gettrace(), frame.f_trace, frame.f_trace_opcodes, threading.get_ident()
        frame.f_trace = self._step
        frame.f_trace_opcodes = True
        sys.settrace(_ignore)

    def _tell(self, below: FrameType | None, tracer: Any) -> None:
        """A tracer in C will see these frames return, so it has to know that they were called."""
        missed = []
        while below is not None and below is not self.frame:
            missed.append(below)
            below = below.f_back
        for frame in reversed(missed if below is not None else []):
            frame.f_trace = tracer(frame, "call", None)

    def begins_at(self, offset: int) -> bool:
        """Whether the body begins there; another instruction comes next where an error came out of ``__enter__``."""
        return offset in self._first

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event in ("line", "opcode") and self.begins_at(frame.f_lasti):
            self._raised = True
            raise self.error
        return self._step


def _ignore(_frame: FrameType, _event: str, _argument: Any) -> None:
    return None


def _monitor(skip: Skip) -> bool:
    with _lock: return _monitored(skip)


def _release(skip: Skip) -> None:
    """Take back the events of the code, and the tool id, with the last that needs them."""
    with _lock: return _released(skip)


def _monitored(skip: Skip) -> bool:
    global _tool
    frame = skip.frame
    assert frame is not None
    if _tool is None:
        free = [number for number in (4, 3, 5, 2, 1, 0) if _monitoring.get_tool(number) in (None, _TOOL)]
        if not free:
            return False
        if _monitoring.get_tool(free[0]) is None:  # else an interrupt came while it was given back
            _monitoring.use_tool_id(free[0], _TOOL)
        _monitoring.register_callback(free[0], _monitoring.events.INSTRUCTION, _instruction)
        _tool = free[0]
    _armed[id(frame)] = skip
    _monitoring.set_local_events(_tool, frame.f_code, _monitoring.events.INSTRUCTION)
    return True


def _released(skip: Skip) -> None:
    global _tool
    frame, tool = skip.frame, _tool
    if frame is None or _armed.get(id(frame)) is not skip:
        return
    others = [other for other in _armed.values() if other is not skip]
    if tool is not None:
        if all(other.frame is None or other.frame.f_code is not frame.f_code for other in others):
            _monitoring.set_local_events(tool, frame.f_code, 0)
        if not others:
            _monitoring.register_callback(tool, _monitoring.events.INSTRUCTION, None)
            _tool = None
            _monitoring.free_tool_id(tool)
    del _armed[id(frame)]


def _instruction(_code: CodeType, offset: int) -> None:
    frame = sys._getframe(1)
    skip = _armed.get(id(frame))
    if skip is not None and skip.frame is frame:
        _release(skip)
        if skip.begins_at(offset):
            raise skip.error
