"""Which names the lines of a block name, and those of a function: read from their instructions, once."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

from ..control.bodies import body_of

_MOST = 1000


class Named(NamedTuple):
    """What a piece of code names.

    Attributes:
        bound: The names of its own that it binds.
        own: All of them, and those of functions around it that it shares.
        bound_outer: Names of its module, or of its namespace first, that it binds.
        outer: All of them.
        shares: Whether functions share names of its own.
        stores: Whether it assigns to items, ``found[2] = h``.
    """

    bound: tuple[str, ...]
    own: tuple[str, ...]
    bound_outer: tuple[str, ...]
    outer: tuple[str, ...]
    shares: bool
    stores: bool


_known: dict[tuple[int, int | None], tuple[CodeType, Named]] = {}


def names_in(code: CodeType, offset: int | None = None) -> Named:
    """The names in the body of the ``with`` that is entered at ``offset``; without one, in all of the code.

    >>> names_in(compile("a = b", "<text>", "exec"))
    Named(bound=(), own=(), bound_outer=('a',), outer=('b', 'a'), shares=False, stores=False)
    """
    key = id(code), offset
    known = _known.get(key)
    if known is None:
        if len(_known) >= _MOST:
            _known.clear()
        known = _known[key] = code, _names(code, offset)
    return known[1]


def _names(code: CodeType, offset: int | None) -> Named:
    inside = None if offset is None else body_of(code, offset)
    found: dict[tuple[bool, bool, str], None] = {}
    stores = False
    for instruction in dis.get_instructions(code):
        if inside is None or instruction.offset in inside:
            stores = stores or instruction.opname in ("STORE_SUBSCR", "STORE_SLICE")
            for one in _named_by(instruction):
                found[one] = None
    own = dict.fromkeys(name for is_outer, _, name in found if not is_outer)
    outer = dict.fromkeys(name for is_outer, _, name in found if is_outer)
    bound, bound_outer = ([name for is_outer, binds, name in found if binds and is_outer is wanted] for wanted in (False, True))
    return Named(tuple(bound), tuple(own), tuple(bound_outer), tuple(outer), bool(code.co_cellvars or code.co_freevars), stores)


def _named_by(instruction: dis.Instruction) -> Iterator[tuple[bool, bool, str]]:
    """Of each name: whether it is one of the module, whether it is bound, and the name."""
    value = instruction.argval
    if isinstance(value, CodeType):  # a function that is made here
        inner = names_in(value)
        yield from ((False, False, name) for name in value.co_freevars)
        yield from ((True, False, name) for name in inner.outer)
        return
    action, _, place = instruction.opname.partition("_")
    if action not in ("LOAD", "STORE", "DELETE"):
        return
    first = place.split("_")[0]
    if first in ("FAST", "DEREF", "CLOSURE", "CLASSDEREF", "NAME", "GLOBAL", "FROM"):
        outer = first in ("NAME", "GLOBAL")
        binds = [part for part in instruction.opname.split("_") if part in ("LOAD", "STORE", "DELETE")]
        names = value if isinstance(value, tuple) else (value,)
        for kind, name in zip(binds if len(binds) == len(names) else [action] * len(names), names, strict=True):
            if isinstance(name, str):
                yield outer, kind == "STORE", name
