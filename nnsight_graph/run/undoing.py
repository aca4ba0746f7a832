"""What a run puts in place, and takes away again when it ends, however it ends.

The rule: what takes a thing away is noted before the thing is put in place, and may be called again, or for nothing. So an interrupt
may come between any two lines. One that comes at the end of a run, before anything was taken away, leaves that to the next run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from ..ops.running import current

Undo = list[Callable[[], object]]
Begun = tuple[Undo, Any, Any]
"""What takes away what a run has put in place, the run, and the one that went on around it."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.runs: list[Begun] = []


thread = _Thread()
"""The runs of this thread that have not ended."""


def undo_all(undo: Undo) -> None:
    """Take everything away; where that was interrupted, another call does it all again."""
    for take_away in reversed(undo):
        take_away()
    undo.clear()


def leave(undo: Undo, run: Any, before: Any) -> None:
    """End a run, if it has not ended."""
    undo_all(undo)
    if run.gradients is not None:
        run.gradients.forget()
    if current.get() is run:
        current.set(before)


def undo_dead(runs: list[Begun], code: CodeType) -> Any:
    """End the runs that are dead.

    Args:
        runs: Those of the thread.
        code: Of the function that runs; it has its list in a variable named ``undo``.

    Returns:
        The run that goes on.
    """
    living: list[int] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            living.append(id(frame.f_locals.get("undo")))
        frame = frame.f_back
    for begun in reversed(runs):
        if id(begun[0]) not in living:
            leave(*begun)
    runs[:] = [begun for begun in runs if id(begun[0]) in living]
    return current.get()
