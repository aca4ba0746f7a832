"""Where a node was written: kept as (code, instruction) while recording, turned into file and line when asked for."""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import linecache
import sys
import sysconfig
import weakref
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple

from .cells import body_of, cell_name
from .parsing import parse
from .reloaded import with_lines_of_file

Place = tuple[CodeType, int]
"""A code object and the offset of an instruction in it: cheap to take, decoded only when somebody reads it."""

_PASS = compile("pass", "<no file>", "exec")
_AT = next(start for start, _, line in _PASS.co_lines() if line == 1)
_PACKAGE = str(Path(__file__).resolve().parent) + "/"
_PATHS = sysconfig.get_paths()
_FOREIGN = (_PACKAGE, *(str(Path(_PATHS[key]).resolve()) + "/" for key in ("stdlib", "platstdlib", "purelib", "platlib")))
known_users: dict[str, bool] = {}
"""What :func:`is_users` has found out, by file; hot paths look here first."""



class Location(NamedTuple):
    """A line of source: ``file``, ``line`` (from 1), the ``function`` it stands in."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return self._said(f"{Path(self.file).name}:{self.line}")

    @property
    def address(self) -> str:
        """The place with the whole path of the file: ``/work/a.py:2``; of a notebook, ``Cell In[5], line 2``."""
        return self._said(f"{self.file}:{self.line}")

    @property
    def full(self) -> str:
        """The same for a sentence: ``line 2 of /work/a.py``; of a notebook, ``Cell In[5], line 2``."""
        return self._said(f"line {self.line} of {self.file}")

    def _said(self, in_file: str) -> str:
        """The place in a file, or how IPython says it."""
        cell = cell_name(self.file)
        return f"{cell}, line {self.line}" if cell else in_file

    @property
    def named(self) -> Location:
        """The same place, which says what it is called in a notebook also where that notebook is not known."""
        cell = cell_name(self.file)
        return self._replace(file=cell) if cell else self

    @property
    def text(self) -> str:
        """The line itself, stripped; empty where there is no source."""
        return linecache.getline(self.file, self.line).strip()


def is_users(code: CodeType) -> bool:
    """Whether ``code`` is the user's own: outside the standard library, site-packages and this package."""
    return is_users_file(code.co_filename)


def is_users_file(name: str) -> bool:
    """The same, of all that is in a file."""
    known = known_users.get(name)
    if known is None:
        if len(known_users) > 10_000:
            known_users.clear()
        foreign = name.startswith("<frozen") or (name[:1] not in "<" and str(Path(name).resolve()).startswith(_FOREIGN))
        known = known_users[name] = not foreign and "site-packages" not in name
    return known


def user_place(frame: FrameType | None) -> Place:
    """The nearest place at or above ``frame`` that is the user's own; ``frame``'s own place if there is none."""
    first = frame
    while frame is not None and not is_users(frame.f_code):
        frame = frame.f_back
    found = frame or first
    assert found is not None
    return found.f_code, found.f_lasti


def locate(place: Place) -> Location:
    """File and line of a place."""
    code, offset = with_lines_of_file(place[0]), place[1]
    file, above, function = _shown_in(code)
    return Location(file, _line(code, offset) + above, function)


def _shown_in(code: CodeType) -> tuple[str, int, str]:
    """The file that the lines of ``code`` are shown in, how many lines stand above them there, and the function's name."""
    body = body_of(code) if code.co_filename[:1] == "<" else None
    if body is None:
        return code.co_filename, 0, code.co_name
    return body.file, body.above, body.name(code)


def _line(code: CodeType, offset: int) -> int:
    for start, end, number in code.co_lines():
        if start <= offset < end and number is not None:
            return number
    return code.co_firstlineno


def place_of(location: Location) -> Place:
    """A place on a line whose code is not there: in another process, or of a program from a file.

    >>> locate(place_of(Location("a.py", 7, "f")))
    Location(file='a.py', line=7, function='f')
    """
    return _PASS.replace(co_filename=location.file, co_firstlineno=location.line, co_name=location.function), _AT


def traceback_at(place: Place, frame: FrameType | None) -> TracebackType | None:
    """A traceback of one entry that stands on ``place``.

    The line's own frame has gone on: it stands at the end of the block, and some tools ask it and not the traceback. So the entry
    holds a stand-in that ended on the line, with the file, the function's name and its variables, where they are still there.
    """
    code, location = place[0], locate(place)
    while frame is not None and frame.f_code is not code:
        file, _, function = _shown_in(frame.f_code)
        if (file, function) == (location.file, location.function):
            break  # the block was rewritten: `code` has its lines, `around` is the code that it stands in
        frame = frame.f_back
    failing = _failing_code(place, location, code if frame is None else frame.f_code)
    try:
        exec(failing, *([{}] if frame is None else [frame.f_globals, _variables(frame)]))
    except ZeroDivisionError:
        traceback = sys.exc_info()[2]
        return traceback.tb_next if traceback else None
    return None


def _variables(frame: FrameType) -> Any:
    """A frame's variables; those of a function as they are now."""
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return frame.f_locals
    kept = frame.f_locals
    now = dict(kept)
    if sys.version_info < (3, 13):
        kept.clear()  # the frame would hold these values as long as it runs; whoever asks it again gets them anew
    return now


def _failing_code(place: Place, location: Location, around: CodeType) -> CodeType:
    """Code that fails at once, on the line and the columns of a place, in a function that begins where ``around`` does."""
    tree = parse("def stand_in():\n    0 / 0")
    line, last, column, end = _span(place, location)
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr)):
            node.lineno, node.end_lineno, node.col_offset, node.end_col_offset = line, last, column, end
    in_function = location.function != "<module>"
    around = with_lines_of_file(around)
    tree.body[0].lineno = around.co_firstlineno + _shown_in(around)[1] if in_function else 1
    outer = compile(tree, location.file, "exec", dont_inherit=True)
    made = next(constant for constant in outer.co_consts if isinstance(constant, CodeType))
    names: dict[str, Any] = {"co_name": location.function}
    if sys.version_info >= (3, 11):
        names["co_qualname"] = around.co_qualname if in_function else location.function
    flags = made.co_flags & ~(inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS)  # its variables are those that it is given
    return made.replace(co_flags=flags, co_consts=(*made.co_consts, place[0]), **names)  # holds what holds its lines: see lines_of


def _span(place: Place, location: Location) -> tuple[int, int, int, int]:
    """First and last line, first and last column (in bytes) of what failed; the whole line where that is not known."""
    code, offset = with_lines_of_file(place[0]), place[1]
    if sys.version_info >= (3, 11) and code.co_code != _PASS.co_code:
        line, last, column, end = next(islice(code.co_positions(), offset // 2, None))
        if line is not None and last is not None and column is not None and end is not None:
            return location.line, location.line + last - line, column, end
    text = linecache.getline(location.file, location.line)
    return location.line, location.line, len(text) - len(text.lstrip()), len(text.rstrip().encode())


class _Lines:
    """Lines of a file that is not there."""

    def __init__(self, file: str, texts: Sequence[str]) -> None:
        entry = (sum(map(len, texts)), None, [f"{text}\n" for text in texts], file)
        linecache.cache[file] = entry
        weakref.finalize(self, _forget, file, entry).atexit = False


def _forget(file: str, entry: tuple[Any, ...]) -> None:
    if linecache.cache.get(file) is entry:
        del linecache.cache[file]


_known_lines: weakref.WeakValueDictionary[str, _Lines] = weakref.WeakValueDictionary()


def lines_of(name: str, texts: Sequence[str]) -> list[Place]:
    """A place for each line of a text that is in no file; errors on them show the line, in a file of that name.

    `linecache` has the text only as long as one of the places, or a traceback that stands on one, is there.

    >>> places = lines_of("steps", ["first", "second"])
    >>> locate(places[1]).text
    'second'
    """
    file = f"<{name} {hashlib.sha256(chr(10).join(texts).encode(errors='replace')).hexdigest()[:8]}>"  # two files may have one name
    known = _known_lines.get(file)
    if known is None:
        known = _known_lines[file] = _Lines(file, texts)
    return [(_PASS.replace(co_filename=file, co_firstlineno=line, co_consts=(None, known)), _AT) for line in range(1, len(texts) + 1)]


def caller_is_users(depth: int) -> bool:
    """Whether the frame ``depth`` above the caller is the user's own code."""
    frame: FrameType = sys._getframe(depth + 1)
    return is_users(frame.f_code)


def assigned_name(place: Place) -> str | None:
    """The variable that the value made at a place is assigned to at once, or that it stood in; ``None`` if there is none.

    >>> code = compile("logits = save(x)", "<line>", "exec")
    >>> calls = [i.offset for i in dis.get_instructions(code) if i.opname.startswith("CALL")]
    >>> assigned_name((code, calls[-1]))
    'logits'
    """
    code, offset = place
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PRECALL", "PUSH_NULL", "EXTENDED_ARG")]
    place_ = next((number for number, i in enumerate(steps) if i.offset > offset), len(steps))
    following = steps[place_] if place_ < len(steps) else None
    if following is None:
        return None
    if following.opname == "POP_TOP":  # a statement: save(x), x.save()
        before = steps[place_ - 2] if place_ > 1 and steps[place_ - 1].arg == 1 else None
        if place_ > 2 and steps[place_ - 1].arg == 0 and steps[place_ - 2].opname in ("LOAD_METHOD", "LOAD_ATTR"):
            before = steps[place_ - 3]
        if before is None or not before.opname.startswith(("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF", "STORE_FAST_LOAD_FAST")):
            return None
        return _plain_name(before.argval[-1] if isinstance(before.argval, tuple) else before.argval)
    if not following.opname.startswith("STORE_") or following.opname in ("STORE_SUBSCR", "STORE_ATTR"):
        return None
    return _plain_name(following.argval[0] if isinstance(following.argval, tuple) else following.argval)  # 3.13 stores and loads in one


def _plain_name(name: Any) -> str | None:
    """A name that a person wrote: those of rewritten code begin with a sign."""
    return name if isinstance(name, str) and name.isidentifier() else None
