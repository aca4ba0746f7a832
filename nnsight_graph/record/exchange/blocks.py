"""What is done when a block has ended: its frame's names, then what they reach, then the frame that has used it through a function."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from ...source_location import is_users, known_users
from .frames import OPTIMIZED, change_items, change_names, values_of
from .named import names_in
from .reach import Reach, are_found, change_newest, still_held

_GENERATOR = 0x20  # inspect.CO_GENERATOR
_CONTEXTLIB = contextlib.__file__


def exchange(frame: FrameType, offset: int | None, kinds: frozenset[type], value: Callable[[Any], Any], wanted: list[Any]) -> None:
    """Put values in the place of proxies: in the names of a block's frame, and in what these reach.

    Args:
        frame: The frame that left the block.
        offset: The instruction with which it entered it; ``None`` if no ``with`` of its own did.
        kinds: The types of proxies.
        value: Gives the value of one; itself where there is none, or it is to stay.
        wanted: The proxies that were given a value; a dict has them, too. What is in none of the names is looked for until nobody but
            these two holds any of them.
    """
    code = frame.f_code
    if known_users.get(code.co_filename) and not left:  # as nearly always: the names that the block binds are all
        names = names_in(code, offset)
        if code.co_flags & OPTIMIZED:
            change_names(frame, names.bound, value, kinds, names.shares)
        else:
            change_items(frame.f_locals, names.bound_outer, value, kinds)
        if are_found(wanted):
            return
        for container in values_of(frame, names.own if code.co_flags & OPTIMIZED else names.outer):
            if type(container) is list:  # mostly one, that has been appended to
                change_newest(container, value, kinds)
        container = None
        if are_found(wanted):
            return
    own: FrameType | None = frame
    while own is not None and not is_users(own.f_code):  # contextlib's, which has been given the block
        own, offset = own.f_back, None
    while own is not None:
        if _is_exchanged(own, offset, kinds, value, wanted):
            return
        own, offset = _user_of(own), None
    for proxy in still_held(wanted, {}):
        left[id(proxy)] = weakref.ref(proxy, partial(_forget, id(proxy)))


left: dict[int, Any] = {}
"""Proxies that were not reached, while somebody has them: the names of later blocks are all looked at for them."""


def _forget(key: int, _proxy: Any) -> None:
    left.pop(key, None)


def _is_exchanged(frame: FrameType, offset: int | None, kinds: frozenset[type], value: Any, wanted: list[Any]) -> bool:
    """Exchange in all names of a frame, then in what those reach that the block names; whether that was all."""
    optimized = frame.f_code.co_flags & OPTIMIZED
    names = names_in(frame.f_code, offset)
    if optimized:
        change_names(frame, None, value, kinds, names.shares)
        change_items(frame.f_globals, names.bound_outer, value, kinds)
    else:
        space = frame.f_locals
        change_items(space, list(space) if isinstance(space, dict) else (), value, kinds)
    if not still_held(wanted, {}):
        return True
    reach = Reach(kinds, value, wanted)
    if optimized:
        change_names(frame, names.own, reach.renew, None, names.shares)
    elif frame.f_locals is not frame.f_globals:
        change_items(frame.f_locals, names.outer, reach.renew)
    change_items(frame.f_globals, names.outer, reach.renew)
    reach.run()
    return not reach.is_left()


def _user_of(frame: FrameType) -> FrameType | None:
    """The frame of the ``with`` whose context manager is a generator with this frame."""
    back = frame.f_back
    if not frame.f_code.co_flags & _GENERATOR or back is None or back.f_code.co_filename != _CONTEXTLIB:
        return None
    while back is not None and back.f_code.co_filename == _CONTEXTLIB:
        back = back.f_back
    return back if back is not None and is_users(back.f_code) else None
