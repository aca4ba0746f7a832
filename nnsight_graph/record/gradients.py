"""``value.grad``, ``loss.backward()`` and ``with loss.backward():`` while a trace is written.

A gradient is a site of a value: it passes when the next backward below runs. Which one that is, is counted.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..graph import Site
from .recorder import Name, Recorder

if TYPE_CHECKING:
    from .proxy import Proxy


def gradient_site(proxy: Proxy, depth: int) -> Site:
    """The site of a value's gradient in the next backward; its entry is written where it is named for the first time."""
    recorder = proxy._trace
    if recorder.owner is None:
        raise RecordError(".grad stands in a trace of the session, above the backward that it belongs to")
    index = int(proxy._record_as_operand(recorder))
    key = (index, recorder.backwards)
    known = recorder.gradients.get(key)
    if known is None:
        known = Site(f"#{len(recorder.gradients)}", "grad", recorder.backwards)
        recorder.gradients = {**recorder.gradients, key: known}
    if known not in recorder.reads:
        number = recorder.put(("grad", known, index), sys._getframe(depth))
        recorder.reads[known] = recorder.make(recorder, number)
    return known


def read_gradient(proxy: Proxy) -> Any:
    """``value.grad`` in an open trace."""
    return proxy._trace.reads[gradient_site(proxy, 3)]


def write_gradient(proxy: Proxy, value: Any) -> None:
    """``value.grad = ...`` in an open trace: what flows on from there."""
    recorder = proxy._trace
    site = gradient_site(proxy, 3)
    recorder.write(site, recorder.owner, value, 4)
    if site not in recorder.reads:  # what is read below is what was written
        recorder.reads[site] = recorder.make(recorder, recorder.put(("grad", site, int(proxy._index)), sys._getframe(2)))


class Backward:
    """What ``loss.backward(...)`` returns in a trace: as a block, the gradients that are named in it are this backward's."""

    __slots__ = ("_args", "_base", "_indices", "_kwargs", "_number", "_trace")

    def __init__(self, trace: Recorder, base: Proxy, args: tuple[Any, ...], kwargs: dict[str, Any], depth: int) -> None:
        self._trace, self._base, self._args, self._kwargs = trace, base, args, kwargs
        self._put(depth + 1)

    def _put(self, depth: int) -> None:
        trace = self._trace
        self._indices = len(trace.indices)
        self._number = trace.add("backward", (Name(str(trace.backwards)), self._base, *self._args), self._kwargs, depth=depth + 1)
        trace.backwards += 1
        trace.forget_steps()

    def __enter__(self) -> Backward:
        trace = self._trace
        if not trace.open or len(trace.entries) - 1 != self._number:
            raise RecordError("with loss.backward(): is entered where it is written, once")
        trace.entries.pop()
        trace.places.pop()
        del trace.indices[self._indices :]
        trace.backwards -= 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None:
            self._put(1)
