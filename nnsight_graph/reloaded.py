"""Functions whose lines are no longer those of their file: it was saved anew while they were loaded, or reloaded in part.

IPython's ``%autoreload`` compiles each function that changed by itself, without comments and with lines that count from 1. What the
function does stands in its file all the same: there is a function whose bytecode is the same, and that one has the lines of the file.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

_compiled: dict[str, tuple[Any, CodeType | None]] = {}
_MOST = 100
_FLAGS = 0xFFFF  # flags but for those of `from __future__`, which a function that is compiled by itself lacks


def as_in_file(code: CodeType) -> CodeType | None:
    """The code of the same function as its file has it now; ``None`` where the file says something else."""
    whole = _whole(code)
    found = [] if whole is None else [inner for inner in _inner(whole) if _does_the_same(inner, code)]
    named = [inner for inner in found if _qualified(inner) == _qualified(code)]
    return next(iter([*named, *found]), None)


def with_lines_of_file(code: CodeType) -> CodeType:
    """The same where ``%autoreload`` is in use; else, and where nothing is found, ``code`` itself."""
    if "IPython.extensions.autoreload" not in sys.modules or code.co_filename[:1] == "<" or code.co_name == "<module>":
        return code
    return as_in_file(code) or code


def _whole(code: CodeType) -> CodeType | None:
    """The code of a whole file, as it is now."""
    file = code.co_filename
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    known = _compiled.get(file)
    if known is None or known[0] is not lines:
        if len(_compiled) >= _MOST:
            _compiled.clear()
        try:
            known = lines, compile("".join(lines), file, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            known = lines, None
        _compiled[file] = known
    return known[1]


def _inner(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner(constant)


def _qualified(code: CodeType) -> str:
    return code.co_qualname if sys.version_info >= (3, 11) else code.co_name


def _does_the_same(one: CodeType, other: CodeType) -> bool:
    """Whether two codes are equal but for where they stand."""
    return (
        one.co_name == other.co_name
        and one.co_code == other.co_code
        and one.co_flags & _FLAGS == other.co_flags & _FLAGS
        and (one.co_argcount, one.co_posonlyargcount, one.co_kwonlyargcount)
        == (other.co_argcount, other.co_posonlyargcount, other.co_kwonlyargcount)
        and (one.co_names, one.co_varnames, one.co_freevars, one.co_cellvars)
        == (other.co_names, other.co_varnames, other.co_freevars, other.co_cellvars)
        and len(one.co_consts) == len(other.co_consts)
        and all(map(_is_the_same, one.co_consts, other.co_consts))
    )


def _is_the_same(one: Any, other: Any) -> bool:
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return _does_the_same(one, other)
    return type(one) is type(other) and repr(one) == repr(other)  # 0.0 and -0.0 are equal
