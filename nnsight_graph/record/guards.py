"""``if value: raise ...`` and ``assert value`` in functions that a block calls, which are not rewritten.

Python asks whether the value is true, and goes on as if nothing were wrong; that something is, is raised by the run.
"""

from __future__ import annotations

import ast
from types import CodeType, FrameType
from typing import Any

from .control.checks import check_at
from .proxy import Proxy
from .recorder import Recorder
from .regions import emitter_of


def guarded(recorder: Recorder, value: Proxy, frame: FrameType) -> bool | None:
    """Write down what is raised where ``value`` is as it should not be; how it should be. ``None`` where it decides something else."""
    found = check_at(frame.f_code, frame.f_lasti, frame.f_globals)
    if found is None:
        return None
    emitter = emitter_of(recorder)
    emitter.begin_if(emitter.call("truth" if found.wrong else "not_", value))
    maker = _Maker(emitter, frame)
    try:
        made = maker.made(found.error)
        parts = made.args if isinstance(made, BaseException) else ()
        emitter.raise_(made, *[part for part in parts if emitter.traced(part)])
    except Exception:  # in plain Python nobody would have made it yet
        emitter.raise_(*maker.made_later(found.error))
    emitter.begin_else()
    emitter.end_if(())
    return not found.wrong


class _Maker:
    """Makes the error that a statement raises, with texts that are put together when it is raised."""

    def __init__(self, emitter: Any, frame: FrameType) -> None:
        self._emitter, self._frame = emitter, frame

    def made(self, error: ast.expr) -> Any:
        """The error, or its class."""
        if not isinstance(error, ast.Call) or error.keywords:
            return self._value(error)
        parts = [self._text(part) if isinstance(part, ast.JoinedStr) else self._value(part) for part in error.args]
        return self._value(error.func)(*parts)

    def made_later(self, error: ast.expr) -> tuple[type, ...]:
        """A class whose call makes the error, while the model runs, and the values of names that it is called with."""
        code, names, within = self._code(error), dict(self._frame.f_locals), self._frame.f_globals
        traced = {name: value for name, value in names.items() if self._emitter.traced(value)}

        def make(_kind: type, *values: Any) -> Any:
            found = eval(code, within, {**names, **dict(zip(traced, values, strict=True))})
            return found() if isinstance(found, type) else found

        return type("MadeLater", (Exception,), {"__new__": make}), *traced.values()

    def _code(self, node: ast.expr) -> CodeType:
        return compile(ast.fix_missing_locations(ast.Expression(node)), self._frame.f_code.co_filename, "eval")

    def _value(self, node: ast.expr) -> Any:
        return eval(self._code(node), self._frame.f_globals, self._frame.f_locals)

    def _text(self, node: ast.JoinedStr) -> Any:
        form, values = "", []
        for part in node.values:
            if isinstance(part, ast.FormattedValue) and self._emitter.traced(value := self._value(part.value)):
                kind = f"!{chr(part.conversion)}" if part.conversion >= 0 else ""
                form += f"{{{kind}:{self._value(part.format_spec) if part.format_spec else ''}}}"
                values.append(value)
            else:
                form += self._value(ast.JoinedStr([part])).replace("{", "{{").replace("}", "}}")
        return self._emitter.call(".format", form, *values) if values else form.format()
