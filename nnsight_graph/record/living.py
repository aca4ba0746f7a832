"""Whether the block of an open trace still lives: a recorder whose block is dead does not count as open.

Nobody tells when a block dies: an interrupt may come before the first line of ``__exit__``, an ``__exit__`` may never be called. So it
is looked up, where a trace is in the way of something: where the frame stands that entered the ``with``, or whether anybody still has
what was entered by hand.
"""

from __future__ import annotations

import gc
import sys
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from .control.bodies import stands_inside

if TYPE_CHECKING:
    from .recorder import Recorder

EDGES: set[CodeType] = set()
"""The code of the methods that enter and leave blocks; while one of them runs its block lives."""


def lives(recorder: Recorder) -> bool:
    """Whether the block of a trace is still entered, as far as that can be told at once."""
    block, entered = recorder.block, recorder.mode
    if not recorder.open or block is None:
        return False
    return entered.frame is None or stands_inside(entered.frame, entered.offset) or _at_an_edge(block)


def lives_on(recorder: Recorder) -> bool:
    """The same, for sure: it may take a while."""
    if not lives(recorder):
        return False
    frame = recorder.mode.frame
    if frame is not None and any(other is frame for other in _frames_below(sys._getframe())):
        return True
    gc.collect()
    block = recorder.block
    if not lives(recorder) or block is None:
        return False
    if frame is not None or _at_an_edge(block):
        return True
    # An error that came out of ``__exit__`` before its first line holds the frame, which holds the block.
    return not any(isinstance(one, FrameType) and one.f_code in EDGES for one in gc.get_referrers(block))


def _at_an_edge(block: Any) -> bool:
    """Whether the block is being entered or left, on any thread: what was rewritten runs while it is left."""
    tops = list(sys._current_frames().values())
    return any(frame.f_code in EDGES and frame.f_locals.get("self") is block for top in tops for frame in _frames_below(top))


def _frames_below(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames
