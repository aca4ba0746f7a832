"""What a run puts in place, and takes away again when it ends, however it ends.

The rule: what takes a thing away is noted before the thing is put in place, and may be called again, or for nothing. So an interrupt
may come between any two lines. One that comes at the end of a run, before anything was taken away, leaves that to the next run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType

Undo = list[Callable[[], object]]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.runs: list[Undo] = []


_thread = _Thread()


def undoing(code: CodeType) -> tuple[Undo, list[Undo]]:
    """A new list of what takes things away, and those of all runs of this thread; what runs that are dead have left is taken away.

    Args:
        code: That of the function that runs; it has its list in a variable named ``undo``, and adds it to those of the thread.
    """
    runs = _thread.runs
    if runs:
        runs[:] = _without_dead(runs, code)
    return [], runs


def undo_all(undo: Undo) -> None:
    """Take everything away; what was not can be taken away by another call."""
    while undo:
        undo[-1]()
        undo.pop()


def _without_dead(runs: list[Undo], code: CodeType) -> list[Undo]:
    living, frame = [], sys._getframe()
    above: FrameType | None = frame
    while above is not None:
        if above.f_code is code:
            living.append(id(above.f_locals.get("undo")))
        above = above.f_back
    for undo in runs:
        if id(undo) not in living:
            undo_all(undo)
    return [undo for undo in runs if id(undo) in living]
