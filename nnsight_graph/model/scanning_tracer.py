"""The block of a scan: evaluated on fake tensors line by line; the model does not run."""

from __future__ import annotations

import sys
import weakref
from functools import partial
from types import FrameType
from typing import Any

from ..errors import RecordError
from ..record import Recording
from ..run.failures import rehearsed
from ..run.likeness import is_plain
from ..run.rehearsal import rehearse
from ..run.scan import Unknown
from ..run.site_values import Failure
from ..run.specs import spec_of
from .rehearsing import CallSource
from .tracer import Tracer


def _at_once(tracer: weakref.ref[ScanningTracer], proxy: Any) -> Any:
    here = tracer()
    return proxy if here is None else here._at_once(proxy)


class ScanningTracer(Tracer):
    """A ``with model.scan(...)`` block: shapes, dtypes and devices of all that the model would compute, without computing it.

    In the block ``.shape``, ``.dtype``, ``.device`` and what is calculated from them are plain values, and stay so after it. A
    line that would fail raises at once what it would raise in a run. Saved tensors are fakes: they have a shape, and no numbers.
    Weights are not needed.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2)))
        >>> with model.scan(torch.rand(1, 5)):
        ...     width = model[0].output.shape[-1]
        >>> width
        10
    """

    __slots__ = ()

    _scans = True

    def _begun(self) -> None:
        self._recorder.scanned = partial(_at_once, weakref.ref(self))
        super()._begun()

    def _at_once(self, proxy: Any) -> Any:
        """A proxy, or the plain value that it stands for."""
        try:
            known, value = self._numbers.measure(proxy._index)
        except Failure as failure:
            raise self._located(failure, sys._getframe(3)) from None
        return value if known and is_plain(value) else proxy

    def _located(self, failure: Failure, frame: FrameType | None) -> BaseException:
        recorder = self._recorder
        recorder.poison = error = rehearsed(failure, Recording(recorder), frame)
        return error

    def _run(self, recording: Recording, saved: dict[int, Any], frame: FrameType) -> BaseException | None:
        call = self._call or self._envoy._joined(self._invokes, self._shared, self._function)
        self._call, self._invokes, self._shapes = None, [], call._replace(args=spec_of(call.args), kwargs=spec_of(call.kwargs))
        source = CallSource(self._envoy, call, guesses=True)
        scan = source.scan(0)
        if scan is None:
            return RecordError("only a forward or a generation can be scanned, not another method of the model")
        if scan.error is not None and not scan.blind:
            return scan.error
        try:
            rehearsal = rehearse(self._envoy._tree.index, source, recording)
        except Failure as failure:
            return rehearsed(failure, recording, frame)
        values = {**dict.fromkeys(saved, Unknown("it was not evaluated")), **rehearsal.values}
        for node, proxy in saved.items():
            if type(values[node]) is not Unknown:
                object.__setattr__(proxy, "_value", values[node])
        unknown = {node: value.reason for node, value in values.items() if type(value) is Unknown}
        self._recorder.reasons = {node: f"a scan cannot know it: {reason}" for node, reason in unknown.items()}
        return None


