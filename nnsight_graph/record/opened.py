"""How a trace becomes the open one of its thread, and how it ends: what it takes of the thread, and gives back.

Taken are the place of the open recorder, and one on the stack of torch's function modes. What is taken is known before; giving back
looks whether it is there, and can be done again. So an interrupt may come between any two lines: whoever is left then, the block or,
when it is gone, the next one that begins, gives back the rest.
"""

from __future__ import annotations

import sys
import threading
import weakref
from types import FrameType
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack

from ..errors import MisuseError
from ..source_location import locate, user_place
from .contained import keep_contained, there_before
from .control import Block
from .living import lives, lives_on
from .recorder import Recorder, _open, recording_here
from .recording import Recording
from .torch_calls import RecordingMode

_height = torch._C._len_torch_function_stack
_push, _pop = torch._C._push_on_torch_function_stack, torch._C._pop_torch_function_stack


class _Guard:
    """Dies with its thread: torch cannot free a mode that it finds on the stack of a dead one, and would end the process."""

    def __del__(self) -> None:
        if not sys.is_finalizing():
            set_modes([mode for mode in _get_current_function_mode_stack() if type(mode) is not RecordingMode])


class _Thread(threading.local):
    def __init__(self) -> None:
        self.guard = _Guard()


_thread = _Thread()


def begin(recorder: Recorder, block: Any, skipped: Block | None, frame: FrameType | None, caller: FrameType) -> None:
    """Make a recorder that of the open trace.

    Args:
        recorder: A new one.
        block: What ends it. Where nobody has it any more, nobody can: then the trace is closed at once.
        skipped: Its native body, where that will be skipped.
        frame: The frame that is entering a ``with`` statement; ``None`` where the block is entered by hand.
        caller: The frame that enters it.

    Raises:
        RecordError: another one is open.
    """
    __tracebackhide__ = True
    here = recording_here()
    if here is not None:
        _refuse(here)
    height = _height()
    if height:
        _sweep()
        height = _height()
    _ = _thread.guard
    mode = RecordingMode.__new__(RecordingMode)
    mode.recorder, mode.block, mode.frame, mode.offset = recorder, weakref.ref(block, recorder.lost), frame, caller.f_lasti
    mode.skipped, mode.height, mode.grad = skipped, height + 1, torch.is_grad_enabled()
    if frame is None:
        recorder.begun = user_place(caller)
    recorder.mode = mode
    if frame is not None:
        recorder.beside = there_before(frame, caller.f_lasti)
    recorder.open = True
    _open.set(recorder)
    _push(mode)


def end(recorder: Recorder, error: BaseException | None) -> Recording:
    """Close a trace: what it wrote."""
    if error is not None:
        _after_interrupt(recorder, error)
    mode = recorder.mode
    if recorder.beside and error is None and mode.frame is not None:
        keep_contained(recorder, mode.frame, mode.offset)
    recorder.beside = ()
    if _height() == mode.height and recording_here() is recorder:  # as always
        top = _pop()
        if top is mode:
            _open.set(None)
            return recorder.finish()
        _push(top)
    _give_back(recorder)
    return recorder.finish()


def give_up(recorder: Recorder, why: str, error: BaseException | None = None) -> None:
    """Close a trace that will not run; may be called again."""
    if error is not None:
        _after_interrupt(recorder, error)
    _give_back(recorder)
    if recorder.open:
        recorder.forget(why)


def open_here() -> Recorder | None:
    """The recorder of the trace that is being written on this thread, if its block lives."""
    here = recording_here()
    if here is None or lives(here):
        return here
    _bury(here)
    return None


def set_modes(wanted: list[Any]) -> None:
    """Let torch's stack of function modes be this one."""
    present = _get_current_function_mode_stack()
    same = next((place for place, (a, b) in enumerate(zip(present, wanted, strict=False)) if a is not b), min(len(present), len(wanted)))
    for _ in present[same:]:
        _pop()
    for mode in wanted[same:]:
        _push(mode)


def _lost(recorder: Recorder, _block: Any) -> None:
    if not sys.is_finalizing():
        if recorder.mode is not None and recorder.mode.skipped is not None:
            recorder.mode.skipped.disarm()
        give_up(recorder, "its block was lost")


Recorder.lost = _lost


def _after_interrupt(recorder: Recorder, error: BaseException) -> None:
    """A block of torch's in the trace may not have ended, where the interrupt came while the recorder saw its end."""
    mode = recorder.mode
    if mode is not None and not isinstance(error, Exception) and torch.is_grad_enabled() is not mode.grad:
        torch._C._set_grad_enabled(mode.grad)


def _give_back(recorder: Recorder) -> None:
    mode = recorder.mode
    if mode is not None and _height():
        modes = _get_current_function_mode_stack()
        others = [other for other in modes if other is not mode]
        if len(others) < len(modes):
            set_modes(others)
    if recording_here() is recorder:
        _open.set(None)


def _refuse(here: Recorder) -> None:
    """Raise if another trace is open; one whose block is dead is closed."""
    __tracebackhide__ = True
    if not lives_on(here):
        _bury(here)
        return
    text = "a trace is open already, and traces cannot be nested. End its block first; the next can use what it saved."
    if here.mode.frame is None and here.begun is not None:
        text += f" It was entered by hand: {locate(here.begun)}. Call its __exit__(None, None, None), or delete what has it."
    raise MisuseError(text)


def _sweep() -> None:
    """Take away what dead traces have left among the modes of this thread."""
    for mode in _get_current_function_mode_stack():
        if type(mode) is RecordingMode and not lives(mode.recorder):
            _bury(mode.recorder, mode)


def _bury(recorder: Recorder, mode: Any = None) -> None:
    block = recorder.block
    if block is not None and recorder.open:
        block._give_up("its block was left without its end")
    give_up(recorder, "its block was lost")
    if mode is not None:
        set_modes([other for other in _get_current_function_mode_stack() if other is not mode])
    if recording_here() is recorder:
        _open.set(None)
