"""Modules whose output is shown as a tuple, whether they return one or a tensor: what code for older versions of a model expects.

Both views are lines of the program, which decide at run time; where a module returns a tuple, nothing changes.
"""

from __future__ import annotations

import sys
from typing import Any

from ..run.specs import Spec
from .envoy import Envoy
from .tree import Scanned

_READ, _WRITE = "passing.as_tuple", "passing.as_passed"


class TupleEnvoy(Envoy):
    """The envoy of such a module."""

    @property
    def output(self) -> Any:
        """What the module returns, as a tuple; assign a tuple, or a tensor, to replace it."""
        return self._read("output")

    @output.setter
    def output(self, value: Any) -> None:
        self._write("output", value)

    nns_output = output

    @property
    def scanned(self) -> Scanned:
        """What the last scan found that the module takes and returns."""
        found = super().scanned
        return found._replace(output=(found.output,)) if isinstance(found.output, Spec) else found

    def _read(self, point: str, call: int = 0) -> Any:
        value = super()._read(point, call)
        if point != "output":
            return value
        trace, site = value._trace, self._sites["output"]._replace(point="shown", call=call)
        known = trace.reads.get(site)
        if known is None:  # one proxy, as of a tuple itself: what is put into it is there under every name
            known = trace.reads[site] = trace.make(trace, trace.put((_READ, value._index), sys._getframe(2)))
        return known

    def _write(self, point: str, value: Any, call: int = 0, depth: int = 5) -> None:
        if point == "output":
            passing = super()._read(point, call)
            trace = passing._trace
            value = trace.make(trace, trace.add(_WRITE, (passing, value), depth=depth - 1))
        super()._write(point, value, call, depth + 1)
