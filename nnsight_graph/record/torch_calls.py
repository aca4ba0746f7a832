"""Torch functions while a trace is written: calls on traced values, and calls that draw random numbers."""

from __future__ import annotations

import sys
import weakref
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import RecordError
from ..ops.table import effect_of, is_random, name_of
from ..source_location import caller_is_users
from .gradients import Backward
from .living import lives
from .name import Name
from .recorder import Recorder, holds_proxy, recording_here
from .settled import plain

_FILLED_IN = {"_stacklevel": (3, 5), "out": (None,), "sparse": (False,), "_random_samples": (None,)}
"""Arguments that torch's own functions hand on with their defaults (``F.softmax``, ``F.normalize``, ``F.embedding``): nobody wrote them."""

_REFLECTED = {f".__r{name}__": name for name in ("sub", "truediv", "floordiv", "pow", "mod", "matmul", "add", "mul")}


def record_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call of a torch function, or run it where no trace is open any more."""
    trace = recording_here()
    if trace is None:
        return function(*plain(args), **plain(kwargs))
    if function is torch.autograd.backward:
        Backward(trace, args[0], args[1:], {key: value for key, value in kwargs.items() if value is not None}, 3)
        return None
    name = name_of(function)
    if name is None:
        return trace.proxy("call", (function, Name("mutates:"), *args), kwargs, depth=3)
    if name in _REFLECTED:
        return trace.proxy(_REFLECTED[name], (args[1], args[0]), depth=3)
    if not _FILLED_IN.keys().isdisjoint(kwargs):
        kwargs = {key: value for key, value in kwargs.items() if all(value is not given for given in _FILLED_IN.get(key, ()))}
    made = trace.proxy(name, args, kwargs, depth=3)
    if name in ("setitem", "delitem"):
        return None
    own = effect_of(name).mutates and args and not isinstance(args[0], trace.make)
    return made.save() if own else made  # an edit of the user's own tensor returns that tensor, which stays


def _is_optimizers(frame: FrameType | None) -> bool:
    """Whether a call comes from one of torch's optimizers."""
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_globals.get("__name__", "").startswith("torch.optim."):
            return True
        frame = frame.f_back
    return False


class RecordingMode(TorchFunctionMode):
    """Active while a trace is written; torch hands it every call of its functions.

    What it records belongs to the trace that is open where torch is called.

    Attributes:
        recorder: Who has put it on the stack.
        block: The block that is recorded, held weakly.
        frame, offset: The frame that stands in the block, and where it entered it; ``None`` where that was done by hand.
        skipped: The native body of the block, where that is skipped.
        height: How many modes there are with it.
        grad: Whether gradients were on then.
    """

    __slots__ = ("block", "frame", "grad", "height", "offset", "recorder", "skipped")
    recorder: Recorder
    block: weakref.ref[Any]
    frame: FrameType | None
    offset: int
    skipped: Any
    height: int
    grad: bool

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        trace = recording_here()
        if trace is None or not trace.open:
            return function(*args, **kwargs)
        make = trace.make
        if make in types or holds_proxy(args, make) or (kwargs and holds_proxy(kwargs.values(), make)):
            return record_call(function, args, kwargs)
        if is_random(function) and caller_is_users(1) and lives(trace):
            return record_call(function, args, kwargs)
        if function is torch._C._set_grad_enabled:
            trace.grad_changed = args[0] is not trace.grad
        name = name_of(function)
        if (name or "").endswith("_") and not (name or "").endswith("__") and _is_optimizers(sys._getframe(1)):
            trace.poison = RecordError(
                "an optimizer's step would change the parameters while the trace is written, before the model runs: take it after the block"
            )
            raise trace.poison
        if trace.is_edited(args):
            return record_call(function, args, kwargs)
        if name is not None:
            trace.protect_constants(name, args, kwargs)
        return function(*args, **kwargs)

