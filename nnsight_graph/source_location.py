"""Where a node was written: kept as (code, instruction) while recording, turned into file and line when asked for."""

from __future__ import annotations

import dis
import hashlib
import linecache
import sys
import sysconfig
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple

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
        return f"{Path(self.file).name}:{self.line}"

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
    code, offset = place
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end and number is not None:
            line = number
            break
    return Location(code.co_filename, line, code.co_name)


def place_of(location: Location) -> Place:
    """A place on a line whose code is not there: in another process, or of a program from a file.

    >>> locate(place_of(Location("a.py", 7, "f")))
    Location(file='a.py', line=7, function='f')
    """
    return _PASS.replace(co_filename=location.file, co_firstlineno=location.line, co_name=location.function), _AT


def traceback_at(place: Place, frame: FrameType | None) -> TracebackType | None:
    """A traceback of one entry that stands on ``place``.

    The entry holds the user's own frame where that is still there (so a debugger shows its variables), else a
    stand-in with the same file, line and function name.
    """
    code, offset = place
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    location = locate(place)
    if frame is not None:
        return TracebackType(None, frame, offset, location.line)
    return _stand_in(location, code)


def _stand_in(location: Location, place: CodeType) -> TracebackType | None:
    code = compile("\n" * (location.line - 1) + "raise ValueError", location.file, "exec")
    try:
        exec(code.replace(co_name=location.function), {"place": place})  # so its lines, see lines_of, live as long as the traceback
    except ValueError:
        traceback = sys.exc_info()[2]
        return traceback.tb_next if traceback else None
    return None


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
