"""Skips the native body of a block: an exception at the first instruction after ``__enter__``.

``sys.monitoring`` where there is one and a tool id is free, else opcode tracing of that one frame.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType, FrameType
from typing import Any

_TOOL = "nnsight_graph"
_monitoring: Any = getattr(sys, "monitoring", None)
_lock = threading.Lock()
_armed: dict[int, Skip] = {}  # by the identity of the frame
_tool: int | None = None


class SkipBody(BaseException):
    """Raised where the native body would begin; the block's ``__exit__`` swallows it."""


class Skip:
    """The skipping of the body that ``frame`` is about to begin."""

    __slots__ = ("_opcodes", "_traced", "_tracer", "error", "frame", "monitored")

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.error = SkipBody()
        self.monitored = _monitoring is not None and _monitor(self)
        if not self.monitored:
            self._trace()

    def disarm(self) -> None:
        """Undo whatever was set up; needed whether or not the body was skipped."""
        self.error.__traceback__ = None
        if self.monitored:
            _release(self)
        elif self.frame is not None:
            sys.settrace(self._tracer)
            self.frame.f_trace, self.frame.f_trace_opcodes = self._traced, self._opcodes
            if self._tracer is not None and not hasattr(self._tracer, "__code__"):
                self._tell(sys._getframe(), self._tracer)
        del self.frame

    def _trace(self) -> None:
        frame = self.frame
        self._tracer, self._traced, self._opcodes = sys.gettrace(), frame.f_trace, frame.f_trace_opcodes
        frame.f_trace = self._step
        frame.f_trace_opcodes = True
        sys.settrace(_ignore)

    def _tell(self, below: FrameType | None, tracer: Any) -> None:
        """A tracer in C will see these frames return, so it has to know that they were called."""
        missed = []
        while below is not None and below is not self.frame:
            missed.append(below)
            below = below.f_back
        for frame in reversed(missed):
            frame.f_trace = tracer(frame, "call", None)

    def _step(self, _frame: FrameType, event: str, _argument: Any) -> Any:
        if event in ("line", "opcode"):
            raise self.error
        return self._step


def _ignore(_frame: FrameType, _event: str, _argument: Any) -> None:
    return None


def _monitor(skip: Skip) -> bool:
    global _tool
    with _lock:
        if _tool is None:
            free = [number for number in (4, 3, 5, 2, 1, 0) if _monitoring.get_tool(number) is None]
            if not free:
                return False
            _tool = free[0]
            _monitoring.use_tool_id(_tool, _TOOL)
            _monitoring.register_callback(_tool, _monitoring.events.INSTRUCTION, _instruction)
        _armed[id(skip.frame)] = skip
        _monitoring.set_local_events(_tool, skip.frame.f_code, _monitoring.events.INSTRUCTION)
    return True


def _release(skip: Skip) -> None:
    """Take back the events of the code, and the tool id, with the last that needs them."""
    global _tool
    with _lock:
        if _armed.get(id(skip.frame)) is not skip:
            return
        del _armed[id(skip.frame)]
        code = skip.frame.f_code
        if all(other.frame.f_code is not code for other in _armed.values()):
            _monitoring.set_local_events(_tool, code, 0)
        if not _armed:
            _monitoring.register_callback(_tool, _monitoring.events.INSTRUCTION, None)
            _monitoring.free_tool_id(_tool)
            _tool = None


def _instruction(_code: CodeType, _offset: int) -> None:
    frame = sys._getframe(1)
    skip = _armed.get(id(frame))
    if skip is not None and skip.frame is frame:
        _release(skip)
        raise skip.error
