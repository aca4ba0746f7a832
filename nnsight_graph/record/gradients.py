"""``value.grad``, ``loss.backward()`` and ``with loss.backward():`` while a trace is written.

A gradient is a site of a value: it passes when the next backward below runs. Which one that is, is counted.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RecordError
from ..graph import Site
from ..graph.laws import LAWS
from ..ops.table import effect_of
from .name import Name
from .recorder import Recorder

if TYPE_CHECKING:
    from .proxy import Proxy


def gradient_site(proxy: Proxy, depth: int) -> Site:
    """The site of a value's gradient in the next backward; its entry is written where it is named for the first time."""
    recorder = proxy._trace
    if recorder.owner is None:
        raise RecordError(".grad stands in a trace of the session, above the backward that it belongs to")
    index = int(proxy._record_as_operand(recorder))
    key = (index, recorder.backwards)
    known, seen = recorder.gradients.get(key, (None, 0))
    end = len(recorder.entries)
    if known is None or any(_may_edit(recorder.entries, number) for number in range(seen, end)):
        known = Site(f"#{recorder.gradients_named}", "grad", recorder.backwards)
        recorder.gradients_named += 1
    recorder.gradients = recorder.gradients or {}  # not the class's
    recorder.gradients[key] = known, end
    if known not in recorder.reads:
        number = recorder.put(("grad", known, index), sys._getframe(depth))
        recorder.reads[known] = recorder.make(recorder, number)
    return known


def _may_edit(entries: list[tuple[Any, ...]], number: int) -> bool:
    """Whether a line may edit a value in place that is no gradient: then the gradients that are named below are another version's."""
    target, *operands = entries[number]
    if operands and type(operands[0]) is int and entries[operands[0]][0] == "grad":
        return False
    if target in LAWS or target in ("else", "end"):
        return target in ("setattr", "call", "module", "listening")
    effect = effect_of(target)
    out = bool(operands) and type(operands[-1]) is tuple and "out" in operands[-1]
    return bool(effect.mutates or effect.writes or effect.opaque or out)


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


class Retained:
    """A value whose gradient is to be there after the trace, as ``value.grad``."""

    __slots__ = ("_proxy",)

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def refill(self, gradient: Any) -> None:
        """Give the saved tensor its gradient, unless autograd did."""
        value = self._proxy._value
        if isinstance(value, torch.Tensor) and isinstance(gradient, torch.Tensor):
            value.retain_grad()  # else torch warns of what it takes for a mistake
            if value.grad is None:
                value.grad = gradient


def retain(proxy: Proxy) -> None:
    """``value.retain_grad()``: of a view, or of rows, the next backward below brings it."""
    recorder = proxy._trace
    entries, index = recorder.entries, proxy._index
    while entries[index][0] not in LAWS and effect_of(entries[index][0]).mutates and type(entries[index][1]) is int:
        index = entries[index][1]  # an edit in place gives what it has edited
    target = entries[index][0]
    if recorder.invoking if target == "read" else bool(effect_of(target).views or effect_of(target).maybe):
        recorder.retained = (*recorder.retained, proxy)


class Backward:
    """What ``loss.backward(...)`` returns in a trace: as a block, the gradients that are named in it are this backward's."""

    __slots__ = ("_args", "_base", "_indices", "_kwargs", "_number", "_trace")

    def __init__(self, trace: Recorder, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any], depth: int) -> None:
        self._trace, self._base, self._args, self._kwargs = trace, base, args, kwargs
        self._put(depth + 1)

    def _put(self, depth: int) -> None:
        trace = self._trace
        self._keep_retained()
        self._indices = len(trace.indices)
        self._number = trace.add("backward", (Name(str(trace.backwards)), self._base, *self._args), self._kwargs, depth=depth + 1)
        trace.backwards += 1
        trace.forget_steps()

    def _keep_retained(self) -> None:
        """Views have no gradient of their own in the model's graph: what ``retain_grad`` promised them is that slice of the whole's."""
        trace = self._trace
        retained, trace.retained = trace.retained, ()
        for proxy in retained:
            gradient = read_gradient(proxy)
            if gradient._index not in trace.saved:
                trace.saved[gradient._index] = gradient
                trace.put(("save", gradient._index), sys._getframe(3))
            trace.refilled = (*trace.refilled, (Retained(proxy), gradient))

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
