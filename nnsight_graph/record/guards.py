"""``if value: raise ...`` and ``assert value`` in functions that a block calls, which are not rewritten.

Python asks whether the value is true, and goes on as if nothing were wrong; that something is, is raised by the run.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import FrameType
from typing import Any

from .control.checks import check_at
from .proxy import Proxy
from .recorder import Recorder
from .regions import emitter_of


def guarded(recorder: Recorder, value: Proxy, frame: FrameType) -> bool | None:
    """Write down what is raised where ``value`` is as it should not be; how it should be. ``None`` where it decides something else."""
    found = check_at(frame.f_code, frame.f_lasti, frame.f_globals, frame.f_locals)
    if found is None:
        return None
    emitter = emitter_of(recorder)
    emitter.begin_if(emitter.call("truth" if found.wrong else "not_", value))
    late = Late(found.error, frame)
    traced = {name: one for name, one in late.names.items() if emitter.traced(one)}
    late.names, late.given = {name: one for name, one in late.names.items() if name not in traced}, list(traced)
    emitter.raise_(late, *traced.values())
    emitter.begin_else()
    emitter.end_if(())
    return not found.wrong


class Late:
    """Makes the error of a check when it is raised, as Python does, from the values of the names in it."""

    given: Sequence[str] = ()

    def __init__(self, error: ast.expr, frame: FrameType) -> None:
        self._text, self._within = ast.unparse(error), frame.f_globals
        self._code = compile(ast.fix_missing_locations(ast.Expression(error)), frame.f_code.co_filename, "eval")
        mentioned = {node.id for node in ast.walk(error) if isinstance(node, ast.Name)}
        self.names = {name: value for name, value in frame.f_locals.items() if name in mentioned}

    def __repr__(self) -> str:
        return self._text

    def __call__(self, *values: Any) -> Any:
        found = eval(self._code, self._within, {**self.names, **dict(zip(self.given, values, strict=True))})
        return found() if isinstance(found, type) else found
