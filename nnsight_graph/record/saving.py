"""``value.save()``: keep a value beyond its trace."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from ..errors import MisuseError, ours
from ..source_location import user_place

if TYPE_CHECKING:
    from .proxy import Proxy


_BINDS = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:(?:\*\*|//|>>|<<|[-+*/%&|^@])=|=\s*[-+\w'\"]+\s*$)")
"""A line that gives a name another value, and has no place for ``.save()``."""


def not_saved(merged: str, line: str) -> str:
    """Why a value that is not there was not saved, and what to write.

    Args:
        merged: The name that it is the value of below a branch or a loop, if it is one.
        line: Where it was recorded.

    >>> not_saved("", "count += 1")
    'it was not saved: write nnsight.save(count) below that line, in the block'
    """
    if merged:
        return f"{merged} has its value from this branch or loop, and was not saved: write nnsight.save({merged}) below it, in the block"
    if ".save()" in line:
        return "what was saved is a part of the line: .save() comes before operators, write (...).save()"
    if bound := _BINDS.match(line):
        return f"it was not saved: write nnsight.save({bound[1]}) below that line, in the block"
    return "it was not saved: add .save() to the line"


class Saving:
    """What ``value.save`` is: to be called. It has no attributes, so that whoever forgets the parentheses is told."""

    __slots__ = ("_proxy",)

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def __call__(self, name: str = "") -> Proxy:
        """Keep the value beyond the trace.

        Args:
            name: What it is called where the graph is run again; by default like the variable that it is assigned to.

        Returns:
            The proxy itself.

        Raises:
            RecordError: the trace is over.
        """
        proxy = self._proxy
        trace = proxy._trace
        if not trace.open:
            raise MisuseError("this trace is over: .save() belongs inside its block")
        if proxy._index not in trace.saved or trace.emitter is not None:  # the first may stand in a branch
            trace.saved.setdefault(proxy._index, proxy)
            trace.put(("save", proxy._index), sys._getframe(1))
            if trace.emitter is not None:
                trace.emitter.keep_variable(proxy, sys._getframe(1))
        elif not name:
            trace.again = (*trace.again, (proxy._index, user_place(sys._getframe(1))))
        if name:
            trace.names = {**trace.names, proxy._index: (*trace.names.get(proxy._index, ()), str(name))}
        return proxy

    def __getattr__(self, name: str) -> Any:
        raise ours(AttributeError, f"this is .save without parentheses: it keeps nothing, and has no {name!r}. Write .save()")

    def __repr__(self) -> str:
        return "<.save without parentheses, which keeps nothing: write .save()>"
